"""Converted layers that make up for what those before them changed.

A layer that was projected for the inputs of the dense model meets others in the converted one. In
the order of the graph, the factors of each are fitted once more: to the outputs that the dense
layer has for the dense model's inputs, from the inputs that the layer now meets. A bias takes over
what is left of the mean.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..nn.matrices import matrix_of, matrix_of_fabric
from ..passes import Program
from ..passes.assign_plan import levels_of
from ..plan import Site
from ..projection import project
from .calibrate import Inputs, leaving_alone, readers, run, watch
from .moments import Moment, Shelf
from .patches import vectors

__all__ = ["refit"]

logger = logging.getLogger(__name__)

_RIDGE = 1e-4
"""Of the mean variance: how much more the old target counts in directions that hardly vary."""

_SWEEPS = 6


class _Seen(NamedTuple):
    """Pairs of rows of one group of layers: those of the dense model, and those met now."""

    now: Moment  # of the converted model's rows
    cross: Moment  # of the dense model's rows with these


class _Reached(BaseException):
    """All layers of interest were called; the rest of the model need not run."""


def refit(program: Program, batches: Sequence[Inputs], shelf: Shelf | None = None) -> int:
    """Fit the layers of a converted model to the dense model's outputs, in the graph's order.

    Layers with no converted layer before them have met no other inputs and stay as they are.

    Args:
        program: with replaced layers that were initialised by projection; they are changed.
        batches: of inputs; each is run through both models once per group of layers.
        shelf: where sums are kept.

    Returns:
        How many layers have changed.
    """
    sites = program.plan.replaced if program.plan is not None else ()
    leaders = readers(program, [site.name for site in sites])
    levels = levels_of(program)
    changed = 0
    with leaving_alone(program.original), leaving_alone(program.module):
        for leader, group in itertools.groupby(sites, lambda site: leaders[site.name]):
            members = list(group)
            if not any(levels.get(site.name) for site in members):
                continue
            seen = _watched(program, leader, members, batches, shelf or Shelf())
            if seen is not None:
                changed += sum(_fitted(program, site, seen) for site in members)
    logger.debug("refit: %d layers changed", changed)
    return changed


def _watched(
    program: Program, leader: str, members: list[Site], batches: Sequence[Inputs], shelf: Shelf
) -> _Seen | None:
    """Run both models on each batch up to the layers, and sum what the leader reads."""
    dense = program.original.get_submodule(leader)
    seen = _Seen(Moment(shelf), Moment(shelf))
    is_once = max(site.calls for site in members) == 1
    for place, batch in enumerate(batches):
        before = _rows(program.original, leader, dense, batch, place, is_once)
        after = _rows(program.module, leader, dense, batch, place, is_once)
        if [rows.shape for rows in before] != [rows.shape for rows in after]:
            return None  # the model went another way
        for old, new in zip(before, after, strict=True):
            seen.now.add(new)
            seen.cross.add(new, old)
    return seen if seen.now.rows else None


def _rows(
    model: nn.Module, name: str, dense: nn.Module, batch: Inputs, place: int, is_once: bool
) -> list[Tensor]:
    """What a layer reads in one run, call by call."""
    found: list[Tensor] = []

    def see(_: nn.Module, x: Tensor) -> None:
        rows = vectors(dense, x)
        if rows is not None:
            found.append(rows)
        if is_once:
            raise _Reached

    with contextlib.ExitStack() as hooks, contextlib.suppress(_Reached):
        watch(hooks, model.get_submodule(name), see)
        run(model, batch, place)
    return found


def _fitted(program: Program, site: Site, seen: _Seen) -> bool:
    """Fit one layer; whether it came nearer."""
    layer: Any = program.module.get_submodule(site.name)
    dense: Any = program.original.get_submodule(site.name)
    weight = matrix_of(dense).double().cpu()
    flat = weight.reshape(site.groups, site.out_features // site.groups, -1)
    centred = layer.bias is not None
    now, cross = seen.now.mean(centred=centred), seen.cross.mean(centred=centred)
    share = seen.now.shrinkage(centred=centred)
    target = _regressed(flat, cross, now, share)
    now = seen.now.shrunk(centred=centred)
    metric = (now[0] if site.groups == 1 else now).numpy()
    shaped = target.reshape(weight.shape).numpy()
    made = project(shaped, layer.fabric, metric, groups=site.groups, sweeps=_SWEEPS)
    current = matrix_of_fabric(layer, dense).double().cpu()
    if not made.error < _error(current.reshape(flat.shape), target, now):
        return False
    for factor, value in zip(layer.factors, made.factors, strict=True):
        factor.copy_(torch.from_numpy(value))
    if centred:
        old_mean, new_mean = seen.cross.means()
        kept = matrix_of_fabric(layer, dense).double().cpu().reshape(flat.shape)
        missing = torch.bmm(flat, old_mean.unsqueeze(2)) - torch.bmm(kept, new_mean.unsqueeze(2))
        layer.bias.copy_(dense.bias.double() + missing.reshape(-1).to(layer.bias.device))
    return True


def _regressed(weight: Tensor, cross: Tensor, now: Tensor, share: Tensor) -> Tensor:
    """The dense matrix that best predicts the dense outputs from the new inputs.

    The less the rows say (a share near 1, see `Moment.shrinkage`), the nearer to the old one.
    """
    level = now.diagonal(dim1=1, dim2=2).mean(1)
    ridge = level * torch.clamp(share / (1 - share).clamp_min(1e-6), min=_RIDGE)
    ridge = torch.where(ridge > 0, ridge, 1.0)  # nothing varies: nothing to learn
    eye = torch.eye(now.shape[1], dtype=now.dtype) * ridge[:, None, None]
    solved: Tensor = torch.linalg.solve(now + eye, (torch.bmm(weight, cross) + weight @ eye).mT)
    return solved.mT


def _error(weight: Tensor, target: Tensor, metric: Tensor) -> float:
    missing = weight - target
    left, whole = (float(((part @ metric) * part).sum()) for part in (missing, target))
    return left / whole if whole > 0 else float(np.inf)
