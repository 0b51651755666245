"""The calls of the public face: glue between frontends, passes and fabrics, and nothing else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from torch import nn

from .config import Budget, Rule, as_budget
from .errors import BudgetError, ConfigError, NothingToDoError
from .fabric import Fabric
from .frontend.calibrate import Calibration
from .frontend.capture import capture, own_inputs
from .frontend.pt2 import as_module
from .frontend.refit import refit
from .init import PROJECT, check_init
from .match import Pattern
from .passes import (
    AnnotateWeights,
    AssignPlan,
    CheckAliases,
    FindSites,
    FollowPlan,
    Initialise,
    KeepDefaults,
    Pass,
    Program,
    ReplaceDense,
    Verify,
    run_passes,
)
from .plan import Plan
from .select.candidates import AUTO, check_topology, family_text
from .select.choose import choose
from .select.criterion import DEFAULT, Criterion
from .topology import Family, build

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from .select.latency import LatencyModel

__all__ = ["fabric", "plan", "sparsify"]

Model = TypeVar("Model", bound="nn.Module | ExportedProgram")

_ANALYSE: tuple[Pass, ...] = (AnnotateWeights(), FindSites(), CheckAliases())


def sparsify(
    model: Model,
    example_inputs: Any = None,
    *,
    budget: float | Budget = 0.1,
    topology: Family = AUTO,
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    rules: Sequence[Rule] = (),
    score: str = DEFAULT,
    min_speedup: float | None = None,
    plan: Plan | None = None,
    strict: bool = False,
    init: str = "orthogonal",
    calibration: Any = None,
    seed: int = 0,
) -> Model:
    """A copy of the model whose dense layers are fabrics; the model itself is not touched.

    Args:
        model: any module. Its class, methods, hooks, modes and ties come back. An
            `ExportedProgram` comes back as one, with the sizes that it had dynamic.
        example_inputs: a tuple of positional or a dict of keyword inputs. Without them the model's
            own (`dummy_inputs`, `example_input_array`) are used, else its layers in their order.
        budget: share of the replaced layers' parameters that may stay, in (0, 1]; or a `Budget`.
            It is one budget for all: layers where it is worth more get more of it.
        topology: a name of `topologies()`, a topology of your own (see `Topology`), or "auto".
        include: patterns of the layers to replace (globs on paths, "re:..." expressions, classes,
            predicates of path and module); all by default. A full path also asks for a layer that
            is kept by default, such as a final head.
        exclude: patterns of layers to keep.
        rules: exceptions for some layers; the first that takes a layer holds.
        score: what fabrics are ranked by: "default", or a key of `score(fabric)`.
        min_speedup: layers that no fabric is predicted to make this many times as fast on this
            machine stay dense. The prediction is measured once per machine.
        plan: follow this plan, and none of the seven arguments above.
        strict: whether to refuse a plan that keeps a dense operation which `exclude`, `include` or
            a rule did not ask to keep, or in which some could not be named.
        init: "orthogonal" or "variance"; or "project", for the weights that come nearest to the
            trained ones. Fabrics and budget then follow the errors, which the plan shows.
        calibration: an iterable of batches, each in a form of example_inputs, for init="project":
            the outputs of the layers for these inputs shall come near then. Without, the weights.
        seed: of all randomness, together with the layers' paths.

    Returns:
        The converted model, of the same class.

    Raises:
        ConfigError: an argument is wrong, or the plan is of another model.
        NothingToDoError: no dense layer, or none that may be replaced.
        BudgetError: no layer has a fabric within the budget.
        IncompleteError: strict, and something stays dense.
        ModelError: the model cannot be captured.
        VerificationError: the converted model is not what was planned.

    Example:
        >>> import sparsify as sp
        >>> from torch.nn import Linear, ReLU, Sequential
        >>> model = Sequential(Linear(256, 256), ReLU(), Linear(256, 10))
        >>> sparse = sp.sparsify(model, budget=0.25)
        >>> type(sparse).__name__, sparse[0].density
        ('Sequential', 0.25)

    Reference:
        ClosNets 1802.03885, NeuroFabric 2002.08339, Sparse Neural Networks Topologies 1706.05683.
    """
    Initialise(init, seed)  # checks them
    choices = _Choices(budget, topology, include, exclude, rules, score, min_speedup)
    known = _known(init, calibration)
    module = as_module(model)
    if plan is None:
        program = _planned(module, example_inputs, choices, known)
    else:
        _refuse(choices)
        program = _analysed(module, _inputs(module, example_inputs, known))
        program = run_passes(program, (FollowPlan(plan),))
    if strict and program.plan is not None:
        program.plan.check_complete()
    if program.plan is None or not program.plan.replaced:
        raise NothingToDoError(f"Nothing to replace. {_kept_reasons(program.plan)}")
    sparse = _converted(program, init, seed, known)
    return cast("Model", sparse if module is model else _program(sparse))


def plan(
    model: nn.Module | ExportedProgram,
    example_inputs: Any = None,
    *,
    budget: float | Budget = 0.1,
    topology: Family = AUTO,
    include: Sequence[Pattern] = (),
    exclude: Sequence[Pattern] = (),
    rules: Sequence[Rule] = (),
    score: str = DEFAULT,
    min_speedup: float | None = None,
    strict: bool = False,
    init: str = "orthogonal",
    calibration: Any = None,
) -> Plan:
    """A dry run of `sparsify`: what would become of each dense layer, and why.

    Costs no memory for weights: a model on the meta device will do.

    Args:
        model: as for `sparsify`, and so are all others.
        example_inputs: as for `sparsify`.
        budget: as for `sparsify`.
        topology: as for `sparsify`.
        include: as for `sparsify`.
        exclude: as for `sparsify`.
        rules: as for `sparsify`.
        score: as for `sparsify`.
        min_speedup: as for `sparsify`.
        strict: as for `sparsify`.
        init: as for `sparsify`; "project" needs the weights, and tells the error of each layer.
        calibration: as for `sparsify`.

    Returns:
        The plan: printable, editable, JSON in and out.

    Raises:
        ConfigError: an argument is wrong.
        NothingToDoError: the model has no dense layer.
        BudgetError: no layer has a fabric within the budget.
        IncompleteError: strict, and something stays dense.
        ModelError: the model cannot be captured.

    Example:
        >>> import torch, sparsify as sp
        >>> sp.plan(torch.nn.Linear(256, 256), budget=0.25).sites[0].parameters
        16384
    """
    choices = _Choices(budget, topology, include, exclude, rules, score, min_speedup)
    check_init(init)
    program = _planned(as_module(model), example_inputs, choices, _known(init, calibration))
    if program.plan is None:
        raise NothingToDoError("The model has no plan.")
    if strict:
        program.plan.check_complete()
    return program.plan


def fabric(
    topology: Family,
    in_features: int,
    out_features: int,
    *,
    budget: float | Budget | None = None,
    score: str = DEFAULT,
    **options: Any,
) -> Fabric:
    """A fabric of a family, from its own options or filling a budget.

    Args:
        topology: a name of `topologies()` or a topology of your own; with a budget also "auto".
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        budget: share of in_features * out_features that may stay, in (0, 1]; never exceeded.
        score: what fabrics within a budget are ranked by, as for `sparsify`.
        options: the family's options by name, in place of a budget.

    Returns:
        The fabric.

    Raises:
        ConfigError: unknown family or option, sizes out of range, both or neither of the two forms.
        BudgetError: no fabric of the family is that small.

    Example:
        >>> import sparsify as sp
        >>> sp.fabric("clos", 1024, 1024, budget=0.1).density <= 0.1
        True
        >>> sp.fabric("monarch", 1024, 1024, blocks=32).parameters
        65536
    """
    check_topology(topology)
    name = family_text(topology)
    if budget is None:
        if topology == AUTO:
            raise ConfigError("The topology 'auto' needs a budget=.")
        return build(topology, in_features, out_features, options)
    if options:
        raise ConfigError(
            f"Give either a budget= or the options of {name} ({', '.join(options)}), not both."
        )
    for side, size in (("in_features", in_features), ("out_features", out_features)):
        if not isinstance(size, int) or isinstance(size, bool) or size < 1:
            raise ConfigError(f"{side} must be a whole number of 1 or more; got {size!r}.")
    share = as_budget(budget).share()

    def usage(candidate: Fabric) -> float:
        return candidate.density / share

    found = choose(in_features, out_features, usage, family=topology, criterion=Criterion(score))
    if found is None:
        raise BudgetError(
            f"No {name} fabric {in_features} -> {out_features} has at most {share:.3g} of the "
            f"{in_features * out_features} dense parameters. Raise the budget."
        )
    return found.fabric


def _program(model: nn.Module) -> ExportedProgram:
    from .export.pt2 import export_program

    return export_program(model)


def _analysed(model: nn.Module, example_inputs: Any) -> Program:
    program = run_passes(capture(model, example_inputs), _ANALYSE)
    if not program.sites:
        raise NothingToDoError(
            f"The model ({type(model).__name__}) has no dense Linear or Conv layer to replace."
        )
    return program


class _Choices(NamedTuple):
    """The arguments that decide what becomes of each layer."""

    budget: float | Budget = 0.1
    topology: Family = AUTO
    include: Sequence[Pattern] = ()
    exclude: Sequence[Pattern] = ()
    rules: Sequence[Rule] = ()
    score: str = DEFAULT
    min_speedup: float | None = None


def _known(init: str, calibration: Any) -> Calibration | None:
    """What projection is to know; None where nothing is projected."""
    if init == PROJECT:
        return Calibration.of(calibration)
    if calibration is not None:
        raise ConfigError(f'calibration goes with init="project"; got init={init!r}.')
    return None


def _inputs(model: nn.Module, example_inputs: Any, known: Calibration | None) -> Any:
    """The example inputs; a batch of the calibration where there are no others."""
    if example_inputs is not None or known is None or not known.batches or own_inputs(model):
        return example_inputs
    args, kwargs = known.batches[0]
    return None if args and kwargs else args or kwargs


def _converted(program: Program, init: str, seed: int, known: Calibration | None) -> nn.Module:
    sites = program.plan.replaced if program.plan is not None else ()
    trained = None if known is None else known.look(program, [site.name for site in sites])
    program = run_passes(program, (ReplaceDense(), Initialise(init, seed, trained)))
    if known is not None and known.batches:
        refit(program, known.batches)
    return run_passes(program, (Verify(),)).module


def _planned(
    model: nn.Module, example_inputs: Any, choices: _Choices, known: Calibration | None = None
) -> Program:
    for name in ("include", "exclude", "rules"):
        value = getattr(choices, name)
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ConfigError(f"{name} must be a list; got {value!r}.")
    for rule in choices.rules:
        if not isinstance(rule, Rule):
            raise ConfigError(f"rules must be a list of Rule; got {rule!r} in it.")
    program = _analysed(model, _inputs(model, example_inputs, known))
    settings = {**choices._asdict(), "budget": as_budget(choices.budget)}
    assign = AssignPlan(**settings, latency=_latency(choices, program))
    asked = (*choices.include, *(rule.pattern for rule in choices.rules if not rule.keep))
    keep = KeepDefaults(asked=frozenset(name for name in asked if isinstance(name, str)))
    program = run_passes(program, (keep,))
    if known is not None:
        assign = replace(assign, trained=known.look(program, assign.wanted(program)))
    return run_passes(program, (assign,))


def _latency(choices: _Choices, program: Program) -> LatencyModel | None:
    """This machine's latency model, where somebody asks for seconds."""
    least = choices.min_speedup
    if least is not None and not (isinstance(least, (int, float)) and 0 < least < math.inf):
        raise ConfigError(f"min_speedup must be a number above 0, such as 1.0; got {least!r}.")
    budgets = (choices.budget, *(rule.budget for rule in choices.rules))
    in_seconds = any(isinstance(b, Budget) and b.latency_s is not None for b in budgets)
    if least is None and not in_seconds:
        return None
    if not program.recorded:
        raise ConfigError(
            "How many seconds a layer takes depends on its input: give example_inputs for a "
            "budget of latency_s or for min_speedup."
        )
    from .bench import latency_model

    return latency_model()


def _refuse(choices: _Choices) -> None:
    """A plan leaves nothing to choose."""
    for name, value, default in zip(_Choices._fields, choices, _Choices(), strict=True):
        if value != default and value != []:
            raise ConfigError(f"plan= has been decided already: {name}= cannot go with it.")


def _kept_reasons(plan: Plan | None) -> str:
    reasons = dict.fromkeys(site.reason for site in plan.sites) if plan else {}
    if not reasons:
        return ""
    return (
        f"All dense layers are kept: {'; '.join(reasons)}. The full path of a layer in include= "
        "overrides what is kept for its size or as a head."
    )
