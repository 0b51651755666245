"""Scales that go with shortcuts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import nn

from ..fabric import Weighted
from ..match import Pattern, check_hits, matches
from ..nn import FabricLayer, norm_parameters
from ..nn.check import check_model
from ..nn.owners import OWNERS
from .writable import writable

__all__ = ["scale_residual_"]


@torch.no_grad()
def scale_residual_(model: nn.Module, ends: Pattern) -> None:
    """Shrink what residual branches add, so that many of them do not drown their input.

    Each branch at full size adds its variance to the stream. So the layers that end the N branches
    of a model are multiplied by 1 / sqrt(N): weight (of a `weight_norm` its length) and bias; of a
    fabric the last factor of each cascade. A layer that ends several branches counts once for each
    of its paths; its tensors, and tied ones, are scaled once.

    Args:
        model: changed in place, before training.
        ends: the layers that end branches, as `include` of `sp.sparsify`: fabrics, and whatever
            dense layers they can stand for.

    Raises:
        ConfigError: the pattern is none or takes no layer, or a weight cannot be scaled as it is
            computed, lazy, on the meta device or quantised. The model is then as it was.

    Example:
        >>> import sparsify as sp
        >>> layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        >>> sparse = sp.sparsify(nn.TransformerEncoder(layer, 6), budget=0.5)
        >>> scale_residual_(sparse, "re:.*(out_proj|linear2)")

    Reference:
        Radford et al. 2019 (GPT-2).
    """
    check_model(model)
    modules = model.named_modules(remove_duplicate=False)
    layers = [(name, module) for name, module in modules if _is_layer(module)]
    check_hits([ends], layers, "ends")
    taken = [(name, layer) for name, layer in layers if matches(ends, name, layer)]
    found = [
        writable(layer, parameter, repr(name))
        for name, layer in taken
        for parameter in _scaled(layer)
    ]
    for tensor in dict.fromkeys(found):  # tied ones once
        tensor.mul_(len(taken) ** -0.5)


def _is_layer(module: nn.Module) -> bool:
    """Whether it is a fabric or of a dense class; what its forward does is of no interest here."""
    classes = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(module).__mro__}
    return isinstance(module, FabricLayer) or not classes.isdisjoint(OWNERS)


def _scaled(layer: nn.Module) -> Iterator[str]:
    """The names of the parameters that the output of a layer is proportional to."""
    if isinstance(layer, FabricLayer):
        stages = [sum(isinstance(s, Weighted) for s in branch) for branch in layer.fabric.branches]
        yield from (f"factors.{end - 1}" for end in itertools.accumulate(stages))
    else:
        yield from norm_parameters(layer)[:1] or ("weight",)
    if layer.bias is not None:
        yield "bias"
