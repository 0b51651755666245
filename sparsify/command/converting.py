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

    With calibration the converted model has to run, and is held in memory.

    Args:
        args: of the verb.
        source: the dense model.
        plan: what becomes of it.
        output: where it goes.
    """
    from .. import io
    from ..api import sparsify
    from ..frontend.folder_files import save_folder
    from ..frontend.stream import stream
    from ..io.saved import WEIGHTS
    from ..passes import Initialise
    from ..store import FOLDER, kind_to_save, save

    known = calibration(args, source)
    inputs, values = source.example_inputs, None
    if _streams(source, output) and not (known and known.batches):
        initialise = Initialise(args.init, args.seed, known.trained if known else None)
        sparse, values = stream(source.model, inputs, plan, initialise)
    else:
        options = {"plan": plan, "init": args.init, "calibration": known, "seed": args.seed}
        sparse = sparsify(source.model, inputs, **options)
    kind = kind_to_save(output)
    if kind == FOLDER:
        save_folder(sparse, output, source=source.folder, values=values)
        _verify(output / WEIGHTS)
    elif kind == ".pt2":
        _export(args, source, sparse, output)
    elif kind == ".safetensors":
        io.save(sparse, output, values=values)
        _verify(output)
    else:
        save(sparse, output)


def _streams(source: Source, output: Path) -> bool:
    """Whether the model lies in files, and goes into one of ours."""
    from ..store import FOLDER, kind_to_save

    return source.folder is not None and kind_to_save(output) in (FOLDER, ".safetensors")


def _export(args: argparse.Namespace, source: Source, sparse: nn.Module, output: Path) -> None:
    """Write a program, which needs inputs and what may change in them."""
    from ..export.pt2 import export_pt2

    dynamic = args.dynamic or source.dynamic or None
    export_pt2(sparse, output, inputs_of(args, source), dynamic=dynamic)


def _verify(output: Path) -> None:
    """Read a file of ours once more, against its sha256."""
    from ..io.saved import open_saved

    open_saved(output).verify()
