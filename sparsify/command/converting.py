"""What `sparsify convert` writes, and where."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .outputs import check_output, input_files

if TYPE_CHECKING:
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
    is_folder = kind_to_save(args.output) == FOLDER and Path(args.source).is_dir()
    output = check_output(args.output, input_files(args), replace=args.force, is_folder=is_folder)
    if kind_to_save(args.output) == FOLDER and not is_folder:
        raise ConfigError(
            f"{args.output} would be a model folder, which only a model folder becomes; "
            f"{args.source} is none. Give a path that ends in .safetensors."
        )
    return output


def convert(args: argparse.Namespace, source: Source, plan: Plan, output: Path) -> None:
    """Convert a model and write it; one from a folder layer by layer, so that it need not fit.

    Args:
        args: of the verb.
        source: the dense model.
        plan: what becomes of it.
        output: where it goes.
    """
    from ..api import sparsify
    from ..store import save

    if source.folder is not None:
        _stream(args, source, plan, output)
        return
    sparse = sparsify(
        source.model, source.example_inputs, plan=plan, init=args.init, seed=args.seed
    )
    save(sparse, output)
    _verify(output)


def _stream(args: argparse.Namespace, source: Source, plan: Plan, output: Path) -> None:
    from ..frontend.folder_files import WEIGHTS, save_folder
    from ..frontend.stream import stream
    from ..io import save
    from ..passes import Initialise
    from ..store import FOLDER, kind_to_save

    initialise = Initialise(args.init, args.seed)
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
