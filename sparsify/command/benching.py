"""What `sparsify bench` measures: layers or a model, from its options to the finished text."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator
from typing import TypeVar

from ..api import fabric, sparsify
from ..bench import latency_model, table
from ..bench.arms import FORWARD
from ..bench.comparison import TORCH, Wanted, compare
from ..bench.subject import Subject
from ..bench.suites import SUITES, Layer
from ..bench.told import tell
from ..bench.turns import MODES
from ..errors import ConfigError, nearest
from ..fabric import Fabric
from ..files import read_text
from ..plan import Plan
from ..report import render
from .models import has_fabric, inputs_of, open_model, planned, unmixed
from .options import parse_budget, parse_fabric

__all__ = ["calibrated", "measured"]

Value = TypeVar("Value", int, str)

_BATCHES = (1, 16, 128, 1024)  # of a layer
_LAYER = ("fabric", "inputs", "outputs", "suite")
_MODEL = (
    *("weights", "trust_pickle", "input", "plan", "topology", "min_speedup", "include", "exclude"),
    "rule",
)
_FLAGS = {"inputs": "--in", "outputs": "--out"}


def calibrated(args: argparse.Namespace, *, styled: bool) -> str:
    """How well this machine's times are predicted.

    Args:
        args: of the command line.
        styled: whether tables may use the terminal's colours.

    Raises:
        ConfigError: something else is to be measured too.
    """
    if args.source:
        raise ConfigError(f"--calibrate measures the machine; leave {args.source!r} out.")
    _refuse(args, (*_LAYER, *_MODEL), "--calibrate measures the machine")
    model = latency_model(recalibrate=args.force)
    return render(table.rows(model), args.format, facts=table.facts(model), styled=styled)


def measured(args: argparse.Namespace, *, styled: bool) -> str:
    """How fast layers or a model are, dense against fabrics.

    Args:
        args: of the command line.
        styled: whether tables may use the terminal's colours.

    Raises:
        ConfigError: an option is wrong, or there is nothing to measure.
        SparsifyError: the model cannot be opened, converted, run or exported.
    """
    if not args.source and not any(_has(args, name) for name in _LAYER):
        raise ConfigError(
            "Give bench a model, or a layer such as --fabric monarch:blocks=32 --in 1024 "
            "--out 1024, or --suite readme; --calibrate measures this machine."
        )
    wanted = _wanted(args)
    if args.source:
        _refuse(args, _LAYER, "A model has layers of its own")
        results, notes = compare([_model(args)], wanted)
    else:
        _refuse(args, _MODEL, "A layer is no model")
        fabrics = list(_fabrics(args))  # all are checked before the first is measured
        results, notes = compare(map(Subject.layer, fabrics), wanted)
    return tell(results, notes, args.format, styled=styled)


def _wanted(args: argparse.Namespace) -> Wanted:
    return Wanted(
        runtimes=_once(args.runtime or (TORCH,)),
        batches=_once(args.batch or (() if args.source else _BATCHES)),
        threads=_once(args.threads or (1,)),
        dtypes=_once(args.dtype or ()),
        passes=_once(args.passes or (FORWARD,)),
        modes=_once(args.mode or MODES),
        kernel=args.kernel,
        seconds=args.seconds,
    )


def _once(given: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(given))


def _has(args: argparse.Namespace, name: str) -> bool:
    return getattr(args, name) not in (None, False, [])


def _refuse(args: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    for name in names:
        if _has(args, name):
            option = _FLAGS.get(name, f"--{name.replace('_', '-')}")
            raise ConfigError(f"{why}: {option} cannot go with it.")


# --- layers ---------------------------------------------------------------------------------------


def _fabrics(args: argparse.Namespace) -> Iterator[Fabric]:
    score = {} if args.score is None else {"score": args.score}
    for layer in _layers(args):
        family, options = parse_fabric(layer.fabric)
        if not options:
            options = {"budget": parse_budget(layer.budget), **score}
        elif args.budget and len(args.fabric) == 1:
            raise ConfigError(f"{layer.fabric} has its size already: --budget cannot go with it.")
        yield fabric(family, layer.in_features, layer.out_features, **options)


def _layers(args: argparse.Namespace) -> tuple[Layer, ...]:
    if args.suite is None:
        if args.inputs is None or args.outputs is None:
            raise ConfigError("A layer needs --in and --out, such as --in 1024 --out 4096.")
        sizes, budget = (args.inputs, args.outputs), args.budget or "0.1"
        return tuple(Layer(text, *sizes, budget) for text in args.fabric or ("auto",))
    _refuse(args, ("fabric", "inputs", "outputs", "budget", "score"), "A suite has its own layers")
    if args.suite not in SUITES:
        raise ConfigError(
            f"There is no suite {args.suite!r}; there are {', '.join(SUITES)}."
            f"{nearest(args.suite, SUITES)}"
        )
    return SUITES[args.suite]


# --- a model --------------------------------------------------------------------------------------


def _model(args: argparse.Namespace) -> Subject:
    given = None if args.plan is None else Plan.from_json(read_text(args.plan))
    source = open_model(args)
    if getattr(source.model, "only_format", "") == ".onnx":
        raise ConfigError(
            f"{args.source} runs in onnxruntime, and bench measures models in torch; give the "
            "model that it was exported from, with --runtime onnxruntime."
        )
    if has_fabric(source):
        raise ConfigError(
            f"{args.source} has fabrics already; give the dense model, which bench converts."
        )
    inputs = inputs_of(args, source)
    plan = planned(args, source) if given is None else unmixed(args, given)
    return Subject(
        name=args.source,
        shape=f"{len(plan.replaced)} of {len(plan.sites)} layers replaced",
        dense=source.model,
        sparse=sparsify(source.model, source.example_inputs, plan=plan, seed=args.seed),
        example_inputs=inputs,
        dense_parameters=sum(site.dense_parameters for site in plan.replaced),
        parameters=sum(site.parameters for site in plan.replaced),
    )
