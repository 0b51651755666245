"""Measure this machine: run the cases, fit the costs, say how far they are off."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch

from ..select.latency import LatencyModel, Measured
from ..select.terms import (
    Terms,
    convolution_terms,
    dense_convolution_terms,
    dense_terms,
    fabric_terms,
    graph_stages,
    graph_terms,
)
from .cases import ROWS, Case, cases
from .fit import fit
from .machine import live_kernels, processor, versions
from .measure import measure

__all__ = ["calibrate"]

logger = logging.getLogger(__name__)

DEADLINE = 40.0  # seconds, after which only what is needed is measured
NEEDED_FLOPS = 2**27  # cases up to here are measured even by the slowest machine
ROUNDS = 3
AGAIN = 0.01  # seconds of one call, up to which a case is measured in every round

Measure = Callable[[Case], float]


def calibrate(quick: bool = False, *, run: Measure = measure) -> LatencyModel:
    """Measure dense layers and fabrics on this machine, and fit a model of their time.

    Float32 on the CPU, forward, no gradients, warm (the same layer again and again), with the
    kernels that the operators choose and the threads that torch has now. Takes half a minute, a
    little more on slow machines. Torch's settings and its generator stay as they are.

    Args:
        quick: measure few and small cases, in a few seconds, for a rough model.
        run: gives the seconds of a case.

    Returns:
        The model, with the error of its predictions on shapes that the fit has not seen.

    Example:
        >>> calibrate().error.median < 0.2  # doctest: +SKIP
        True
    """
    logger.info("measuring this machine once, about %d s", 5 if quick else 30)
    times = _times(cases(quick), run)
    fitted = {case: taken for case, taken in times.items() if not case.is_held_out}
    model = LatencyModel(
        device=processor(),
        threads=torch.get_num_threads(),
        dtype="float32",
        kernels=live_kernels(),
        versions=versions(),
        rows=ROWS,
        dense_costs=tuple(_law(fitted, "dense", rows) for rows in ROWS),
        fabric_costs=tuple(_law(fitted, "fabric", rows) for rows in ROWS),
        graph_costs=_law(fitted, "graph"),
        convolution_costs=_law(fitted, "convolution"),
    )
    held_out = tuple(
        Measured(case.site, taken, model.site(case.site, case.site.fabric))
        for case, taken in times.items()
        if case.is_held_out
    )
    return replace(model, held_out=held_out)


def _times(plan: Sequence[Case], run: Measure) -> dict[Case, float]:
    """The seconds of each case: the best of some rounds, as other programs only ever slow down."""
    start = time.perf_counter()
    times: dict[Case, float] = {}
    for turn in range(ROUNDS):
        for case in plan:
            is_late = time.perf_counter() - start > DEADLINE
            if is_late and (turn > 0 or case.flops > NEEDED_FLOPS):
                continue
            if turn == 0:
                times[case] = run(case)
            elif times.get(case, AGAIN) < AGAIN:
                times[case] = min(times[case], run(case))
    return times


def _law(times: Mapping[Case, float], law: str, rows: int | None = None) -> tuple[float, ...]:
    """The costs of one law, at one number of rows where it has several."""
    chosen = {
        case: taken
        for case, taken in times.items()
        if case.law == law and rows in (None, case.site.rows)
    }
    return fit([_terms(case) for case in chosen], list(chosen.values()))


def _terms(case: Case) -> Terms:
    site = case.site
    if case.law == "dense":
        return dense_terms(site.in_features, site.out_features)
    rows, in_rows = site.rows or 1, site.in_rows or site.rows or 1
    if site.fabric is None:
        taps = site.kernel[0] ** 2
        sizes = (site.in_features, site.out_features, taps, site.groups)
        return dense_convolution_terms(*sizes, rows, in_rows)
    if case.law == "graph":
        return graph_terms(graph_stages(site.fabric)[0], rows)
    if case.law == "fabric":
        return fabric_terms(site.fabric)
    return convolution_terms(site.fabric, rows, in_rows)
