"""Scales that go with shortcuts."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from ..errors import ConfigError
from ..fabric import Weighted
from ..match import Pattern, check_hits, matches
from ..nn import FabricLayer

__all__ = ["scale_residual_"]

DENSE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def scale_residual_(model: nn.Module, ends: Pattern) -> None:
    """Shrink what residual branches add, so that many of them do not drown their input.

    Each branch at full size adds its variance to the stream. So the layers that end the N branches
    of a model are multiplied by 1 / sqrt(N): weight and bias; of a fabric the last factor of each
    cascade.

    Args:
        model: changed in place, before training.
        ends: the layers that end branches, Linear, Conv or fabric, as `include` of `sp.sparsify`.

    Raises:
        ConfigError: the pattern takes no layer.

    Example:
        >>> import sparsify as sp
        >>> layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        >>> sparse = sp.sparsify(nn.TransformerEncoder(layer, 6), budget=0.5)
        >>> scale_residual_(sparse, "re:.*(out_proj|linear2)")

    Reference:
        Radford et al. 2019 (GPT-2).
    """
    if not isinstance(model, nn.Module):
        raise ConfigError(f"model must be a torch.nn.Module; got {type(model).__name__}.")
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, (FabricLayer, *DENSE))]
    check_hits([ends], layers, "ends")
    taken = [layer for name, layer in layers if matches(ends, name, layer)]
    for layer in taken:
        weights = _last_factors(layer) if isinstance(layer, FabricLayer) else [layer.weight]
        for parameter in (*weights, layer.bias):
            if parameter is not None:
                parameter.mul_(len(taken) ** -0.5)


def _last_factors(layer: FabricLayer) -> list[nn.Parameter]:
    stages = [sum(isinstance(s, Weighted) for s in branch) for branch in layer.fabric.branches]
    return [layer.factors[end - 1] for end in itertools.accumulate(stages)]
