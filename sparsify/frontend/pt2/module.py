"""A module made of an exported program: a graph to train, copy, convert and export again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import fx, nn

from ...errors import ConfigError
from .interface import Interface

__all__ = ["ExportedModule", "tied"]

_GUARD = "Guard failed: "  # what torch's check of sizes raises


class ExportedModule(fx.GraphModule):
    """An `ExportedProgram` as a module that trains.

    Unlike what `ExportedProgram.module()` gives, it has working `train()` and `eval()`, can be
    copied by `copy.deepcopy`, holds tied parameters once, and refuses inputs that the program was
    not exported for in words. Its layers are `nn.Linear`, `nn.Conv2d` and so on, at the paths that
    they had in the model. `load` and `sparsify` make it.

    Args:
        root: who owns the parameters, buffers and submodules; they are taken over, not copied.
        graph: the operations.
        interface: what the program is called with.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, interface: Interface) -> None:
        """See the class."""
        super().__init__(root, graph, "ExportedModule")
        # fx takes over what the graph reads; the rest of the state belongs to the model as well.
        self._modules.clear()
        for name, child in root.named_children():
            self.add_module(name, child)
        for name, parameter in root._parameters.items():
            self.register_parameter(name, parameter)
        for name, buffer in root._buffers.items():
            persistent = name not in root._non_persistent_buffers_set
            self._buffers.pop(name, None)
            self.register_buffer(name, buffer, persistent=persistent)
        self.interface = interface

    @property
    def dummy_inputs(self) -> dict[str, Any]:
        """Inputs that it can be called with, by name."""
        return self.interface.named_inputs()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Check the inputs against those that the program was exported for, then run.

        Raises:
            ConfigError: they do not fit.
        """
        if torch.compiler.is_compiling():
            return super().__call__(*args, **kwargs)
        self.interface.check(args, kwargs)
        try:
            return super().__call__(*args, **kwargs)
        except AssertionError as error:
            if not str(error).startswith(_GUARD):
                raise
            raise ConfigError(
                f"The exported program does not take these sizes; it needs "
                f"{str(error).removeprefix(_GUARD)}."
            ) from None

    def __deepcopy__(self, memo: dict[int, Any]) -> ExportedModule:
        """Copy all that the module holds; fx's own way loses what its graph does not read."""
        copied = type(self).__new__(type(self))
        memo[id(self)] = copied
        memo[id(self.graph)] = _copied(self.graph)
        for spec in (self._in_spec, self._out_spec):
            memo[id(spec)] = spec
        vars(copied).update(copy.deepcopy(vars(self), memo))
        copied.graph.owning_module = copied
        copied.recompile()
        return copied

    def __reduce__(self) -> Any:
        """Refuse pickles, which would lose the graph."""
        raise TypeError(
            "An exported program cannot be pickled. Save it with sp.save(model, 'model.pt2'), or "
            "its state_dict."
        )


def _copied(graph: fx.Graph) -> fx.Graph:
    """A copy that shares what never changes: how inputs and outputs are packed."""
    copied = fx.Graph()
    values = copied.graph_copy(graph, {}, return_output_node=False)
    copied.output(values)
    copied.set_codegen(graph._codegen)
    return copied


def tied(model: nn.Module) -> None:
    """Put one parameter in the place of several that are the same memory.

    `torch.export.load` gives each name of a shared parameter an object of its own; an optimiser
    would update the memory twice.

    Args:
        model: changed in place.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> model[1].weight = nn.Parameter(model[0].weight.detach())
        >>> tied(model)
        >>> model[1].weight is model[0].weight
        True
    """
    first: dict[object, Any] = {}
    for module in model.modules():
        slots: dict[str, Any]
        for slots in (module._parameters, module._buffers):
            for name, tensor in slots.items():
                if tensor is not None and tensor.numel():
                    key = (type(tensor), tensor.data_ptr(), tensor.dtype, tensor.device)
                    layout = (tuple(tensor.shape), tensor.stride(), tensor.requires_grad)
                    slots[name] = first.setdefault((key, layout), tensor)
