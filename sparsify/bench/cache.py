"""Where the measured model of this machine is kept."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from pathlib import Path

import torch

from ..errors import ConfigError
from ..files import publish
from ..select.latency import LatencyModel
from .calibrate import Measure, calibrate
from .machine import live_kernels, processor, versions
from .measure import measure

__all__ = ["cache_file", "latency_model"]

logger = logging.getLogger(__name__)


def latency_model(recalibrate: bool = False, *, run: Measure = measure) -> LatencyModel:
    """The latency model of this machine, measured at the first call and kept in a file.

    There is one file for each processor, number of threads, version and set of kernels.

    Args:
        recalibrate: measure again even where there is a file.
        run: gives the seconds of a case, see `calibrate`.

    Example:
        >>> latency_model().error.median < 0.2  # doctest: +SKIP
        True
    """
    path = cache_file()
    found = None if recalibrate else _read(path)
    if found is not None:
        return found
    model = calibrate(run=run)
    _write(path, model)
    return model


def cache_file() -> Path:
    """The file of this machine: in $SPARSIFY_CACHE, or in the user's cache folder.

    Example:
        >>> cache_file().name.startswith("latency-")
        True
    """
    text = json.dumps(_key())
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return _folder() / f"latency-{digest}.json"


def _key() -> tuple[object, ...]:
    """What a model must have been measured with to hold now."""
    return (processor(), torch.get_num_threads(), versions(), live_kernels())


def _folder() -> Path:
    own = os.environ.get("SPARSIFY_CACHE")
    if own:
        return Path(own)
    home = Path.home()
    if sys.platform == "darwin":
        shared = home / "Library" / "Caches"
    elif sys.platform == "win32":
        shared = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    else:
        shared = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return shared / "sparsify"


def _read(path: Path) -> LatencyModel | None:
    """The model in the file; None where there is none that holds for this machine."""
    try:
        model = LatencyModel.from_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, ConfigError) as error:
        logger.warning("cannot use %s, so this machine is measured again: %s", path, error)
        return None
    if (model.device, model.threads, model.versions, model.kernels) != _key():
        logger.warning("%s is of another machine, so this one is measured again", path)
        return None
    return model


def _write(path: Path, model: LatencyModel) -> None:
    text = model.to_json() + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        publish(path, lambda place: place.write_text(text, encoding="utf-8"), overwrite=True)
    except OSError as error:
        logger.warning(
            "cannot keep what was measured (%s); set SPARSIFY_CACHE to a folder that you may "
            "write to",
            error,
        )
