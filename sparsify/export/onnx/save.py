"""`sp.save` of a model that came from an ONNX file: rewrite, check, verify, publish."""

from __future__ import annotations

import os
from pathlib import Path

from torch import nn

from ...errors import ConfigError, FileError, ModelError
from ...files import staged, writing
from ...frontend.onnx.model import OnnxModel
from ...verify import Report
from .bytes import side_file, write_values
from .compare import compare_rewritten
from .rewrite import Rewritten, rewrite
from .write import check_file

__all__ = ["save_onnx"]


def save_onnx(model: nn.Module, path: str | os.PathLike[str], *, overwrite: bool = True) -> Report:
    """Write a converted ONNX model: each fabric one node of ours with a body, the rest as it was.

    The file is published only after it loads in onnxruntime and agrees with another graph: the
    original one, with each fabric's dense matrix in the place of the old weight.

    Args:
        model: what `sparsify` gave for an ONNX file; not changed.
        path: the file to write. Beyond 1.8 GB of weights they go to `path` + ".data" beside it.
        overwrite: whether an existing file may be replaced.

    Returns:
        The differences found.

    Raises:
        ConfigError: the model did not come from an ONNX file.
        FileError: the path is not writable, exists, or is a file that the model is read from.
        ModelError: a fabric has no form in the file's opset, or onnxruntime cannot run the model.
        VerificationError: the file and the other graph differ.

    Example:
        >>> import torch, sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> report = sp.export_onnx(layer, "layer.onnx", (torch.randn(1, 64),))
        >>> save_onnx(sp.onnx.read("layer.onnx"), "copy.onnx").passed
        True
    """
    if not isinstance(model, OnnxModel):
        raise ConfigError(
            f"Only models that came from an ONNX file are saved as one; got "
            f"{type(model).__name__}. Write it with sp.export_onnx(model, path, example_inputs)."
        )
    _check_target(model, Path(path))
    rewritten = rewrite(model)
    with staged(path, overwrite=overwrite) as temporary:
        with writing(path):
            _write(model, rewritten, temporary)
        return compare_rewritten(model, temporary)


def _check_target(model: OnnxModel, path: Path) -> None:
    """A file must not take the place of one that the model still reads."""
    sources = {os.path.realpath(file) for file in (model.source.path, *model.source.side_files)}
    for target in (path, side_file(path)):
        if os.path.realpath(target) in sources:
            raise FileError(f"{target} is a file that the model is read from; give another output.")


def _write(model: OnnxModel, rewritten: Rewritten, path: Path) -> None:
    """Write the file and let onnx's checker look at it.

    Files that note wrong sizes of their inner values run nevertheless, but those with bodies do
    not. Where the source is such a file, its notes are left out.

    Raises:
        ModelError: the new file is not valid, in a way that the old one was.
    """
    write_values(rewritten.proto, rewritten.values, path)
    try:
        check_file(path)
    except ModelError:
        if model.source.path.is_file() and _is_sound(model.source.path):
            raise
        for value in rewritten.proto.graph.value_info:
            value.type.tensor_type.ClearField("shape")
        write_values(rewritten.proto, rewritten.values, path)
        check_file(path, with_shapes=False)


def _is_sound(path: Path) -> bool:
    try:
        check_file(path)
    except ModelError:
        return False
    return True
