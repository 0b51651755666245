"""The benchmarks of the examples as modules, and trials that nobody trained."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import sparsify as sp
from tests.support.paths import ROOT

__all__ = ["module", "trial"]

EXAMPLES = str(ROOT / "examples")


def module(name: str) -> Any:
    """A module of `examples/benchmarks`, imported as the script that runs them does."""
    if EXAMPLES not in sys.path:
        sys.path.append(EXAMPLES)
    return importlib.import_module(f"benchmarks.{name}" if name else "benchmarks")


def trial(point: dict[str, Any], **result: Any) -> sp.Trial:
    """As if a training at the point had ended with the result."""
    return sp.Trial("made:up", point, result, None, 1.0, {})
