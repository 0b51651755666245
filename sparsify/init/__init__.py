"""Initial weights of fabrics: one scheme per file, in one table.

A scheme is a function `(fabric, generator, centred) -> list of float64 tensors`, one per stage,
such that white input of unit variance gives output of unit variance; `initialise` scales the
result to what the dense layer gave. Reference: NeuroFabric, arXiv 2002.08339 (sparse init).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import ConfigError, nearest
from ..fabric import Fabric, Stage
from ..registry import Registry
from .gain import balance_outputs, dense_gain
from .seed import check_seed, generator
from .write import is_distributed, write

__all__ = [
    "INITS",
    "PROJECT",
    "check_init",
    "check_seed",
    "dense_gain",
    "generator",
    "initialise",
    "is_distributed",
    "write",
]

INITS = Registry(
    "init",
    "sparsify.inits",
    {
        "orthogonal": ".init.orthogonal:orthogonal",
        "variance": ".init.variance:variance",
    },
)

PROJECT = "project"
"""The init that draws nothing: the weights that come nearest to the trained dense ones."""

Scheme = Callable[[Fabric, torch.Generator, bool], list[Tensor]]


def check_init(name: object) -> None:
    """Check the name of an init.

    Raises:
        ConfigError: there is none of that name.

    Example:
        >>> check_init("project")
    """
    known = (*INITS, PROJECT)
    if name not in known:
        raise ConfigError(
            f"There is no init {name!r}; there are {', '.join(known)}.{nearest(str(name), known)}"
        )


@torch.no_grad()
def initialise(
    factors: Iterable[Tensor],
    fabric: Fabric,
    scheme: str = "orthogonal",
    *,
    gain: float = 1.0,
    random: torch.Generator,
    centred: bool = True,
    spreads: bool = False,
) -> None:
    """Fill the factors of a fabric.

    Args:
        factors: one tensor per `fabric.stages`, of `stage.shape`, on any device or sharded over
            ranks; filled in place.
        fabric: what they belong to.
        scheme: "orthogonal" or "variance".
        gain: standard deviation of the output for white input of unit variance, 0 or more; applied
            once, in the last stage of each branch.
        random: generator on the CPU that all numbers are drawn from.
        centred: for a spatial stage, all weight on the centre tap (delta-orthogonal) instead of
            spread over the taps.
        spreads: whether the taps say where an input goes, as in a transposed convolution; then
            those of one input are drawn as those of one output are else.

    Raises:
        ConfigError: there is no scheme of that name.

    Example:
        >>> fabric = Fabric.from_json('{"in":2,"out":2,"branches":[[[1,2,2,1]]]}')
        >>> weight = torch.empty(1, 1, 2, 2)
        >>> initialise([weight], fabric, random=torch.Generator().manual_seed(0))
        >>> bool(torch.allclose(weight[0, 0] @ weight[0, 0].T, torch.eye(2), atol=1e-6))
        True
    """
    draw: Scheme = INITS[scheme]
    with _one_thread():
        values = draw(fabric, random, centred)
        if spreads and not centred:
            for place, stage in enumerate(fabric.stages):
                if isinstance(stage, Stage) and stage.kernel:
                    values[place] = _turned(stage, draw, random)
    balance_outputs(values, fabric, gain)
    for factor, value in zip(factors, values, strict=True):
        write(factor, value)


def _turned(stage: Stage, draw: Scheme, random: torch.Generator) -> Tensor:
    """The weight of a stage drawn as that of its transpose, of the same size of numbers."""
    turned = replace(stage, b=stage.c, c=stage.b)
    (value,) = draw(Fabric(turned.in_features, turned.out_features, ((turned,),)), random, False)
    return value.transpose(2, 3) * math.sqrt(stage.b / stage.c)


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """The same bits whatever the number of threads; and small blocks are not worth a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
