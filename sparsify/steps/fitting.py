"""Sizes of grouped convolutions that convolution libraries have fast code for.

Measured with oneDNN, float32, AVX-512, 3 x 3: groups of 8 channels run at 50 GFLOP/s, of 16 at 75,
of 4 at 25; of 2 at 5, of 7 at 15. So tiny groups are put together in pairs, with zeros where they
do not meet, and odd ones are filled up with zeros: about twice as fast.
"""

from __future__ import annotations

from typing import NamedTuple

from .stage import Stage

__all__ = ["Fitting", "fitting"]

TINY = 2  # channels, up to which groups go together in pairs
LEAST, STEP = 4, 8  # sizes with fast code: this one, and the multiples of that one


class Fitting(NamedTuple):
    """How the groups of a spatial stage, one per block, are computed.

    Attributes:
        outputs: that each group gets.
        inputs: likewise.
        paired: whether two groups then make one.
    """

    outputs: int
    inputs: int
    paired: bool


def fitting(stage: Stage) -> Fitting:
    """The sizes for a stage.

    Example:
        >>> fitting(Stage(1, 8, 7, 16)), fitting(Stage(4, 2, 2, 1))
        (Fitting(outputs=8, inputs=8, paired=False), Fitting(outputs=2, inputs=2, paired=True))
    """
    groups, widest = stage.a * stage.d, max(stage.b, stage.c)
    is_paired = groups % 2 == 0 and 1 < widest <= TINY
    if groups == 1 or widest == 1 or is_paired:
        return Fitting(stage.b, stage.c, is_paired)
    return Fitting(_filled(stage.b), _filled(stage.c), False)


def _filled(size: int) -> int:
    return LEAST if size <= LEAST else -(-size // STEP) * STEP
