"""Run a function over a grid of points, here or on other machines, and keep what it returns."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable
from typing import Any

from .journal import append, check_appendable, merged, read_trials
from .points import Grid, check_fits, points_of, run_name
from .trial import Trial, trial_key

__all__ = ["Trial", "read_trials", "sweep"]

logger = logging.getLogger(__name__)


def sweep(
    run: Callable[..., Any],
    grid: Grid,
    out: str | os.PathLike[str],
    *,
    jobs: int = 1,
    engine: str = "joblib",
) -> list[Trial]:
    """Run a function at every point of a grid; what a file of results has is not run again.

    Each trial is appended to the file when it ends, so that a sweep which was interrupted goes on
    where it was when it is called again. Where the function raises, or kills its worker process,
    the trial has an error and no result, and runs again next time. The file knows the function by
    its name: after a change of its code, use another file, or put a version into the points.

    Args:
        run: called as `run(**point)`, returns a dict of values that JSON has; NaN and infinity are
            kept, too. A function at the top of a module or of a script.
        grid: values by name, of which every combination is a point; or the points themselves.
        out: a file of JSON lines, made where it is missing. Sweeps that run at the same time do
            not share their work: give each a part of the grid. They may write to one file; those
            of several machines have a file each, see `read_trials`.
        jobs: how many points run at a time. 1: in this process, with the threads that torch has.
            More: in worker processes with one thread each.
        engine: "joblib": on this machine. "ray": on the cluster that Ray is connected to, or else
            on this machine.

    Returns:
        One trial for each point, in the order of the grid, whether it ran now or before.

    Raises:
        ConfigError: a point is none, or the function cannot be called with it, named or sent.
        FileError: the file cannot be written.
        MissingExtraError: the engine is not installed.
        ModelError: the file holds something other than trials, or the cluster was lost. Trials
            that had ended are in the file.

    Example:
        >>> import torch, sparsify as sp
        >>> def train(topology, budget, lr, seed=0):
        ...     torch.manual_seed(seed)
        ...     sizes = [(64, 256), (256, 256), (256, 64)]
        ...     model = torch.nn.Sequential(*(torch.nn.Linear(*size) for size in sizes))
        ...     model = sp.sparsify(model, topology=topology, budget=budget)
        ...     optimizer = torch.optim.AdamW(sp.param_groups(model, lr=lr))
        ...     for _ in range(10):
        ...         x = torch.randn(32, 64)
        ...         loss = (model(x) - x.roll(1, dims=1)).square().mean()
        ...         optimizer.zero_grad()
        ...         loss.backward()
        ...         optimizer.step()
        ...     return {"loss": loss.item()}
        >>> grid = {"topology": ["monarch", "clos"], "budget": [0.25], "lr": [0.001, 0.004]}
        >>> trials = sp.sweep(train, grid, "results.jsonl")
        >>> best = min((t for t in trials if t.result), key=lambda trial: trial.result["loss"])
        >>> best.point["budget"]
        0.25
    """
    from .engines import engine_of  # here, because results are read without torch

    points = points_of(grid)
    name = run_name(run)
    check_fits(run, points)
    start = engine_of(engine, jobs)
    check_appendable(out)
    found = merged(read_trials(out)) if os.path.exists(out) else {}
    wanted = {trial_key(name, point): point for point in points}
    missing = [key for key in wanted if key not in found or found[key].result is None]
    ended: set[str] = set()

    def keep(line: str) -> None:
        trial = Trial.from_line(line)
        if trial.key in ended:
            return
        append(out, line)
        found[trial.key] = trial
        ended.add(trial.key)
        _tell(trial, f"{len(ended)} of {len(missing)}")

    logger.info("%d of %d points have results", len(wanted) - len(missing), len(wanted))
    if missing:
        start(run, name, [wanted[key] for key in missing], jobs, keep)
    return [found[key] for key in wanted]


def _tell(trial: Trial, count: str) -> None:
    point = json.dumps(trial.point)
    if trial.error is None:
        logger.info("%s: %s took %.3g s", count, point, trial.seconds)
    else:
        logger.warning("%s: %s failed with %s", count, point, trial.error.splitlines()[-1])
