"""Who runs the points: this process, others on this machine, or a cluster.

To add an engine: one function below and one line in the table.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from functools import partial
from types import ModuleType
from typing import Any

from ..errors import ConfigError, ModelError, nearest, require
from .trial import Trial
from .worker import attempt, be_worker, machine

__all__ = ["ENGINES", "Keep", "attempt_sent", "engine_of", "in_process"]

Run = Callable[..., Any]
Points = list[dict[str, Any]]
Keep = Callable[[str], None]  # takes the line of a trial; the same line twice does no harm
Engine = Callable[[Run, str, Points, int, Keep], None]

# Read when the libraries load, which is before a worker could ask for one thread itself.
_ONE_THREAD = dict.fromkeys(
    ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"
)


def engine_of(name: str, jobs: int) -> Engine:
    """What runs the points.

    Args:
        name: of the table below.
        jobs: how many points run at a time.

    Raises:
        ConfigError: there is no such engine, or no such number of jobs.
        MissingExtraError: it is not installed.

    Example:
        >>> engine_of("joblib", 1) is in_process
        True
    """
    if name not in ENGINES:
        known = ", ".join(map(repr, ENGINES))
        raise ConfigError(
            f"There is no engine {name!r}; there are {known}.{nearest(name, ENGINES)}"
        )
    if isinstance(jobs, bool) or not isinstance(jobs, int) or jobs < 1:
        raise ConfigError(f"jobs is how many points run at a time, 1 or more; got {jobs!r}.")
    if name == "joblib" and jobs == 1:
        return in_process
    extra, engine = ENGINES[name]
    return partial(engine, require(name, extra))


def in_process(run: Run, name: str, points: Points, jobs: int, keep: Keep) -> None:
    """Run point after point here, with the threads that torch has.

    Args:
        run: the function.
        name: what it is called in the results.
        points: what to call it with.
        jobs: one.
        keep: takes the line of each trial that has ended.

    Example:
        >>> in_process(dict, "builtins:dict", [{"lr": 0.1}], 1, lambda line: print(line[:50]))
        {"run": "builtins:dict", "point": {"lr": 0.1}, "re
    """
    for point in points:
        keep(attempt(run, name, json.dumps(point)))


def attempt_sent(sent: bytes, name: str, point: str) -> str:
    """What a worker does: `attempt` with a function that came from another process.

    Raises:
        ConfigError: the function cannot be loaded here.

    Example:
        >>> attempt_sent(pickle.dumps(dict), "builtins:dict", '{"lr": 0.1}')[:23]
        '{"run": "builtins:dict"'
    """
    try:
        run = pickle.loads(sent)
    except Exception as error:  # whatever an import of the user's module raises
        raise ConfigError(
            f"{name} cannot be loaded in a worker process ({type(error).__name__}: {error}). Put "
            "it into a module that every process can import, or run with jobs=1."
        ) from None
    return attempt(run, name, point)


def _joblib(joblib: ModuleType, run: Run, name: str, points: Points, jobs: int, keep: Keep) -> None:
    """Run points in worker processes of this machine, one thread each.

    A process that dies takes all with it, and nobody knows whose fault it was: what was running
    runs again, each point alone, and one that kills its process alone has failed.
    """
    from joblib.externals.loky.backend.reduction import dumps

    sent = _packed(dumps, run, name)
    waiting = [json.dumps(point) for point in points]
    while waiting:
        for suspect in _in_pool(sent, name, waiting, jobs, keep):
            if _in_pool(sent, name, [suspect], 1, keep):
                keep(_dead(name, suspect))


def _in_pool(sent: bytes, name: str, waiting: list[str], jobs: int, keep: Keep) -> list[str]:
    """As `_collect`, in processes of their own."""
    from joblib.externals.loky import ProcessPoolExecutor

    workers = ProcessPoolExecutor(min(jobs, len(waiting)), env=_ONE_THREAD, initializer=be_worker)
    lost: list[str] | None = None
    try:
        submit = partial(workers.submit, attempt_sent, sent, name)
        lost = _collect(submit, waiting, jobs, keep, BrokenExecutor)
    finally:
        workers.shutdown(kill_workers=lost != [])
    return lost


def _ray(ray: ModuleType, run: Run, name: str, points: Points, jobs: int, keep: Keep) -> None:
    """Run points as tasks of the cluster that Ray is connected to, or else of this machine.

    A task has one CPU, and its share of the accelerators.
    """
    sent = _packed(ray.cloudpickle.dumps, run, name)
    is_ours = not ray.is_initialized()
    if is_ours:
        here = {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": jobs}
        ray.init(**here, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:
        share = min(1.0, ray.cluster_resources().get("GPU", 0.0) / jobs)
        task = ray.remote(num_cpus=1, num_gpus=share, max_retries=0)(_task)
        waiting = [json.dumps(point) for point in points]
        deaths = (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError)

        def start(point: str) -> Future[str]:
            future: Future[str] = task.remote(sent, name, point).future()
            return future

        while waiting:
            for point in _collect(start, waiting, jobs, keep, deaths):
                keep(_dead(name, point))
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ModelError(
            f"Ray gave up while it ran {name} ({type(error).__name__}: {error}). What had ended is "
            "in the file; the same sweep goes on from there."
        ) from error
    finally:
        if is_ours:
            ray.shutdown()


def _task(sent: bytes, name: str, point: str) -> str:
    be_worker()
    return attempt_sent(sent, name, point)


def _collect(
    submit: Callable[[str], Future[str]],
    waiting: list[str],
    jobs: int,
    keep: Keep,
    deaths: type[Exception] | tuple[type[Exception], ...],
) -> list[str]:
    """Take points from a list, a number of them at a time, and keep each line when it comes.

    Args:
        submit: starts a point, given as JSON.
        waiting: points; those that were started are gone from it.
        jobs: how many run at a time.
        keep: takes the line of each trial that has ended.
        deaths: what a future raises whose process died; no point is started after the first.

    Returns:
        The points that were running in a process that died.
    """
    running: dict[Future[str], str] = {}
    lost: list[str] = []
    try:
        while running or (waiting and not lost):
            while waiting and not lost and len(running) < jobs:
                point = waiting.pop(0)
                try:
                    running[submit(point)] = point
                except deaths:
                    lost.append(point)
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                try:
                    keep(future.result())
                except deaths:
                    lost.append(running[future])
                del running[future]
    except BaseException:  # ctrl-C, a full disk: what has ended by now is kept all the same
        for future in running:
            if future.done() and future.exception() is None:
                keep(future.result())
        raise
    return lost


def _dead(name: str, point: str) -> str:
    """The trial of a point whose process died, as a line."""
    error = "The process died: it was killed, ran out of memory, or crashed."
    return Trial(name, json.loads(point), None, error, 0.0, machine()).to_line()


def _packed(dumps: Callable[[Run], Any], run: Run, name: str) -> bytes:
    """A function for other processes: by its name, or by value where it is of the main script."""
    try:
        sent = bytes(dumps(run))
    except Exception as error:  # whatever the objects that it uses raise
        raise ConfigError(
            f"{name} cannot be sent to other processes ({type(error).__name__}: {error}). Put it "
            "into a module that every process can import, or run with jobs=1."
        ) from None
    return sent


ENGINES: dict[str, tuple[str, Callable[..., None]]] = {  # by library: the extra that brings it
    "joblib": ("sweep", _joblib),
    "ray": ("ray", _ray),
}
