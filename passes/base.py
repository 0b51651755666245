"""What a pass is, what passes work on, and the check of their promises."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import ClassVar

from torch import fx, nn

from ..errors import SparsifyError
from ..plan import Plan, Site

__all__ = ["Pass", "PassError", "PassResult", "Program", "run_passes"]

logger = logging.getLogger(__name__)


class PassError(SparsifyError):
    """A pass broke its own promise: a bug of the pass, never of the model."""


@dataclass(frozen=True)
class Program:
    """A captured model: its graph of operations and the module tree that owns its parameters.

    Args:
        module: the modules; `original` until `ReplaceDense` puts a copy in their place.
        original: the dense modules that the sites are in, never written to: the user's own, or a
            twin of them in which composite owners are unfolded (`sparsify.nn.unfolded_twin`).
        graph: the operations. Recorded: ATen calls, with `get_attr` nodes for parameters by their
            path. Walked, where no inputs are known: one `call_module` node per dense layer.
        recorded: whether the graph was recorded in a run, so that shapes and calls are known.
        folded: the user's own modules, where `original` is a twin of them.
        record: records another model on the same inputs; None where nothing can be run.
        annotated: whether the weight operations of the graph are marked.
        analysed: whether the sites have been looked for.
        sites: the dense operations found.
        plan: what becomes of them.
    """

    module: nn.Module
    original: nn.Module
    graph: fx.Graph
    recorded: bool = False
    folded: nn.Module | None = None
    record: Callable[[nn.Module], fx.Graph] | None = None
    annotated: bool = False
    analysed: bool = False
    sites: tuple[Site, ...] = ()
    plan: Plan | None = None


@dataclass(frozen=True)
class PassResult:
    """What a pass gives back.

    Args:
        program: the program after the pass; the same object where nothing changed.
        modified: whether anything changed.
        note: one line on what was done, or why nothing was.
    """

    program: Program
    modified: bool
    note: str = ""


@dataclass(frozen=True)
class Pass(ABC):
    """One step of the compilation. Its fields are its options; its docstring shows the graph.

    Attributes:
        name: kebab-case, as the command line and the logs call it.
    """

    name: ClassVar[str]

    def requires(self, program: Program) -> None:
        """Raise `PassError` where the program lacks what an earlier pass provides."""

    def need(self, fulfilled: bool, what: str) -> None:
        """Raise `PassError` unless a requirement holds."""
        if not fulfilled:
            raise PassError(f"{self.name} needs {what}.")

    @abstractmethod
    def run(self, program: Program) -> PassResult:
        """Do the step. A pass that does not apply returns the program as it came."""

    def ensures(self, before: Program, after: Program) -> None:
        """Raise `PassError` where the result breaks the promise in the docstring."""

    def __call__(self, program: Program) -> PassResult:
        """Run the pass with its promises checked.

        Raises:
            PassError: a requirement or a promise does not hold.
        """
        self.requires(program)
        result = self.run(program)
        if not result.modified and result.program is not program:
            raise PassError(
                f"{self.name} says that it changed nothing, and returned a new program."
            )
        if result.program.original is not program.original:
            raise PassError(f"{self.name} replaced the user's own model.")
        try:
            result.program.graph.lint()
        except RuntimeError as error:
            raise PassError(f"{self.name} left a broken graph: {error}") from error
        self.ensures(program, result.program)
        logger.debug(
            "%s: %s", self.name, result.note or ("done" if result.modified else "no change")
        )
        return result

    @classmethod
    def options(cls) -> tuple[str, ...]:
        """The names of the options."""
        return tuple(entry.name for entry in fields(cls))


def run_passes(program: Program, passes: Iterable[Pass]) -> Program:
    """Run passes one after the other.

    Args:
        program: what to start from.
        passes: in this order.

    Returns:
        The program after the last one.

    Raises:
        PassError: a pass broke its promise; the message names it and those before it.
    """
    done: list[str] = []
    for step in passes:
        try:
            program = step(program).program
        except PassError as error:
            raise PassError(f"{error} (after the passes: {', '.join(done) or 'none'})") from error
        done.append(step.name)
    return program
