"""Running exported files: `sp.onnx.session`; opening ONNX files to convert them: `sp.onnx.read`.

Exported files carry a body in standard operators for each of our ops, so any onnxruntime runs them
as they are; what is here adds the project's own kernels where they are live.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError, ModelError
from .native import library

if TYPE_CHECKING:
    import onnxruntime

    from .frontend.onnx.model import OnnxModel

__all__ = ["library_path", "read", "register", "session"]

_logger = logging.getLogger(__name__)

_CPU = "CPUExecutionProvider"
_OLDEST = (1, 17)  # the first onnxruntime whose table our operators can use


def read(path: str | os.PathLike[str], example_inputs: Any = None) -> OnnxModel:
    """Open an ONNX file as a module that `plan`, `sparsify` and `save` take.

    Args:
        path: the file, with opset 7 or later, whoever wrote it. What it stores in files beside it
            is mapped, not read.
        example_inputs: a tuple in the order of the file or a dict by name. They serve to check what
            is written; invented from the types and sizes of its inputs where None.

    Returns:
        A module with one layer for each MatMul, Gemm and Conv that has a constant weight, under the
        path that it had where the file tells it. Calling it runs the file in onnxruntime.

    Raises:
        FileError: it, or a file of weights that it names, is missing.
        ModelError: it is no ONNX file, damaged, or of a version that cannot be converted.
        ConfigError: the inputs do not fit.

    Example:
        >>> import sparsify as sp
        >>> model = sp.onnx.read("model.onnx")  # doctest: +SKIP
        >>> sp.save(sp.sparsify(model, budget=0.25), "sparse.onnx")  # doctest: +SKIP
    """
    from .frontend.onnx.model import open_onnx

    return open_onnx(path, example_inputs)


def session(
    path: str | os.PathLike[str],
    sess_options: onnxruntime.SessionOptions | None = None,
    native: bool = True,
    **kwargs: Any,
) -> onnxruntime.InferenceSession:
    """Open an exported file in onnxruntime.

    Args:
        path: an ONNX file.
        sess_options: onnxruntime's options. With native=True they gain our library, as by
            `register`: onnxruntime keeps libraries in its options, and has no way to copy those.
        native: use the native kernels where they are live (`sparsify doctor`), from onnxruntime
            1.17 on, unless another provider than the CPU's comes first. Else, and with False, the
            bodies that are in the file run.
        **kwargs: further arguments of `onnxruntime.InferenceSession`; providers: the CPU's.

    Raises:
        FileError: there is no such file.
        ModelError: onnxruntime cannot load it; the message holds its reason.

    Example:
        >>> import numpy, torch, sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> report = sp.export_onnx(layer, "layer.onnx", (torch.randn(1, 64),))
        >>> runtime = sp.onnx.session("layer.onnx")
        >>> runtime.run(["output"], {"x": numpy.zeros((5, 64), numpy.float32)})[0].shape
        (5, 64)
    """
    import onnxruntime

    if not Path(path).is_file():
        raise FileError(f"There is no file {os.fspath(path)}.")
    if sess_options is None:
        sess_options = onnxruntime.SessionOptions()
        sess_options.log_severity_level = 3  # errors; they are raised as well
    providers = kwargs.setdefault("providers", [_CPU])
    if native and providers and providers[0] in (_CPU, (_CPU, {})):
        _register_if_live(sess_options)
    try:
        return onnxruntime.InferenceSession(os.fspath(path), sess_options, **kwargs)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split())
        raise ModelError(
            f"onnxruntime {onnxruntime.__version__} cannot load {Path(path).name}: {reason[:300]}"
        ) from error


def register(sess_options: onnxruntime.SessionOptions) -> None:
    """Add the native operators to options, for sessions that you open yourself.

    Doing it again for the same options changes nothing. An onnxruntime before 1.17 takes the
    library and goes on running the bodies.

    Args:
        sess_options: the options to change.

    Raises:
        FileError: the native library is not live; the message says why and what to do.
        ModelError: onnxruntime refuses it.

    Example:
        >>> import onnxruntime
        >>> options = onnxruntime.SessionOptions()
        >>> if library.path():
        ...     register(options)
    """
    import onnxruntime

    path = library_path()
    try:
        sess_options.register_custom_ops_library(str(path))
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split())
        raise ModelError(
            f"onnxruntime {onnxruntime.__version__} refuses {path}: {reason[:300]}"
        ) from error


def library_path() -> Path:
    """The native library, for runtimes of other languages.

    It exports `RegisterCustomOps`, so whatever calls onnxruntime's `RegisterCustomOpsLibrary` can
    load it: `examples/onnx_native.c` does so in C.

    Raises:
        FileError: the native library is not live; the message says why and what to do.
    """
    path = library.path()
    if path is None:
        raise FileError(
            f"The native library is not live: {library.why_not()}. Exported files run without it, "
            "on the bodies that they carry."
        )
    return path


def _register_if_live(sess_options: onnxruntime.SessionOptions) -> None:
    """Register the library where there is one that this onnxruntime can use."""
    import onnxruntime

    if library.path() is None:
        _logger.info("Running the bodies of fabrics: %s.", library.why_not())
        return
    version = tuple(int(number) for number in re.findall(r"\d+", onnxruntime.__version__)[:2])
    if version < _OLDEST:
        _logger.info("Running the bodies of fabrics: onnxruntime %s is too old.", version)
        return
    try:
        register(sess_options)
    except ModelError as error:
        _logger.warning("Running the bodies of fabrics: %s", error)
