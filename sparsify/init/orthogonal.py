"""Independent Haar blocks: cascades that are exact isometries."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from ..fabric import Fabric, GraphStage, Stage
from .graph import nearly_orthogonal

__all__ = ["orthogonal"]


def orthogonal(fabric: Fabric, random: torch.Generator, centred: bool) -> list[Tensor]:
    """Every block of every stage is (semi-)orthogonal, drawn from the Haar measure.

    A cascade whose widths are monotone is exactly (semi-)orthogonal up to its scale; where they are
    not, each stage still preserves the variance. Stages that widen are scaled by sqrt(b / c), so
    that the variance per feature, not the norm, is kept. Graph stages cannot be orthogonal; they
    come as close as `nearly_orthogonal` says.

    Args:
        fabric: what to draw for.
        random: generator on the CPU.
        centred: a spatial stage has its block on the centre tap, all other taps zero.

    Returns:
        One float64 tensor of `stage.shape` per stage.

    Example:
        >>> fabric = Fabric.from_json('{"in":4,"out":4,"branches":[[[2,2,2,1],[1,2,2,2]]]}')
        >>> [tuple(w.shape) for w in orthogonal(fabric, torch.Generator(), True)]
        [(2, 1, 2, 2), (1, 2, 2, 2)]

    Reference:
        Saxe et al. 2014 (orthogonal init); Xiao et al. 2018 (delta-orthogonal convolutions).
    """
    return [
        nearly_orthogonal(stage, random, centred)
        if isinstance(stage, GraphStage)
        else _stage(stage, random, centred)
        for stage in fabric.stages
    ]


def _stage(stage: Stage, random: torch.Generator, centred: bool) -> Tensor:
    blocks = stage.a * stage.d
    if stage.kernel and centred:
        weight = torch.zeros(blocks, stage.b, stage.c, *stage.kernel, dtype=torch.float64)
        flat = weight.flatten(3)
        flat[..., flat.shape[-1] // 2] = _haar(blocks, stage.b, stage.c, random)
    else:
        weight = _haar(blocks, stage.b, stage.fan_in, random)
    return weight.reshape(stage.shape)


def _haar(count: int, rows: int, columns: int, random: torch.Generator) -> Tensor:
    """`count` independent (rows, columns) matrices with rows of unit mean square length."""
    tall, narrow = max(rows, columns), min(rows, columns)
    gaussian = torch.randn(count, tall, narrow, generator=random, dtype=torch.float64)
    with _one_thread():
        q, r = torch.linalg.qr(gaussian)
    # The signs of R's diagonal make Q unique, and with that Haar distributed.
    q = q * torch.where(torch.diagonal(r, dim1=-2, dim2=-1) < 0, -1.0, 1.0).unsqueeze(-2)
    haar: Tensor = q * math.sqrt(rows / columns) if rows >= columns else q.transpose(-2, -1)
    return haar


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """LAPACK's last bits depend on the number of threads, and small blocks gain nothing by it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
