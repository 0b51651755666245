"""Converting a model that may be larger than memory: one layer at a time.

The modules are rewritten on the meta device. The values come when the file is written: a replaced
layer reads its dense weight then, all others are copied from where they are.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..io.recipe import slots
from ..mapping import release
from ..nn import FabricLayer, copies_of_computed
from ..passes import (
    AnnotateWeights,
    CheckAliases,
    FindSites,
    FollowPlan,
    Initialise,
    Program,
    ReplaceDense,
    Verify,
    run_passes,
)
from ..plan import Plan
from .capture import capture

__all__ = ["Values", "stream"]


def stream(
    model: nn.Module, example_inputs: Any, plan: Plan, initialise: Initialise
) -> tuple[nn.Module, Callable[[str], Tensor]]:
    """The converted model without its values, and what gives them one by one.

    Args:
        model: the dense model; its weights may be mapped from files.
        example_inputs: as for `sparsify`.
        plan: what becomes of each layer.
        initialise: what fills the new layers, each from its own dense weight alone.

    Returns:
        The converted model on the meta device, and a function from the names of its tensors to
        their values, those that `sparsify` gives in memory, bit by bit.

    Raises:
        ConfigError: the plan is of another model.
        ModelError: the model cannot be captured.
        VerificationError: the converted model is not what was planned.

    Example:
        >>> import sparsify as sp
        >>> dense = nn.Sequential(nn.Linear(8, 8))
        >>> plan = sp.plan(dense, budget=0.5, include=["0"])
        >>> sparse, values = stream(dense, None, plan, Initialise())
        >>> sparse[0].factors[0].device, values("0.bias").device
        (device(type='meta'), device(type='cpu'))
    """
    analyse = (AnnotateWeights(), FindSites(), CheckAliases(), FollowPlan(plan))
    program = run_passes(capture(model, example_inputs), analyse)
    values = Values.of(program, initialise)
    program = run_passes(_on_meta(program), (ReplaceDense(), Verify()))
    values.layers.update(
        (path, part)
        for path, part in program.module.named_modules()
        if isinstance(part, FabricLayer)
    )
    return program.module, values


@dataclass
class Values:
    """The tensors of a converted model by name, made when they are asked for.

    Args:
        initialise: what fills a fabric layer.
        dense: the modules that were replaced, by path.
        copied: the tensors of the dense model, by name.
        layers: the fabric layers on the meta device, by path.
    """

    initialise: Initialise
    dense: dict[str, nn.Module]
    copied: dict[str, Tensor]
    layers: dict[str, FabricLayer] = field(default_factory=dict)
    _filled: dict[str, list[Tensor]] = field(default_factory=dict)

    @staticmethod
    def of(program: Program, initialise: Initialise) -> Values:
        """Those of the dense model, with its composite owners folded and unfolded."""
        copied: dict[str, Tensor] = {}
        for model in (program.original, program.folded):
            if model is not None:
                copied |= {slot.name: slot.tensor.detach() for slot in slots(model)}
        return Values(initialise, dict(program.original.named_modules()), copied)

    def __call__(self, name: str) -> Tensor:
        """One tensor. What was read for the one before leaves memory."""
        release()
        path, is_factor, index = f".{name}".rpartition(".factors.")
        path = path.removeprefix(".")
        layer = self.layers.get(path) if is_factor else None
        if layer is None:
            return self.copied[name]
        if path not in self._filled:
            self._filled.clear()
            self._filled[path] = self._fill(path, layer)
            release()
        return self._filled[path][int(index)]

    def _fill(self, path: str, layer: FabricLayer) -> list[Tensor]:
        made = copy.deepcopy(layer).to_empty(device="cpu")
        self.initialise.fill(path, self.dense[path], made)
        return [factor.detach() for factor in made.factors]


def _on_meta(program: Program) -> Program:
    """The program with its modules on the meta device, shared memory still shared."""
    memo: dict[int, Any] = {}
    bases: dict[int, Tensor] = {}

    def copied(model: nn.Module) -> nn.Module:
        memo.update(copies_of_computed(model))
        for slot in slots(model):
            memo.setdefault(id(slot.tensor), _without_values(slot.tensor, bases))
        return copy.deepcopy(model, memo)

    folded = None if program.folded is None else copied(program.folded)
    return replace(program, module=copied(program.module), folded=folded)


def _without_values(tensor: Tensor, bases: dict[int, Tensor]) -> Tensor:
    storage = tensor.untyped_storage()
    key = storage._cdata
    if key not in bases:
        bases[key] = torch.empty(storage.nbytes(), dtype=torch.uint8, device="meta")
    # A mapped tensor starts anywhere in its file: only views of its own type have an offset here.
    size = tensor.element_size()
    base = bases[key][: storage.nbytes() // size * size].view(tensor.dtype)
    view = base.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())
    return nn.Parameter(view, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else view
