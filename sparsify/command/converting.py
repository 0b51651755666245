"""What `sparsify convert` writes, and where."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .models import calibration, inputs_of
from .outputs import check_output, input_files

if TYPE_CHECKING:
    from torch import nn

    from ..frontend.source import Source
    from ..plan import Plan

__all__ = ["convert", "destination"]


def destination(args: argparse.Namespace) -> Path | None:
    """Where the converted model goes, checked before any work.

    Args:
        args: of the verb.

    Returns:
        A file, or a folder where a model folder is converted and no format is asked for; None
        where nothing is to be written.

    Raises:
        ConfigError: neither an output nor a dry run is asked for, or there is no such format.
        FileError: the output cannot serve.
    """
    from ..store import FOLDER, kind_to_save

    if args.output is None:
        if not args.dry_run:
            raise ConfigError("convert needs -o OUTPUT, or --dry-run to write nothing.")
        return None
    _check_pair(args.source, args.output)
    is_folder = kind_to_save(args.output) == FOLDER and Path(args.source).is_dir()
    output = check_output(args.output, input_files(args), replace=args.force, is_folder=is_folder)
    if kind_to_save(args.output) == FOLDER and not is_folder:
        raise ConfigError(
            f"{args.output} would be a model folder, which only a model folder becomes; "
            f"{args.source} is none. Give a path that ends in .safetensors."
        )
    return output


def _check_pair(source: str, output: str) -> None:
    """ONNX models stay ONNX models, and no other becomes one by being converted."""
    is_onnx, to_onnx = (Path(path).suffix.lower() == ".onnx" for path in (source, output))
    if is_onnx and not to_onnx:
        raise ConfigError(
            f"{source} has no code for weights to be loaded into, so that it is converted into "
            f"another ONNX file: give an output that ends in .onnx; got {output}."
        )
    if to_onnx and not is_onnx:
        raise ConfigError(
            f"convert writes {output} from ONNX models only; got {source}. Convert it to "
            ".safetensors, then `sparsify export` it."
        )


def convert(args: argparse.Namespace, source: Source, plan: Plan, output: Path) -> None:
    """Convert a model and write it; one from a folder layer by layer, so that it need not fit.

    Args:
        args: of the verb.
        source: the dense model.
        plan: what becomes of it.
        output: where it goes.
    """
    from ..api import sparsify
    from ..store import FOLDER, kind_to_save, save

    if source.folder is not None and kind_to_save(output) in (FOLDER, ".safetensors"):
        _stream(args, source, plan, output)
        return
    sparse = sparsify(
        source.model,
        source.example_inputs,
        plan=plan,
        init=args.init,
        calibration=calibration(args, source),
        seed=args.seed,
    )
    if output.suffix.lower() == ".pt2":
        _export(args, source, sparse, output)
        return
    save(sparse, output)
    _verify(output)


def _export(args: argparse.Namespace, source: Source, sparse: nn.Module, output: Path) -> None:
    """Write a program, which needs inputs and what may change in them."""
    from ..export.pt2 import export_pt2

    dynamic = args.dynamic or source.dynamic or None
    export_pt2(sparse, output, inputs_of(args, source), dynamic=dynamic)


def _stream(args: argparse.Namespace, source: Source, plan: Plan, output: Path) -> None:
    from ..frontend.capture import capture
    from ..frontend.folder_files import save_folder
    from ..frontend.stream import stream
    from ..io import save
    from ..io.saved import WEIGHTS
    from ..passes import (
        AnnotateWeights,
        CheckAliases,
        FindSites,
        FollowPlan,
        Initialise,
        run_passes,
    )
    from ..store import FOLDER, kind_to_save

    known = calibration(args, source)
    if known is not None and known.trained is None:  # the plan came from a file
        analyse = (AnnotateWeights(), FindSites(), CheckAliases(), FollowPlan(plan))
        program = run_passes(capture(source.model, source.example_inputs), analyse)
        known.look(program, [site.name for site in plan.replaced])
    initialise = Initialise(args.init, args.seed, known and known.trained)
    sparse, values = stream(source.model, source.example_inputs, plan, initialise)
    if kind_to_save(output) == FOLDER:
        save_folder(sparse, output, source=source.folder, values=values)
        _verify(output / WEIGHTS)
    else:
        save(sparse, output, values=values)
        _verify(output)


def _verify(output: Path) -> None:
    """Read a file of ours once more, against its sha256."""
    from ..io.saved import open_saved

    if output.suffix == ".safetensors":
        open_saved(output).verify()
