"""The grammar of the command line, built without torch."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from ..errors import ConfigError, nearest
from ..report import FORMATS
from .examples import EXAMPLES, NOTES
from .options import config_tokens

__all__ = ["parse"]

_CODES = (
    "exit codes: 0 ok, 1 bug, 2 usage or configuration, 3 nothing matched, budget impossible, or\n"
    "something dense left by --strict, 4 model unreadable or unsupported, or a run of a sweep\n"
    "failed, 5 verification failed, 6 input/output, 130 interrupted, 143\n"
    "terminated"
)
_SOURCE = "package.module:factory, a model folder as transformers writes it, m.pt2, or m.onnx"


class _Parser(argparse.ArgumentParser):
    """A parser whose complaints are our own kind of error."""

    def error(self, message: str) -> NoReturn:
        """Raise what `main` reports."""
        raise ConfigError(f"{message}. See {self.prog} --help.")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Arguments as a namespace with `verb` and one attribute per option.

    The options of `--config FILE` are read as if they stood before the others.

    Args:
        arguments: without the program's name.

    Raises:
        ConfigError: an unknown verb or option, or a value of the wrong form.
        FileError: the configuration file is missing.
        SystemExit: after --help and --version.

    Example:
        >>> parse(["list", "--in", "8", "--out", "8"]).inputs
        8
    """
    parser, verbs = _build()
    if arguments and not arguments[0].startswith("-") and arguments[0] not in verbs:
        raise ConfigError(
            f"There is no verb {arguments[0]!r}; there are {', '.join(verbs)}."
            f"{nearest(arguments[0], verbs)}"
        )
    args = _strict(parser, verbs, arguments)
    if getattr(args, "config", None) is not None:
        known = _options(verbs[args.verb])
        tokens = config_tokens(args.config, known)
        args = _strict(parser, verbs, [args.verb, *tokens, *arguments[1:]])
    return args


def _strict(
    parser: _Parser, verbs: dict[str, _Parser], arguments: Sequence[str]
) -> argparse.Namespace:
    args, unknown = parser.parse_known_args(arguments)
    if getattr(args, "grid", None) is not None:  # argparse takes such words from one place only
        args.grid += [word for word in unknown if not word.startswith("-")]
        unknown = [word for word in unknown if word.startswith("-")]
    if unknown:
        known = _options(verbs[args.verb])
        raise ConfigError(
            f"sparsify {args.verb} has no argument {unknown[0]!r}."
            f"{nearest(unknown[0].partition('=')[0], known)}"
        )
    return args


def _options(parser: _Parser) -> list[str]:
    return [option for action in parser._actions for option in action.option_strings]


