"""The native operators in many versions of onnxruntime: is it called, is it right?

Makes an environment for each version in a folder, where there is none yet, which takes pip and an
index of packages; then prints a table. `body` in the first column says that the version runs the
bodies with the library registered.

Run it:  python -m tests.support.ort_matrix FOLDER [VERSION ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import nn

import sparsify as sp
from sparsify.fabric import Fabric
from sparsify.topology import build
from tests.support.fabrics import dense_matrix, random_factors
from tests.support.onnx_models import between_casts, body_model, typed
from tests.support.onnx_nets import GRAPHS, MONARCH, ODD

__all__ = ["VERSIONS", "probe", "write_models"]

VERSIONS = ("1.16.3", "1.17.3", "1.20.1", "1.23.2", "1.26.0", "1.31.1")

Array = npt.NDArray[Any]

_ROWS = (1, 2, 7, 1033)
_FABRICS: dict[str, Fabric] = {
    "monarch": MONARCH,
    "odd": ODD,
    "graphs": GRAPHS,
    "wide": build("monarch", 256, 256, {"blocks": 16}),
}


def write_models(folder: Path) -> None:
    """Write models of one fabric each, with inputs and what the dense matrix makes of them."""
    random = np.random.default_rng(0)
    _write_net(folder, random)
    for name, fabric in _FABRICS.items():
        for kind in ("float32", "float16", "float64", "bfloat16"):
            factors = typed(random_factors(fabric), kind)
            model = body_model(fabric, factors, 2)
            outer = "float32" if kind == "bfloat16" else kind
            onnx.save(
                between_casts(model) if kind == "bfloat16" else model,
                folder / f"{name}-{kind}.onnx",
            )
            dense = dense_matrix(fabric, [torch.from_numpy(f.astype(np.float64)) for f in factors])
            inputs = [random.standard_normal((n, fabric.in_features)).astype(outer) for n in _ROWS]
            _write_cases(
                folder / f"{name}-{kind}.npz",
                [(x, x.astype(np.float64) @ dense.T) for x in inputs],
            )


def _write_net(folder: Path, random: np.random.Generator) -> None:
    """What the exporter writes: layers whose results no one has named."""
    net = nn.Sequential(*(sp.nn.FabricLinear(fabric) for fabric in (MONARCH, GRAPHS)), nn.Tanh())
    sp.export_onnx(net, folder / "net-float32.onnx", (torch.ones(2, 16),))
    inputs = [random.standard_normal((n, 16)).astype(np.float32) for n in _ROWS]
    with torch.no_grad():
        cases = [(x, net.double()(torch.from_numpy(x).double()).numpy()) for x in inputs]
    _write_cases(folder / "net-float32.npz", cases)


def _write_cases(path: Path, cases: list[tuple[Array, Array]]) -> None:
    np.savez(
        path,
        **{f"x{i}": x for i, (x, _) in enumerate(cases)},
        **{f"y{i}": y for i, (_, y) in enumerate(cases)},
    )


def probe(python: str | Path, folder: Path) -> dict[str, Any]:
    """Run `ort_probe.py` in an environment."""
    script = Path(__file__).with_name("ort_probe.py")
    done = subprocess.run(
        [python, script, sp.onnx.library_path(), folder], capture_output=True, text=True
    )
    if done.returncode:
        raise AssertionError(f"{python}: exit code {done.returncode}\n{done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _environment(folder: Path, version: str) -> Path:
    home = folder / f"ort_{version}"
    python = home / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        numpy = "numpy<2" if int(version.split(".")[1]) < 19 else "numpy"
        packages = [f"onnxruntime=={version}", numpy]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
    return python


def _cell(row: dict[str, Any]) -> str:
    if isinstance(row["native"], str):
        return f"does not load: {row['native']}"
    body = "-" if isinstance(row["body"], str) else f"{row['body']:.0e}"
    return f"{'native' if row['native_calls'] else 'body'} {row['native']:.0e} ({body})"


def main(folder: Path, versions: list[str]) -> None:
    """Print the table: what ran, its relative error, and in brackets that of the body."""
    with tempfile.TemporaryDirectory() as temporary:
        write_models(Path(temporary))
        for version in versions or VERSIONS:
            found = probe(_environment(folder, version), Path(temporary))
            print(f"onnxruntime {found['version']}")
            for name, row in found["models"].items():
                print(f"  {name:20} {_cell(row)}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
