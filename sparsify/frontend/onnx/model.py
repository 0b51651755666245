"""An ONNX file as a module: a layer for each product with a weight, in the file's own graph."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ...errors import ConfigError, FileError
from .file import OnnxFile, read_onnx
from .inputs import bound, invented
from .reading import Reading, read_dense

if TYPE_CHECKING:
    from ...passes import Program

__all__ = ["OnnxModel", "load_onnx", "open_onnx"]


class OnnxModel(nn.Module):
    """What `sparsify` takes and gives back for an ONNX file.

    Each MatMul, Gemm and Conv with a constant weight is a layer of the module, under the path that
    it had where the file tells it: `model.encoder.fc`. The layers are without biases (those stay in
    the graph), their weights are the file's own memory, shared by all copies and not to be trained.
    Calling the module runs the file in onnxruntime, with the fabrics that stand in it now.

    Args:
        file: the file.
        example_inputs: as for `sparsify`; invented from the types and sizes of its inputs where
            None. They serve to compare what is written with what was asked for.

    Example:
        >>> model = open_onnx("model.onnx")  # doctest: +SKIP
    """

    only_format = ".onnx"
    """What `sp.save` writes it as."""

    def __init__(self, file: OnnxFile, example_inputs: Any = None) -> None:
        """See `open_onnx`."""
        super().__init__()
        self._file = file
        self._given = None if example_inputs is None else bound(file.original, example_inputs)
        self._runtime: tuple[object, Any] = (None, None)
        self._reading = read_dense(file, frozenset(dir(self)))
        for output, path in self._reading.paths.items():
            _put(self, path, self._reading.products[output].layer())
        self.eval()

    @property
    def source(self) -> OnnxFile:
        """The file."""
        return self._file

    @property
    def reading(self) -> Reading:
        """The dense operations of the file, and where their layers are."""
        return self._reading

    @property
    def example_inputs(self) -> dict[str, Tensor] | None:
        """The inputs that were given, by name."""
        return self._given

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        """Inputs that the model can be called with."""
        return invented(self._file, batch=2) if self._given is None else dict(self._given)

    def program(self, example_inputs: Any = None) -> Program:
        """The graph of the file as the passes take it.

        Args:
            example_inputs: to be used from here on; those of the model by default.

        Raises:
            ConfigError: they do not fit the file.
        """
        from .program import program

        if example_inputs is None:
            return program(self)
        twin = copy.copy(self)  # the same layers
        twin._given = bound(self._file.original, example_inputs)
        return program(twin)

    def forward(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Run the file.

        Args:
            *inputs: in the order of the file.
            **named: or by name.

        Returns:
            The outputs by name.

        Raises:
            ConfigError: the inputs do not fit the file.
            ModelError: onnxruntime cannot run it.
        """
        from ...export.onnx.run import run

        if inputs and named:
            raise ConfigError("Give the inputs of an ONNX model by position or by name, not both.")
        return run(self, bound(self._file.original, named or inputs))

    def __deepcopy__(self, memo: dict[int, Any]) -> OnnxModel:
        """A copy with layers of its own on the same weights: those of the file are constants."""
        for layer in self._reading.paths.values():
            weight = self.get_submodule(layer)._parameters.get("weight")
            if weight is not None:
                memo.setdefault(id(weight), weight)
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        state = {**self.__dict__, "_runtime": (None, None)}
        copied.__dict__.update(copy.deepcopy(state, memo))
        return copied

    def extra_repr(self) -> str:
        """The file."""
        return str(self._file.path)


def open_onnx(path: str | os.PathLike[str], example_inputs: Any = None) -> OnnxModel:
    """Open an ONNX file, to convert it.

    Args:
        path: the file. What it stores in files beside it is mapped, not read.
        example_inputs: a tuple of inputs in its order or a dict by name; invented where None.

    Raises:
        FileError: it, or a file of weights that it names, is missing.
        ModelError: it is no ONNX file, damaged, or of a version that cannot be converted.
        ConfigError: the inputs do not fit.

    Example:
        >>> import sparsify as sp
        >>> layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
        >>> report = sp.export_onnx(layer, "layer.onnx", (torch.randn(1, 64),))
        >>> open_onnx("layer.onnx")(torch.zeros(3, 64))["output"].shape
        torch.Size([3, 64])
    """
    if not Path(path).exists():
        raise FileError(f"There is no file {os.fspath(path)}.")
    return OnnxModel(read_onnx(path), example_inputs)


def load_onnx(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    device: torch.device | str | None = None,
) -> OnnxModel:
    """Open an ONNX file for `sp.load`: it needs no skeleton, and runs where onnxruntime does.

    Raises:
        ConfigError: a skeleton or another device was asked for.
    """
    if model is not None or (device is not None and torch.device(device).type != "cpu"):
        raise ConfigError(
            "An ONNX file is a whole model that runs on the CPU: give neither model= nor device=."
        )
    return open_onnx(path)


def _put(root: nn.Module, path: str, layer: nn.Module) -> None:
    """Register a layer, and plain modules on the way to it; one that is there already stays."""
    *parents, leaf = path.split(".")
    for name in parents:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root._modules[name]  # type: ignore[assignment]
    if leaf not in root._modules:
        root.add_module(leaf, layer)