def _build() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(
        prog="sparsify",
        description="Turn the dense layers of PyTorch models into fabrics of sparse factors.",
        epilog=_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    group = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs: dict[str, _Parser] = {}
    for name, fill in _VERBS.items():
        verb = group.add_parser(
            name,
            help=fill.__doc__,
            description=fill.__doc__,
            epilog=NOTES.get(name, "")
            + "examples:\n"
            + "\n".join(f"  {line}" for line in EXAMPLES[name]),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        fill(verb)
        _add_general(verb, has_data=name != "demo")
        verbs[name] = verb
    return parser, verbs


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it and leave."""
        from ..version import package_version

        sys.stdout.write(f"sparsify {package_version()}\n")
        parser.exit(0)


def _plan(parser: _Parser) -> None:
    """Show what would become of each dense layer, and why."""
    parser.add_argument("source", metavar="SOURCE", help=_SOURCE)
    parser.add_argument("-o", "--output", metavar="FILE", help="write the plan as JSON")
    parser.add_argument("--report", metavar="FILE", help="write the plan as one HTML page")
    _add_init(parser)
    _add_strict(parser)
    _add_force(parser)
    _add_source(parser)
    _add_choices(parser)


def _convert(parser: _Parser) -> None:
    """Replace dense layers by fabrics and save the model."""
    parser.add_argument("source", metavar="SOURCE", help=_SOURCE)
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="m.safetensors, m.pt2, a folder, or m.onnx"
    )
    parser.add_argument("--dry-run", action="store_true", help="plan only, write nothing")
    _add_plan(parser)
    _add_init(parser)
    _add_strict(parser)
    _add_force(parser)
    _add_source(parser)
    _add_choices(parser)


def _export(parser: _Parser) -> None:
    """Write a model as ONNX, verified against it."""
    parser.add_argument("source", metavar="SOURCE", help=_SOURCE)
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="m.onnx or m.pt2")
    parser.add_argument("--opset", type=int, default=18, help="version of ONNX's operators")
    _add_force(parser)
    _add_source(parser)


def _verify(parser: _Parser) -> None:
    """Compare an exported file with the model it was made from."""
    parser.add_argument("file", metavar="FILE", help="m.onnx or m.pt2")
    parser.add_argument("source", metavar="SOURCE", help=_SOURCE)
    _add_source(parser)


def _bench(parser: _Parser) -> None:
    """Measure layers or a model, dense against fabrics; or this machine, for predictions."""
    parser.add_argument("source", metavar="SOURCE", nargs="?", help=f"a whole model: {_SOURCE}")
    group = parser.add_argument_group("or layers")
    several: dict[str, Any] = {"action": "extend", "nargs": "+"}
    group.add_argument(
        "--fabric",
        **several,
        metavar="FABRIC",
        help="family:option=value,..., or a family that fills the --budget (default auto)",
    )
    _add_sizes(group)
    group.add_argument("--suite", metavar="NAME", help="layers that belong together: readme")
    group = parser.add_argument_group("or the machine")
    group.add_argument(
        "--calibrate", action="store_true", help="measure once; later calls show what is kept"
    )
    group.add_argument("--force", action="store_true", help="measure again")
    group = parser.add_argument_group("how")
    group.add_argument("--batch", **several, type=int, metavar="N", help="rows of the input")
    group.add_argument("--threads", **several, type=int, metavar="N", help="default 1")
    group.add_argument(
        "--dtype", **several, metavar="NAME", help="float32, bfloat16, float16, float64"
    )
    group.add_argument("--runtime", **several, metavar="NAME", help="torch (default), onnxruntime")
    group.add_argument(
        "--passes",
        **several,
        metavar="NAME",
        help="forward (default), training (with gradients), step (with AdamW)",
    )
    group.add_argument(
        "--mode", **several, metavar="NAME", help="strict (one call each in turn), warm (repeated)"
    )
    group.add_argument("--kernel", metavar="NAME", help="of torch; see `sparsify doctor`")
    group.add_argument(
        "--seconds", type=float, default=1.0, metavar="S", help="of each measurement (default 1)"
    )
    _add_source(parser)
    _add_plan(parser)
    _add_choices(parser)


def _sweep(parser: _Parser) -> None:
    """Run a function over a grid of values, and keep what it returns in a file."""
    parser.add_argument("run", metavar="RUN", help="package.module:function, which returns a dict")
    parser.add_argument(
        "grid",
        metavar="NAME=VALUE,...",
        nargs="*",
        help="an argument and its values, JSON or text; all combinations run",
    )
    parser.add_argument(
        "-o",
        "--output",
        "--out",
        metavar="FILE",
        required=True,
        help="JSON lines; what it has already is not run again",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=1,
        metavar="N",
        help="runs at a time, one thread each (default 1, with all threads)",
    )
    parser.add_argument(
        "--engine", default="joblib", metavar="NAME", help="joblib (default, this machine), ray"
    )


def _inspect(parser: _Parser) -> None:
    """Show what is inside a file, and whether it is whole."""
    parser.add_argument("file", metavar="FILE", help="safetensors, .pt2, ONNX or plan")


def _list(parser: _Parser) -> None:
    """List what can be chosen from, or what each family gives for a size and a budget."""
    _add_sizes(parser)
    parser.add_argument("--budget", default="0.1", help="share of the parameters that may stay")


def _doctor(parser: _Parser) -> None:
    """Show which kernels, libraries and extras are live, and what is missing."""


def _demo(parser: _Parser) -> None:
    """Run the whole job on a small transformer: plan, convert, train, save, export, compare."""
    parser.add_argument("--quick", action="store_true", help="all the motions in seconds")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps of each model")
    parser.add_argument("--threads", type=int, metavar="N", help="threads to compute with")
    parser.add_argument("--seed", type=int, default=0, help="of weights and batches (default 0)")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="keep the files there")


_VERBS = {
    "plan": _plan,
    "convert": _convert,
    "export": _export,
    "verify": _verify,
    "bench": _bench,
    "sweep": _sweep,
    "inspect": _inspect,
    "list": _list,
    "doctor": _doctor,
    "demo": _demo,
}


def _add_sizes(parser: argparse._ActionsContainer) -> None:
    parser.add_argument("--in", dest="inputs", type=int, metavar="N", help="input features")
    parser.add_argument("--out", dest="outputs", type=int, metavar="N", help="output features")


def _add_plan(parser: _Parser) -> None:
    parser.add_argument("--plan", metavar="FILE", help="follow this plan (JSON of `sparsify plan`)")


def _add_init(parser: _Parser) -> None:
    parser.add_argument(
        "--init",
        metavar="NAME",
        default="orthogonal",
        help="initial weights: orthogonal (default), variance, or project (the trained ones)",
    )
    parser.add_argument(
        "--calibration",
        metavar="SPEC",
        help="inputs for which projected outputs are to be near: .safetensors, .npz or .npy, or "
        "package.module:function that returns batches",
    )


def _add_strict(parser: _Parser) -> None:
    parser.add_argument(
        "--strict",
        action="store_true",
        help="end with code 3 where a layer stays dense that no --exclude, --include or rule keeps",
    )


def _add_force(parser: _Parser) -> None:
    parser.add_argument("--force", action="store_true", help="replace an existing output")


def _add_source(parser: _Parser) -> None:
    group = parser.add_argument_group("the model")
    group.add_argument("--weights", metavar="FILE", help="weights for it: safetensors")
    group.add_argument("--trust-pickle", action="store_true", help="allow a pickle of tensors")
    group.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="SPEC",
        help="example input, 'x:f32[batch,3,224,224]'; named sizes are dynamic; repeatable",
    )
    group.add_argument("--seed", type=int, default=0, help="of random weights (default 0)")


def _add_choices(parser: _Parser) -> None:
    group = parser.add_argument_group("what to replace")
    group.add_argument(
        "--budget",
        help="share of the parameters that may stay (default 0.1), or limits by name: "
        "'parameters=0.2,flops=0.1,latency_s=0.01'",
    )
    group.add_argument(
        "--topology", metavar="NAME", help="a name of `sparsify list` (default auto)"
    )
    group.add_argument("--score", metavar="NAME", help="what to rank by (default: our own rating)")
    group.add_argument(
        "--min-speedup", type=float, metavar="X", help="keep layers dense that gain less than this"
    )
    many: dict[str, Any] = {"action": "append", "default": [], "metavar": "PATTERN"}
    group.add_argument("--include", **many, help="replace only these layers; repeatable")
    group.add_argument("--exclude", **many, help="keep these layers; repeatable")
    group.add_argument(
        "--rule", **{**many, "metavar": "RULE"}, help="'pattern=family:option=value'"
    )
    group.add_argument("--config", metavar="FILE", help="options from a TOML or JSON file")


def _add_general(parser: _Parser, *, has_data: bool) -> None:
    group = parser.add_argument_group("output")
    if has_data:
        group.add_argument("--format", choices=FORMATS, default="table", help="of stdout")
        same: dict[str, Any] = {"action": "store_const", "dest": "format", "const": "json"}
        group.add_argument("--json", **same, default=argparse.SUPPRESS, help="--format json")
        group.add_argument("--color", choices=("auto", "always", "never"), default="auto")
    group.add_argument("--log-file", metavar="FILE", help="write the log there too")
    group.add_argument("-q", "--quiet", action="store_true", help="warnings and errors only")
    group.add_argument("-v", "--verbose", action="count", default=0, help="show what is done")
