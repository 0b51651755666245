"""Running subjects through all settings: what is asked for, and the loop over it."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch

from ..errors import ConfigError, ModelError, SparsifyError, nearest
from ..ops import use_kernel
from .arms import FORWARD, PASSES, Arm, torch_arm, weight_bytes
from .exported import Files, exported, runtime_call, why_not_native
from .machine import cores, kernels_of
from .result import Result, Setting
from .subject import DTYPES, Subject
from .timing import clock, use_threads
from .turns import MODES, take_turns

__all__ = ["ONNX", "RUNTIMES", "TORCH", "Wanted", "compare"]

logger = logging.getLogger(__name__)

TORCH, ONNX = "torch", "onnxruntime"
RUNTIMES = (TORCH, ONNX)
ONNX_DTYPES = ("float32", "float64")

Arms = tuple[Arm, dict[str, Arm]]
"""Dense, and its rivals by the kernel that runs them."""


@dataclass(frozen=True)
class Wanted:
    """What to measure: everything named, in all combinations.

    Args:
        runtimes: of `RUNTIMES`.
        batches: numbers of rows, each 1 or more; none keeps the example inputs as they are.
        threads: numbers of threads, each from 1 to the cores of this machine.
        dtypes: of `sparsify.bench.subject.DTYPES`; none keeps the weights as they are.
        passes: of `sparsify.bench.arms.PASSES`.
        modes: of `sparsify.bench.turns.MODES`.
        kernel: the kernel that torch must use; by default it chooses.
        seconds: for each measurement, unless five rounds take longer.

    Raises:
        ConfigError: an unknown name, or a number that is out of range.

    Example:
        >>> Wanted(batches=(1, 16)).modes
        ('strict', 'warm')
    """

    runtimes: Sequence[str] = (TORCH,)
    batches: Sequence[int] = ()
    threads: Sequence[int] = (1,)
    dtypes: Sequence[str] = ()
    passes: Sequence[str] = (FORWARD,)
    modes: Sequence[str] = tuple(MODES)
    kernel: str | None = None
    seconds: float = 1.0

    def __post_init__(self) -> None:
        """Check names and ranges."""
        for name, given, known in (
            ("runtime", self.runtimes, RUNTIMES),
            ("dtype", self.dtypes, DTYPES),
            ("passes", self.passes, PASSES),
            ("mode", self.modes, MODES),
        ):
            _check_names(name, given, known)
        for name, values in (("batch", self.batches), ("threads", self.threads)):
            for value in values:
                if value < 1:
                    raise ConfigError(f"{name} must be a whole number of 1 or more; got {value}.")
        most = cores()
        if max(self.threads, default=1) > most:
            raise ConfigError(
                f"This process has {most} cores, so threads are 1 to {most}; got "
                f"{max(self.threads)}. More would measure how they wait for each other."
            )
        if not 0 <= self.seconds < float("inf"):
            raise ConfigError(f"seconds must be 0 or more, such as 1; got {self.seconds}.")


def _check_names(what: str, given: Iterable[str], known: Iterable[str]) -> None:
    for name in given:
        if name not in known:
            raise ConfigError(
                f"{what} is one or several of {', '.join(known)}; got {name!r}."
                f"{nearest(name, known)}"
            )


def compare(subjects: Iterable[Subject], wanted: Wanted) -> tuple[list[Result], list[str]]:
    """Measure every subject in every combination of what is wanted.

    Every result is logged when it is there. Torch's threads and its generator are as before
    afterwards, and no file is left. The subjects' own modules run: they end in another mode.

    Args:
        subjects: what to measure, one after the other.
        wanted: how.

    Returns:
        One result for each rival of dense in each combination; and what was left out, and why.

    Raises:
        ConfigError: the forced kernel does not exist or cannot serve a fabric; or nothing is left.
        ModelError: a subject cannot be run, trained or exported.

    Example:
        >>> from sparsify.topology.monarch import Monarch
        >>> subject = Subject.layer(Monarch(blocks=8).build(64, 64))
        >>> results, notes = compare([subject], Wanted(batches=(2,), seconds=0))
        >>> [result.setting.mode for result in results], notes
        (['strict', 'warm'], [])
    """
    results: list[Result] = []
    notes: dict[str, None] = {}  # in their order, each once
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[]))
        if wanted.kernel:
            stack.enter_context(use_kernel(wanted.kernel))
        for subject in subjects:
            for dtype in wanted.dtypes or (subject.dtype,):
                for result in _results(subject.cast(dtype), wanted, notes):
                    logger.info("%s", result)
                    results.append(result)
    if not results:
        raise ConfigError(f"There is nothing to measure; left out: {'; '.join(notes)}.")
    return results, list(notes)


def _results(subject: Subject, wanted: Wanted, notes: dict[str, None]) -> Iterator[Result]:
    with contextlib.ExitStack() as stack:
        files = None  # exported before anything is measured, because that may fail
        if ONNX in wanted.runtimes and _has_onnx(subject, wanted, notes):
            files = stack.enter_context(exported(subject))
        if TORCH in wanted.runtimes:
            for setting in _settings(TORCH, subject, wanted, wanted.passes):
                yield from _measured(subject, setting, wanted, partial(_in_torch, subject))
        if files is not None:
            arms = partial(_in_onnx, subject, files, notes)
            for setting in _settings(ONNX, subject, wanted, (FORWARD,)):
                yield from _measured(subject, setting, wanted, arms)


def _has_onnx(subject: Subject, wanted: Wanted, notes: dict[str, None]) -> bool:
    """Whether onnxruntime can do some of what is wanted; the rest is noted."""
    if any(passes != FORWARD for passes in wanted.passes):
        notes[f"gradients in {ONNX}, which runs {FORWARD} only"] = None
    if subject.dtype not in ONNX_DTYPES:
        notes[f"{subject.dtype} in {ONNX}, which has no dense product of it on the CPU"] = None
        return False
    return FORWARD in wanted.passes


def _settings(
    runtime: str, subject: Subject, wanted: Wanted, passes: Iterable[str]
) -> Iterator[Setting]:
    """All but the mode, which changes nothing in what is called."""
    batches = wanted.batches or (subject.batch,)
    for threads, one, batch in itertools.product(wanted.threads, passes, batches):
        yield Setting(runtime, subject.dtype, threads, batch, one, mode="")


def _measured(
    subject: Subject, setting: Setting, wanted: Wanted, arms: Callable[[Setting], Arms]
) -> list[Result]:
    """In all modes."""
    results: list[Result] = []
    now = clock(setting.threads)
    with (
        _faults_of(subject, setting),
        use_threads(setting.threads),
        torch.inference_mode(setting.passes == FORWARD),
    ):
        dense, rivals = arms(setting)
        calls = [arm.call for arm in rivals.values()]
        for mode in wanted.modes:
            how = replace(setting, mode=mode)
            times = take_turns(dense.call, calls, mode=mode, now=now, limit=wanted.seconds)
            for (kernel, arm), taken in zip(rivals.items(), times[1:], strict=True):
                held = (dense.held, arm.held)
                results.append(Result(*_about(subject), kernel, how, times[0], taken, *held))
    return results


def _about(subject: Subject) -> tuple[str, str, int, int]:
    return subject.name, subject.shape, subject.dense_parameters, subject.parameters


@contextlib.contextmanager
def _faults_of(subject: Subject, setting: Setting) -> Iterator[None]:
    """Say whose fault it is: the user's own model may raise anything."""
    try:
        yield
    except SparsifyError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{subject.name} cannot be run in {setting.runtime} at batch {setting.batch} "
            f"({setting.passes}): {type(error).__name__}: {reason}"
        ) from error


def _in_torch(subject: Subject, setting: Setting) -> Arms:
    inputs = subject.inputs(setting.batch)
    dense, sparse = (torch_arm(m, inputs, setting.passes) for m in (subject.dense, subject.sparse))
    return dense, {kernels_of(subject.sparse): sparse}


def _in_onnx(subject: Subject, files: Files, notes: dict[str, None], setting: Setting) -> Arms:
    inputs, threads = subject.inputs(setting.batch), setting.threads
    call = runtime_call(files.dense, inputs, threads, native=False)
    reason = why_not_native(files.sparse, inputs)
    if reason is not None:
        notes[f"the native library in {ONNX} ({reason})"] = None
    held, rivals = weight_bytes(subject.sparse), {}
    for kernel in ("body", "native") if reason is None else ("body",):
        rival = runtime_call(files.sparse, inputs, threads, native=kernel == "native")
        rivals[kernel] = Arm(rival, held)
    return Arm(call, weight_bytes(subject.dense)), rivals
