"""Runs models in whatever onnxruntime is installed, with and without the native library.

Alone in its interpreter: it imports nothing of ours, for old versions need environments without
torch. Prints one JSON object: the version, and for each model whether the native operator was
called, and the largest error of it and of the body relative to the expected output.

Run it:  python ort_probe.py LIBRARY FOLDER     (FOLDER as `tests.support.ort_matrix` writes it)
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


def main(library: str, folder: str) -> None:
    """Probe all models of a folder."""
    native = ctypes.CDLL(library)
    native.sparsify_ort_calls.restype = ctypes.c_int64
    rows: dict[str, dict[str, Any]] = {}
    for path in sorted(Path(folder).glob("*.onnx")):
        row = rows[path.stem] = {}
        for kind in ("native", "body"):
            before = native.sparsify_ort_calls()
            row[kind] = _outcome(path, library if kind == "native" else "")
            row[f"{kind}_calls"] = native.sparsify_ort_calls() - before
    print(json.dumps({"version": onnxruntime.__version__, "models": rows}))


def _outcome(path: Path, library: str) -> float | str:
    try:
        return _error(path, library)
    except Exception as error:  # onnxruntime's exceptions share no base class
        return " ".join(str(error).split())[:160]


def _error(path: Path, library: str) -> float:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 2
    if library:
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    worst = 0.0
    cases = np.load(path.with_suffix(".npz"))
    for name in (name for name in cases if name.startswith("x")):
        expected = cases["y" + name[1:]].astype(np.float64)
        (y,) = session.run(None, {session.get_inputs()[0].name: cases[name]})
        worst = max(worst, float(np.abs(y - expected).max() / np.abs(expected).max()))
    return worst


if __name__ == "__main__":
    main(*sys.argv[1:])
