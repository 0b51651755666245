"""What takes its turn in onnxruntime: exported files, their fabrics as bodies or native."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..export.inputs import Inputs
from ..export.onnx.export import export_onnx
from ..native.library import library, why_not
from ..onnx import session
from .subject import Subject
from .turns import Call

__all__ = ["Files", "exported", "runtime_call", "why_not_native"]


@dataclass(frozen=True)
class Files:
    """A subject as ONNX files.

    Args:
        dense: the dense module.
        sparse: the one with fabrics.
    """

    dense: Path
    sparse: Path


@contextmanager
def exported(subject: Subject) -> Iterator[Files]:
    """Write both files, each verified against its module; they are deleted at the end.

    Args:
        subject: what to export.

    Raises:
        ModelError: it cannot be exported.
        VerificationError: a file does not compute what its module does.
    """
    with tempfile.TemporaryDirectory(prefix="sparsify-bench-") as folder:
        files = Files(Path(folder, "dense.onnx"), Path(folder, "sparse.onnx"))
        export_onnx(subject.dense, files.dense, subject.example_inputs)
        export_onnx(subject.sparse, files.sparse, subject.example_inputs)
        yield files


def runtime_call(path: Path, inputs: Inputs, threads: int, *, native: bool) -> Call:
    """One run of a file in onnxruntime, inputs and outputs bound to memory that is there already.

    Args:
        path: the file.
        inputs: what it is called with.
        threads: that onnxruntime may use; they stop spinning at the end of a call, so that one
            session does not slow the next.
        native: whether the native library runs the fabrics.

    Raises:
        ModelError: onnxruntime cannot load or run it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    runtime = session(path, options, native=native)
    # By position: the dense module and the one with fabrics may name an input differently.
    names = (value.name for value in runtime.get_inputs())
    values = (tensor.detach().numpy() for tensor in inputs.tensors().values())
    return _bound(runtime, dict(zip(names, values, strict=True)))


def _bound(runtime: Any, feed: dict[str, Any]) -> Call:
    from onnxruntime import OrtValue

    binding = runtime.io_binding()
    for name, value in feed.items():
        binding.bind_ortvalue_input(name, OrtValue.ortvalue_from_numpy(value))
    for output, value in zip(runtime.get_outputs(), runtime.run(None, feed), strict=True):
        binding.bind_ortvalue_output(output.name, OrtValue.ortvalue_from_numpy(value))

    def call() -> object:
        return runtime.run_with_iobinding(binding)

    return call


def why_not_native(path: Path, inputs: Inputs) -> str | None:
    """Why the native library does not run a file's fabrics, found by running it; None if it does.

    Args:
        path: a file with fabrics.
        inputs: what it is called with.
    """
    native = library()
    if native is None:
        return why_not()
    if not hasattr(native, "sparsify_ort_calls"):
        return "the native library was built without onnxruntime's operators"
    before = native.sparsify_ort_calls()
    runtime_call(path, inputs, 1, native=True)()
    if native.sparsify_ort_calls() == before:
        return "onnxruntime does not call the native library"
    return None
