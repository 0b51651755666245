"""Exported programs (`torch.export`) as models: `.pt2` files, and programs in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ConfigError
from ..source import Request, Source
from ..weights import with_weights
from .file import open_program
from .module import ExportedModule
from .raising import raised

__all__ = ["Pt2", "as_module", "load_pt2"]


class Pt2:
    """A file that `torch.export.save` or this package wrote.

    Example inputs and dynamic axes are the program's own.
    """

    @staticmethod
    def accepts(text: str) -> bool:
        """Whether the text ends in .pt2."""
        return Path(text).suffix.lower() == ".pt2"

    @staticmethod
    def open(request: Request) -> Source:
        """Load the program, and the weights where there are some.

        Raises:
            FileError: there is no such file.
            ModelError: it is damaged, could run code and is not trusted, or needs a package that
                is not there.
        """
        program = open_program(request.text, trust_pickle=request.trust_pickle)
        module: nn.Module = raised(program)
        dynamic = module.interface.dynamic() if isinstance(module, ExportedModule) else {}
        if request.weights is not None:
            module = with_weights(module, request.weights, trust_pickle=request.trust_pickle)
        return Source(module, module.dummy_inputs, dynamic=dynamic)


def load_pt2(
    path: str | os.PathLike[str],
    model: nn.Module | None = None,
    device: torch.device | str | None = None,
) -> ExportedModule:
    """A .pt2 file as a module that trains; fabrics in it are layers again.

    Args:
        path: the file.
        model: None; the file holds its own code.
        device: where the tensors go; by default where the file has them.

    Returns:
        The module, in the mode in which it was exported.

    Raises:
        ConfigError: a skeleton was given, or there is no such device.
        FileError: there is no such file.
        ModelError: as for `open_program`.

    Example:
        >>> program = torch.export.export(nn.Sequential(nn.Linear(4, 2)), (torch.zeros(3, 4),))
        >>> torch.export.save(program, "m.pt2")
        >>> load_pt2("m.pt2")(torch.zeros(3, 4)).shape
        torch.Size([3, 2])
    """
    if model is not None:
        raise ConfigError(f"{os.fspath(path)} holds the whole model: model= cannot go with it.")
    program = open_program(path)
    if device is not None:
        program = _moved(program, device)
    return raised(program)


def _moved(
    program: torch.export.ExportedProgram, device: torch.device | str
) -> torch.export.ExportedProgram:
    """The program on another device, the constants in its graph included."""
    from torch.export.passes import move_to_device_pass

    try:
        place = torch.empty(0, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ConfigError(f"device={device!r} cannot be used here: {error}") from None
    return move_to_device_pass(program, str(place))


def as_module(model: Any) -> Any:
    """A program as a module that trains; anything else as it came.

    Example:
        >>> as_module(nn.Identity())
        Identity()
    """
    return raised(model) if isinstance(model, torch.export.ExportedProgram) else model
