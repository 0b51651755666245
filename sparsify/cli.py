"""The command line: `sparsify VERB ...`. Data goes to stdout, everything else to stderr.

The parser is built without torch; a verb imports what it needs when it runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import math
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .command.arguments import parse
from .command.models import has_fabric, inputs_of, open_model, planned, refuse_sparse, unmixed
from .command.outputs import check_output, input_files
from .errors import ConfigError, FileError, SparsifyError, VerificationError, require
from .files import publish, read_text
from .report import Row, render

if TYPE_CHECKING:
    from .plan import Plan

__all__ = ["main"]

logger = logging.getLogger(__name__)

INTERRUPTED, TERMINATED = 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: the arguments, without the program's name; those of the process by default.

    Returns:
        The exit code: see `sparsify --help`.

    Example:
        >>> main(["list", "--format", "json"])  # doctest: +SKIP
        0
    """
    is_verbose = False
    try:
        if argv is None:  # the process is ours: leave nothing behind when it is told to end
            signal.signal(signal.SIGTERM, _terminate)
        args = parse(list(sys.argv[1:] if argv is None else argv))
        is_verbose = args.verbose > 0
        with _logs(args):
            _VERBS[args.verb](args)
        sys.stdout.flush()
    except SystemExit as stop:  # --help, --version
        return int(stop.code or 0)
    except _Terminated:
        return TERMINATED
    except KeyboardInterrupt:
        return _fail("interrupted", INTERRUPTED, False)
    except BrokenPipeError:  # the reader of a pipe had enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SparsifyError as error:
        return _fail(f"error: {error}", error.exit_code, is_verbose)
    except OSError as error:
        return _fail(f"error: {error}", FileError.exit_code, is_verbose)
    except Exception:  # a bug, which must not end without a word
        hint = "this is a bug. Please report it with the command and the text above"
        return _fail(f"internal error: {hint}", SparsifyError.exit_code, True)
    return 0


class _Terminated(BaseException):
    """Told to end, which is no error of whatever runs: no SystemExit, for a sweep keeps those."""


def _terminate(*_: object) -> NoReturn:
    raise _Terminated


def _fail(message: str, code: int, with_traceback: bool) -> int:
    if with_traceback:
        traceback.print_exc()
    print(f"sparsify: {message}", file=sys.stderr)
    return code


# --- the verbs --------------------------------------------------------------------------------


def _plan(args: argparse.Namespace) -> None:
    from .init import PROJECT, check_init

    output = _output(args) if args.output else None
    report = _report(args) if args.report else None
    check_init(args.init)
    plan = planned(args, open_model(args, is_dry=args.init != PROJECT))
    if report:
        from .page import write_report

        write_report(plan, report, title=args.source)
        logger.info("wrote %s", report)
    if output:
        text = plan.to_json() + "\n"
        publish(output, lambda path: path.write_text(text, encoding="utf-8"), overwrite=True)
    _show_plan(args, plan)


def _convert(args: argparse.Namespace) -> None:
    from .command.converting import convert, destination
    from .init import PROJECT, check_init
    from .plan import Plan

    output = destination(args)
    plan = None if args.plan is None else Plan.from_json(read_text(args.plan))
    check_init(args.init)
    source = open_model(args, is_dry=args.dry_run and args.init != PROJECT)
    refuse_sparse(args, source)
    plan = planned(args, source) if plan is None else unmixed(args, plan)
    if output and not args.dry_run:
        convert(args, source, plan, output)
        logger.info("%s\nwrote %s", plan.summary(), output)
    _show_plan(args, plan)


def _export(args: argparse.Namespace) -> None:
    from .export import exporter

    write = exporter(args.output)
    output = _output(args)
    source = open_model(args)
    example_inputs = inputs_of(args, source)
    if not has_fabric(source):
        logger.warning("the model has no fabric; `sparsify convert` makes one that has")
    opset = {} if output.suffix.lower() == ".pt2" else {"opset": args.opset}
    report = write(
        source.model,
        output,
        example_inputs,
        dynamic=args.dynamic or source.dynamic or None,
        **opset,
    )
    logger.info("wrote %s", output)
    _show_report(args, report)


