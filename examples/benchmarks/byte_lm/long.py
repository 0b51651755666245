"""The same comparison when the text is long: where does the dense model catch up?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sparsify as sp

from ..arms import NARROW
from . import equal_size
from .trial import run

__all__ = ["figure", "points", "run", "table"]

WIDTH, STEPS = 256, 10_000
QUICK_WIDTH, QUICK_STEPS = 128, 1000
ARMS = (("automatic", 0.1), (NARROW, 0.1), ("dense", 1.0))
RATES = {"automatic": 0.0015, NARROW: 0.004, "dense": 0.002}
"""About half of the short best ones: the longer a training, the lower its best rate.

Bjorck et al. 2024 (2409.19913) find it to fall with about the power -0.3 of the tokens.
"""


def points(found: Sequence[sp.Trial], quick: bool = False) -> list[dict[str, Any]]:
    """One training of each arm, if it is not there."""
    width, steps = (QUICK_WIDTH, QUICK_STEPS) if quick else (WIDTH, STEPS)
    wanted = [
        {
            **{"arm": arm, "budget": budget, "width": width, "steps": steps},
            **{"lr": RATES[arm], "seed": 0},
        }
        for arm, budget in ARMS
    ]
    done = [trial.point for trial in found]
    return [point for point in wanted if point not in done]


table = equal_size.table
figure = equal_size.figure
