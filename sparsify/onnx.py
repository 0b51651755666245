"""Running exported files: `sp.onnx.session`.

Exported files carry a body in standard operators for each of our ops, so any onnxruntime runs them
as they are; what is here adds the project's own kernels where they are live.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import FileError, ModelError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["session"]


def session(
    path: str | os.PathLike[str],
    sess_options: onnxruntime.SessionOptions | None = None,
    native: bool = True,
    **kwargs: Any,
) -> onnxruntime.InferenceSession:
    """Open an exported file in onnxruntime.

    Args:
        path: an ONNX file.
        sess_options: onnxruntime's options; the object is not changed.
        native: use the native kernels where they are live. This version has none, so both values
            run the bodies that are in the file.
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
    kwargs.setdefault("providers", ["CPUExecutionProvider"])
    try:
        return onnxruntime.InferenceSession(os.fspath(path), sess_options, **kwargs)
    except Exception as error:  # onnxruntime's exceptions share no base class
        reason = " ".join(str(error).split())
        raise ModelError(
            f"onnxruntime {onnxruntime.__version__} cannot load {Path(path).name}: {reason[:300]}"
        ) from error
