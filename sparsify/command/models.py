"""The model that a verb works on: opened as its options say, planned as they say."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, NothingToDoError

if TYPE_CHECKING:
    from ..frontend.calibrate import Calibration
    from ..frontend.source import Source
    from ..plan import Plan

__all__ = [
    "calibration",
    "has_fabric",
    "inputs_of",
    "open_model",
    "planned",
    "refuse_sparse",
    "unmixed",
]

logger = logging.getLogger(__name__)


def open_model(args: argparse.Namespace, *, is_dry: bool = False) -> Source:
    """The model of a command line; `args.dynamic` becomes the labels of its `--input`.

    Args:
        args: with the options of the group "the model".
        is_dry: whether no values are needed.

    Raises:
        ConfigError: the options are wrong.
        FileError: there is no such file.
        ModelError: it cannot be opened.
    """
    from ..frontend.inputspec import parse_inputs
    from ..frontend.source import Request, open_source

    given = parse_inputs(args.input)
    args.dynamic = given.dynamic
    weights = None if args.weights is None else Path(args.weights)
    is_dry = is_dry and getattr(args, "init", None) != "project"  # which measures weights
    request = Request(args.source, weights, args.trust_pickle, is_dry, args.seed)
    logger.debug("opening %s", args.source)
    return open_source(request, given.inputs)


def planned(args: argparse.Namespace, source: Source) -> Plan:
    """The plan that the options of the group "what to replace" ask for.

    Args:
        args: with these options.
        source: what to plan.
    """
    from ..api import plan
    from .options import parse_budget, parse_rule

    init = getattr(args, "init", "orthogonal")
    return plan(
        source.model,
        source.example_inputs,
        budget=parse_budget(args.budget or "0.1"),
        topology=args.topology or "auto",
        include=args.include,
        exclude=args.exclude,
        rules=[parse_rule(text) for text in args.rule],
        score=args.score or "default",
        min_speedup=args.min_speedup,
        strict=getattr(args, "strict", False),
        init=init,
        calibration=calibration(args, source),
    )


def calibration(args: argparse.Namespace, source: Source) -> Calibration | None:
    """What projection is to know of the inputs, the same object for plan and conversion.

    Args:
        args: with the options of the initial weights.
        source: what to convert.

    Raises:
        ConfigError: `--calibration` without `--init project`, or of no known form.
    """
    from ..frontend.batch_files import read_batches
    from ..frontend.calibrate import Calibration

    spec = getattr(args, "calibration", None)
    if getattr(args, "init", None) != "project":
        if spec:
            raise ConfigError("--calibration goes with --init project.")
        return None
    if not isinstance(spec, Calibration):
        args.calibration = Calibration(read_batches(spec, source.model) if spec else [])
    found: Calibration = args.calibration
    return found


def unmixed(args: argparse.Namespace, plan: Plan) -> Plan:
    """The plan itself, unless options ask for another.

    Args:
        args: with the options of the group "what to replace".
        plan: what `--plan` gave.

    Raises:
        ConfigError: one of them was given.
        IncompleteError: `--strict`, and something stays dense in it.
    """
    for name in ("budget", "topology", "include", "exclude", "rule", "score", "min_speedup"):
        if getattr(args, name):
            option = name.replace("_", "-")
            raise ConfigError(f"--plan has been decided already: --{option} cannot go with it.")
    if getattr(args, "strict", False):
        plan.check_complete()
    return plan


def has_fabric(source: Source) -> bool:
    """Whether some layer is a fabric already."""
    from ..io.recipe import fabrics

    return bool(fabrics(source.model))


def refuse_sparse(args: argparse.Namespace, source: Source) -> None:
    """Refuse a model that has been converted before.

    Args:
        args: whose verb converts.
        source: the model.

    Raises:
        NothingToDoError: some of its layers are fabrics.
    """
    from ..io.recipe import fabrics

    if found := fabrics(source.model):
        raise NothingToDoError(
            f"{args.source} is converted already: {len(found)} of its layers are fabrics, such as "
            f"{next(iter(found)) or 'the model'}. Convert the dense model that it came from, with "
            "another budget; `sparsify inspect` tells what this one has."
        )


def inputs_of(args: argparse.Namespace, source: Source) -> Any:
    """What the model can be called with: its own, or those of the command line.

    Args:
        args: whose verb has to run the model.
        source: the model.

    Raises:
        ConfigError: there are none.
    """
    if source.example_inputs is not None:
        return source.example_inputs
    for name in ("example_input_array", "dummy_inputs"):
        offered = getattr(source.model, name, None)
        if offered is not None:
            return offered if isinstance(offered, dict | tuple) else (offered,)
    raise ConfigError(
        f"{args.verb} has to run the model: give its inputs, such as --input "
        "'x:f32[batch,3,224,224]', or let the factory return (model, example_inputs)."
    )
