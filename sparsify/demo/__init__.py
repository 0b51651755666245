"""The main job on a small transformer that ships with the package: `sparsify demo`."""

from __future__ import annotations

from .result import Arm, Result
from .story import run

__all__ = ["Arm", "Result", "run"]
