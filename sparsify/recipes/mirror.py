"""Mirrored pairs: a deep ReLU network that starts as a linear one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from ..fabric import Fabric, Stage
from ..init import check_seed, generator, initialise, write
from ..nn import FabricLinear
from .writable import writable

__all__ = ["mirror_"]

Layer = nn.Linear | FabricLinear


@torch.no_grad()
def mirror_(layers: Iterable[Layer], seed: int = 0) -> None:
    """Start a deep network without norms and shortcuts as a linear one that keeps all lengths.

    Features 2k and 2k + 1 start as z and -z. As f(z) - f(-z) = z for ReLU, GELU and SiLU, a layer
    that takes the difference of each pair hands z on unharmed, and with orthogonal blocks its
    length too, through any number of layers. The network itself stays what it was; it starts as a
    linear one of half the width, and training parts the pairs where that is of use.

    Args:
        layers: in the order in which they are called, one of the three activations after each.
            Filled in place, biases with zeros. The first may take any input.
        seed: of the weights, any whole number.

    Raises:
        ConfigError: a layer does not take what the one before gives, its weight cannot be written
            to (computed, lazy, on the meta device), or it cannot hold pairs: outputs must be even
            in number, and a fabric one cascade of Kronecker-sparse stages (a,b,c,d). In each of
            them pairs fall into one block (d = 1, b and c even) or into neighbouring blocks (d
            even), in one at least into one. All layers are then as they were.

    Example:
        >>> import sparsify as sp
        >>> fabric = sp.fabric("monarch", 64, 64, blocks=8)
        >>> layers = [sp.nn.FabricLinear(fabric) for _ in range(100)]
        >>> mirror_(layers)
        >>> net = nn.Sequential(*(m for layer in layers for m in (layer, nn.ReLU())))
        >>> x, y = torch.randn(2, 64)
        >>> z = [net(v)[::2] - net(v)[1::2] for v in (x, y, x + y)]
        >>> bool(torch.allclose(z[0] + z[1], z[2], atol=1e-4))
        True

    Reference:
        Balduzzi et al. 2017, The Shattered Gradients Problem (looks-linear init of dense layers).
    """
    check_seed(seed)
    for place, plan in enumerate(_plans(layers)):
        stages = tuple(part.stage for part in plan.parts)
        half = Fabric(stages[0].in_features, stages[-1].out_features, (stages,))
        values = [torch.empty(stage.shape, dtype=torch.float64) for stage in stages]
        initialise(values, half, random=generator(seed, f"mirror {place}"))
        for factor, part, value in zip(plan.factors, plan.parts, values, strict=True):
            write(factor, _widened(value, part).reshape(factor.shape))
        if plan.bias is not None:
            plan.bias.zero_()


class _Part(NamedTuple):
    """How a stage comes from one of half the size.

    Attributes:
        stage: of half the size.
        rows: what each of its rows is multiplied by for the two rows of a pair.
        columns: the same for columns.
        twins: whether its blocks stand side by side twice.
    """

    stage: Stage
    rows: tuple[float, ...] = (1,)
    columns: tuple[float, ...] = (1,)
    twins: bool = False


class _Plan(NamedTuple):
    """What is to be written to a layer."""

    factors: list[nn.Parameter]
    parts: list[_Part]
    bias: nn.Parameter | None


def _plans(layers: Iterable[Layer]) -> list[_Plan]:
    """All checks, before anything is written."""
    plans: list[_Plan] = []
    width = 0
    for place, layer in enumerate(_listed(layers)):
        if place and layer.in_features != width:
            raise ConfigError(
                f"{_name(place, layer)} takes {layer.in_features} features, but the layer before "
                f"gives {width}; give layers in the order in which they are called."
            )
        width = layer.out_features
        names = ["weight"]
        if isinstance(layer, FabricLinear):
            names = [f"factors.{stage}" for stage in range(len(layer.factors))]
        factors = [writable(layer, name, f"layer {place}") for name in names]
        bias = None if layer.bias is None else writable(layer, "bias", f"layer {place}")
        if place and not set(factors).isdisjoint(plans[0].factors):
            raise ConfigError(
                f"{_name(place, layer)} shares its weight with the first layer, whose input has no "
                "pairs yet; give the first layer a weight of its own."
            )
        plans.append(_Plan(factors, list(_parts(place, layer)), bias))
    return plans


def _listed(layers: Iterable[Layer]) -> list[Layer]:
    if not isinstance(layers, Iterable):
        raise _no_layers(f"a {type(layers).__name__}")
    listed = list(layers)
    if not listed:
        raise _no_layers("none")
    for place, layer in enumerate(listed):
        if not isinstance(layer, (nn.Linear, FabricLinear)):
            raise _no_layers(f"a {type(layer).__name__} at index {place}")
    return listed


def _no_layers(got: str) -> ConfigError:
    return ConfigError(
        "mirror_ takes Linear and FabricLinear layers in the order in which they are called, such "
        "as [m for m in model.modules() if isinstance(m, (nn.Linear, sp.nn.FabricLinear))] without "
        f"the head; got {got}."
    )


def _parts(place: int, layer: Layer) -> Iterator[_Part]:
    """The parts of a layer; the input of all but the first has pairs already."""
    paired, mirrored = place > 0, False
    for stage in _stages(place, layer):
        if stage.d % 2 == 0:
            # The pairs pass through equal blocks; what is no pair yet through blocks of its own.
            if paired:
                yield _Part(replace(stage, d=stage.d // 2), twins=True)
            else:
                yield _Part(stage)
            continue
        if stage.d > 1 or stage.b % 2 or (paired and stage.c % 2):
            raise _no_pairs(place, layer, f"its stage {stage} splits pairs of features")
        small = replace(stage, b=stage.b // 2, c=stage.c // 2 if paired else stage.c)
        # f(z) - f(-z) is z, but z - (-z) is 2 z.
        column = (0.5, -0.5) if mirrored else (1, -1)
        yield _Part(small, rows=(1, -1), columns=column if paired else (1,))
        paired = mirrored = True
    if not mirrored:
        raise _no_pairs(place, layer, "in none of its stages a pair falls into one block")


def _stages(place: int, layer: Layer) -> tuple[Stage, ...]:
    if isinstance(layer, nn.Linear):
        return (Stage(1, layer.out_features, layer.in_features, 1),)
    if len(layer.fabric.branches) > 1 or not layer.fabric.repeats:
        reason = f"{layer.fabric} is not one cascade of blocks without padding"
        raise _no_pairs(place, layer, reason)
    return tuple(step for step in layer.fabric.stages if isinstance(step, Stage))


def _name(place: int, layer: nn.Module) -> str:
    return f"Layer {place}, a {type(layer).__name__},"


def _no_pairs(place: int, layer: nn.Module, reason: str) -> ConfigError:
    return ConfigError(
        f"{_name(place, layer)} cannot start with mirrored pairs: {reason}. Monarch "
        "fabrics with an even number of outputs per block can."
    )


def _widened(value: Tensor, part: _Part) -> Tensor:
    """The weight of a stage from that of its half."""
    if part.twins:
        return value.repeat_interleave(2, 1)
    rows, columns = value.new_tensor(part.rows), value.new_tensor(part.columns)
    return torch.einsum("adbc,p,q->adbpcq", value, rows, columns)
