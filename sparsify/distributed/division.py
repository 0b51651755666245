"""How one stage of a fabric is divided over the ranks of a tensor parallel group.

The factor (a, d, b, c) of a Kronecker-sparse stage is a grid of independent blocks: cut along a or
d, each rank has whole blocks, its own inputs and its own outputs. A stage with fewer blocks than
ranks is cut through its blocks, along the wider of b and c: along b, every rank reads all inputs;
along c, each rank adds its part to all outputs. Only the narrow side is then shared, for instance
the r features between the two factors of a low-rank fabric. A graph stage is cut by its outputs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError
from ..fabric import Fabric, GraphStage, Weighted
from ..steps import check_positive

__all__ = ["Part", "axis_of", "chunk", "largest_shares", "part_of"]

Indices = npt.NDArray[np.int64]

UNEVEN = 1.25
"""Whole blocks send 1/ranks of what blocks cut through do: worth a rank with that much more."""


@dataclass(frozen=True)
class Part:
    """What one rank has of a stage.

    Args:
        inputs: the features of the stage's input that it reads, each once.
        outputs: the features of the stage's output that it computes, or adds to.
        fabric: its blocks, as JSON: a stage of their own; "" without blocks, and of graphs.
        columns: of a graph, the place in `inputs` of each weight, (outputs, degree).
    """

    inputs: Indices
    outputs: Indices
    fabric: str = ""
    columns: Indices | None = None


def axis_of(stage: Weighted, ranks: int) -> int:
    """The axis of the factor along which a stage is divided.

    Along a or d, where the better of them gives no rank more than `UNEVEN` times its share; else
    along the wider of b and c, if that is more even.

    Example:
        >>> from sparsify.fabric import Stage
        >>> axis_of(Stage(8, 4, 4, 1), 4), axis_of(Stage(1, 4, 4, 13), 4)  # a, d
        (0, 1)
        >>> axis_of(Stage(1, 4, 64, 1), 4), axis_of(Stage(1, 64, 4, 1), 4)  # c, b
        (3, 2)
    """
    if isinstance(stage, GraphStage):
        return 0
    shares = [_largest(size, ranks) for size in stage.shape]
    by_block = 0 if shares[0] <= shares[1] else 1
    if shares[by_block] * ranks <= UNEVEN:
        return by_block
    through = 2 if stage.b >= stage.c else 3
    return by_block if shares[by_block] <= shares[through] else through


def _largest(size: int, ranks: int) -> float:
    """The largest share of an axis that a rank has."""
    return -(-size // ranks) / size


def chunk(size: int, rank: int, ranks: int) -> slice:
    """The share of a rank in an axis, as `torch.chunk` and so DTensor's Shard divide it.

    Example:
        >>> [chunk(5, rank, 4) for rank in range(4)]
        [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None), slice(5, 5, None)]
    """
    most = -(-size // ranks)
    return slice(min(rank * most, size), min((rank + 1) * most, size))


def part_of(stage: Weighted, rank: int, ranks: int) -> Part:
    """The share of a rank in a stage: of the factor, its chunk along `axis_of(stage, ranks)`.

    Args:
        stage: without a kernel.
        rank: 0 to ranks - 1.
        ranks: how many share the stage.

    Example:
        >>> from sparsify.fabric import Stage
        >>> part = part_of(Stage(1, 2, 2, 4), 1, 2)
        >>> part.inputs.tolist(), part.outputs.tolist()
        ([2, 3, 6, 7], [2, 3, 6, 7])
    """
    axis = axis_of(stage, ranks)
    own = chunk(stage.shape[axis], rank, ranks)
    blocks = own.stop - own.start
    if not blocks:
        return Part(np.arange(0), np.arange(0))
    if isinstance(stage, GraphStage):
        neighbours = stage.neighbours()[own]
        inputs = np.unique(neighbours)
        return Part(inputs, np.arange(own.start, own.stop), "", np.searchsorted(inputs, neighbours))
    a, d, b, c = (own if place == axis else slice(None) for place in range(4))
    inputs = np.arange(stage.in_features).reshape(stage.a, stage.c, stage.d)[a, c, d]
    outputs = np.arange(stage.out_features).reshape(stage.a, stage.b, stage.d)[a, b, d]
    local = replace(stage, **{"adbc"[axis]: blocks})
    fabric = Fabric(local.in_features, local.out_features, ((local,),))
    return Part(inputs.ravel(), outputs.ravel(), fabric.to_json())


def largest_shares(fabric: Fabric, ranks: int) -> tuple[float, ...]:
    """The largest share of each factor that a rank holds when `FabricParallel` divides a fabric.

    It is 1 / ranks, and every rank is as busy as the others, where the ranks divide the blocks:
    choose numbers of blocks, ingress and middle switches, ranks and radices that are multiples of
    the number of ranks.

    Args:
        fabric: to be divided; of a layer, `layer.fabric`.
        ranks: over how many.

    Returns:
        One number per stage, in the order of `fabric.stages`.

    Raises:
        ConfigError: fabric is no Fabric, or ranks is no whole number of 1 or more.

    Example:
        >>> import sparsify as sp
        >>> sp.distributed.largest_shares(sp.fabric("monarch", 64, 64, blocks=8), 4)
        (0.25, 0.25)
        >>> sp.distributed.largest_shares(sp.fabric("low_rank", 64, 64, rank=3), 48)
        (0.03125, 0.03125)
    """
    if not isinstance(fabric, Fabric):
        raise ConfigError(
            "fabric must be a Fabric, as sp.fabric(...) makes it and layer.fabric is it; got "
            f"{type(fabric).__name__}."
        )
    check_positive("A division", ranks=ranks)
    return tuple(_largest(s.shape[axis_of(s, ranks)], ranks) for s in fabric.stages)