def _verify(args: argparse.Namespace) -> None:
    from .export.pt2_compare import compare_pt2
    from .verify import compare

    if not Path(args.file).is_file():
        raise FileError(f"There is no file {args.file}.")
    source = open_model(args)
    is_program = Path(args.file).suffix.lower() == ".pt2"
    run = compare_pt2 if is_program else compare
    report = run(source.model, args.file, inputs_of(args, source))
    _show_report(args, report)
    if not report.passed:
        raise VerificationError(
            f"{args.file} differs from the model: output {report.worst.output!r} is off by "
            f"{report.worst.max_abs:.1e} at {report.worst.at or 'its sizes'}."
        )


def _bench(args: argparse.Namespace) -> None:
    from .command.benching import calibrated, measured

    tell = calibrated if args.calibrate else measured
    print(tell(args, styled=_is_styled(args)))


def _sweep(args: argparse.Namespace) -> None:
    from .command.sweeping import check_passed, rows, swept

    trials = swept(args)
    _show(args, rows(trials), data=[json.loads(trial.to_line()) for trial in trials])
    check_passed(trials, args.output)


def _inspect(args: argparse.Namespace) -> None:
    from .io.contents import contents

    found = contents(Path(args.file))
    _show(args, found.rows, facts=found.facts)


def _list(args: argparse.Namespace) -> None:
    from .environment import plug_ins

    if (args.inputs is None) != (args.outputs is None):
        raise ConfigError("--in and --out go together: sparsify list --in 1024 --out 4096.")
    if args.inputs is None:
        _show(args, plug_ins())
        return
    from .command.listing import rate
    from .command.options import parse_budget

    listing = rate(args.inputs, args.outputs, parse_budget(args.budget))
    print(listing.render(args.format, styled=_is_styled(args)))


def _doctor(args: argparse.Namespace) -> None:
    from .environment import capabilities

    rows: list[Row] = [
        {"kind": c.kind, "name": c.name, "live": c.is_live, "detail": c.detail}
        for c in capabilities()
    ]
    _show(args, rows)


def _demo(args: argparse.Namespace) -> None:
    from .demo import run

    run(
        steps=args.steps,
        seed=args.seed,
        threads=args.threads,
        output=args.output,
        quick=args.quick,
    )


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


# --- what the verbs share -----------------------------------------------------------------------


def _output(args: argparse.Namespace) -> Path:
    return check_output(args.output, input_files(args), replace=args.force)


def _report(args: argparse.Namespace) -> Path:
    """Where the page goes; refused before any work where it cannot be written."""
    require("matplotlib", "plot")
    inputs = [path for path in (args.source, args.weights, args.config, args.output) if path]
    return check_output(args.report, inputs, replace=args.force)


def _show_plan(args: argparse.Namespace, plan: Plan) -> None:
    data = json.loads(plan.to_json()) if args.format == "json" else None
    _show(args, plan.rows(), data=data)
    if args.format != "json":
        print(f"\n{plan.summary()}")
        if rivals := plan.rivals():
            print()
            _show(args, rivals)


def _show_report(args: argparse.Namespace, report: Any) -> None:
    rows = [
        {
            "batch": d.batch or None,
            "output": d.output,
            "max abs error": d.max_abs if math.isfinite(d.max_abs) else str(d.max_abs),
            "relative error": d.relative if math.isfinite(d.relative) else str(d.relative),
            "allowed": d.tolerance,
            "result": "ok" if d.passed else "FAILED",
        }
        for d in report.differences
    ]
    _show(args, rows)


def _show(args: argparse.Namespace, rows: Sequence[Row], **more: Any) -> None:
    print(render(rows, args.format, styled=_is_styled(args), **more))


def _is_styled(args: argparse.Namespace) -> bool:
    wanted = {"always": True, "never": False}.get(args.color)
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ if wanted is None else wanted


@contextlib.contextmanager
def _logs(args: argparse.Namespace) -> Iterator[None]:
    """Our own logger's lines on stderr, and in a file where asked; as before afterwards."""
    root = logging.getLogger("sparsify")
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    handlers[0].setLevel(logging.WARNING if args.quiet else logging.INFO - 10 * args.verbose)
    if args.log_file:
        try:
            handlers.append(logging.FileHandler(args.log_file, encoding="utf-8"))
        except OSError as error:
            raise FileError(f"Cannot write {args.log_file}: {error.strerror}.") from error
    level = root.level
    root.setLevel(logging.DEBUG)
    for handler in handlers:
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(level)
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()
