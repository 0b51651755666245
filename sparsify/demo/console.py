"""What the demo says while it works: on stderr, with a progress bar where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["progress", "say"]


def say(text: str = "") -> None:
    """A line of the story."""
    print(text, file=sys.stderr, flush=True)


@contextmanager
def progress(label: str, steps: int) -> Iterator[Callable[[float], None]]:
    """A bar over so many steps; a plain line per fifth of them where nobody watches.

    Args:
        label: what is going on.
        steps: how often the function that it yields will be called, with the loss.
    """
    if not sys.stderr.isatty():
        yield _lines(label, steps)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(f"  {label:12}"),
        BarColumn(),
        TextColumn("{task.completed:>4.0f}/{task.total:.0f} {task.fields[loss]:.3f} bits"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=steps, loss=8.0)
        yield lambda loss: bar.update(task, advance=1, loss=loss)


def _lines(label: str, steps: int) -> Callable[[float], None]:
    done = 0

    def report(loss: float) -> None:
        nonlocal done
        done += 1
        if done * 5 // steps > (done - 1) * 5 // steps:
            say(f"  {label:12} step {done:>4}/{steps}  {loss:.3f} bits per byte")

    return report
