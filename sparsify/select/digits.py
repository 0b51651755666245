"""Second moments and paths of a cascade as closed forms over the digits of the feature index.

A Kronecker-sparse stage mixes one digit of the mixed-radix feature index and leaves the others. So
what a cascade does to pairs of features depends only on which digits of the two are equal:

* A *pattern* is the 0/1 matrix of the pairs whose index agrees in some digits, written as ranges of
  place values: ((1, 4), (16, 64)) is agreement of x % 4 and of x // 16 % 4. All symmetric matrices
  of the recursions here are sums of a few patterns (`Terms`), at most one more per stage.
* The paths of a cascade are one *link*: out digit equals in digit, for some digits; as many paths
  wherever they all agree, none elsewhere.

Where a stage's digits do not fit those before it, at seeded shuffles and at graphs, patterns are
replaced by their mean over all permutations of the features. The recursions are linear, so this is
the exact mean over random shuffles there, and close to each one of them where features are many.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from ..fabric import Branch, GraphStage, Shuffle, Stage, Step, Weighted

__all__ = ["Link", "Terms", "classes", "everything", "link", "moments", "spread", "total"]

Range = tuple[int, int]
Pattern = tuple[Range, ...]
Indices = npt.NDArray[np.int64]

Terms = dict[Pattern, float]
"""A sum of patterns: pattern -> coefficient. Its diagonal is the sum of the coefficients."""


def everything(size: int) -> Pattern:
    """Agreement of the whole index: the pattern of the identity."""
    return ((1, size),) if size > 1 else ()


def total(terms: Terms, size: int) -> float:
    """Sum of all entries of the (size, size) matrix.

    Example:
        >>> total({((1, 4),): 1.0, (): 0.5}, 4)
        12.0
    """
    return sum(
        coefficient * size * size / math.prod(high // low for low, high in pattern)
        for pattern, coefficient in terms.items()
    )


def spread(terms: Terms, size: int) -> Terms:
    """The mean over all permutations of the features: one number off the diagonal.

    Example:
        >>> spread({((1, 2),): 1.0}, 4)
        {((1, 4),): 0.6666666666666667, (): 0.3333333333333333}
    """
    diagonal = sum(terms.values())
    if size == 1:
        return {(): diagonal}
    off = (total(terms, size) - size * diagonal) / (size * (size - 1))
    return {everything(size): diagonal - off, (): off}


@lru_cache(maxsize=4096)
def moments(branch: Branch, inputs: int) -> tuple[Terms, Terms]:
    """Fourth moments of the rows of a cascade's product, Gaussian weights of variance 1 / fan-in.

    Args:
        branch: the cascade.
        inputs: features that it reads; where its first step is wider, copies count as if they stood
            anywhere.

    Returns:
        E (q_a . q_b)^2 and E |q_a|^2 |q_b|^2 over pairs of rows.
    """
    width = branch[0].in_features
    copies = 2 * (width - inputs) / (width * (width - 1)) if width > inputs else 0.0
    products: Terms = (
        {everything(width): 1.0 - copies, (): copies} if copies else {everything(width): 1.0}
    )
    norms: Terms = {(): 1.0}
    for step in branch:
        products, norms = advance(products, step), advance(norms, step)
        if isinstance(step, Weighted):
            product, norm = sum(products.values()), sum(norms.values())
            whole = everything(step.out_features)
            products[whole] = products.get(whole, 0.0) + norm + product
            norms[whole] = norms.get(whole, 0.0) + 2 * product
    return products, norms


def advance(terms: Terms, step: Step) -> Terms:
    """The terms of M X M', M the step with its rows divided by its fan-in.

    Example:
        >>> advance({((1, 16),): 1.0}, Stage(4, 4, 4, 1))
        {((4, 16),): 0.25}
    """
    if isinstance(step, GraphStage):
        return _through_graph(terms, step.in_features, step.out_features, step.degree)
    moved: Terms = {}
    for pattern, coefficient in terms.items():
        after = _moved(pattern, step)
        if after is None:
            even = spread(terms, step.in_features)
            return even if isinstance(step, Shuffle) else advance(even, step)
        shrink, result = after
        moved[result] = moved.get(result, 0.0) + coefficient / shrink
    return moved


def _moved(pattern: Pattern, step: Stage | Shuffle) -> tuple[int, Pattern] | None:
    """Where a pattern goes: by what it shrinks, and the new one; None where digits do not fit."""
    ranges = [Digit(low, high, low, high) for low, high in pattern]
    after = _through(ranges, step)
    if after is None:
        return None
    kept = sorted((digit.low, digit.high) for digit in after)
    joined: list[Range] = []
    for low, high in kept:
        if joined and joined[-1][1] == low:
            joined[-1] = (joined[-1][0], high)
        else:
            joined.append((low, high))
    before = math.prod(high // low for low, high in pattern)
    return before // math.prod(high // low for low, high in kept), tuple(joined)


def _through_graph(terms: Terms, inputs: int, outputs: int, degree: int) -> Terms:
    """A biregular graph on features in random order: only how much rows overlap matters."""
    diagonal = sum(terms.values())
    even = spread(terms, inputs)
    off = even[()] if inputs > 1 else 0.0
    on_diagonal = (diagonal + (degree - 1) * off) / degree
    if outputs == 1:
        return {(): on_diagonal}
    readers = degree * outputs // inputs
    shared = inputs * readers * (readers - 1) / (outputs * (outputs - 1)) / degree**2
    beside = shared * diagonal + (1 - shared) * off
    return {everything(outputs): on_diagonal - beside, (): beside}


@dataclass(frozen=True, slots=True)
class Digit:
    """A digit of the present index that equals a digit of an earlier one, by place values."""

    low: int
    high: int
    was_low: int
    was_high: int

    def cut(self, place: int) -> tuple[Digit, ...] | None:
        """Two digits that meet at a place value; None where it does not divide this one."""
        if place <= self.low or place >= self.high:
            return (self,)
        if place % self.low or self.high % place:
            return None
        middle = self.was_low * (place // self.low)
        return (
            Digit(self.low, place, self.was_low, middle),
            Digit(place, self.high, middle, self.was_high),
        )

    def moved(self, factor: int, divisor: int) -> Digit:
        """The digit with place values times factor / divisor."""
        low, high = self.low * factor // divisor, self.high * factor // divisor
        return Digit(low, high, self.was_low, self.was_high)


def _through(digits: Sequence[Digit], step: Stage | Shuffle) -> list[Digit] | None:
    """The digits after a step: those that it mixes are gone; None where they do not fit."""
    if isinstance(step, Stage):
        parts = _cut(_cut(digits, step.d), step.c * step.d)
        if parts is None:
            return None
        low = [digit for digit in parts if digit.high <= step.d]
        high = [digit for digit in parts if digit.low >= step.c * step.d]
        return low + [digit.moved(step.b, step.c) for digit in high]
    stride = step.stride
    if stride is None:
        return list(digits) if _size(digits) in (1, step.size) and len(digits) < 2 else None
    parts = _cut(digits, stride)
    if parts is None:
        return None
    return [
        digit.moved(step.size // stride, 1) if digit.high <= stride else digit.moved(1, stride)
        for digit in parts
    ]


def _cut(digits: Sequence[Digit] | None, place: int) -> list[Digit] | None:
    """The digits, none of them across a place value; None where one cannot be cut there."""
    cut: list[Digit] = []
    for digit in digits or ():
        parts = digit.cut(place)
        if parts is None:
            return None
        cut.extend(parts)
    return None if digits is None else cut


@dataclass(frozen=True, slots=True)
class Link:
    """The paths of a cascade: `count` of them from input i to output o where the classes agree.

    Attributes:
        count: paths of each connected pair.
        classes: number of classes.
        inputs: class of each input of the first step.
        outputs: class of each output of the last step.
    """

    count: float
    classes: int
    inputs: Indices
    outputs: Indices

    def reversed(self) -> Link:
        """The paths of the transposed cascade."""
        return Link(self.count, self.classes, self.outputs, self.inputs)


@lru_cache(maxsize=256)
def link(branch: Branch) -> Link | None:
    """The paths of a cascade in closed form, None where they have no such form.

    Example:
        >>> pair = link((Stage(2, 2, 2, 1),))
        >>> pair.count, pair.inputs.tolist(), pair.outputs.tolist()
        (1.0, [0, 0, 1, 1], [0, 0, 1, 1])
    """
    if any(isinstance(step, GraphStage) for step in branch):
        return None
    steps = [step for step in branch if isinstance(step, Stage | Shuffle)]
    weighted = [place for place, step in enumerate(steps) if isinstance(step, Stage)]
    first, last = weighted[0], weighted[-1] + 1
    width = steps[first].in_features
    digits = [Digit(1, width, 1, width)] if width > 1 else []
    count = 1.0
    for step in steps[first:last]:
        after = _through(digits, step)
        if after is None or (isinstance(step, Shuffle) and step.stride is None and after):
            return None
        if isinstance(step, Stage):
            count *= step.c * _size(after) / _size(digits)
        digits = after
    inputs = classes(width, tuple((d.was_low, d.was_high) for d in digits))
    outputs = classes(steps[last - 1].out_features, tuple((d.low, d.high) for d in digits))
    for step in reversed(steps[:first]):
        before = np.empty_like(inputs)
        before[_order(step)] = inputs
        inputs = before
    for step in steps[last:]:
        outputs = outputs[_order(step)]
    return Link(count, _size(digits), inputs, outputs)


def _size(digits: Sequence[Digit]) -> int:
    return math.prod(digit.high // digit.low for digit in digits)


def _order(step: Step) -> Indices:
    assert isinstance(step, Shuffle)
    return step.permutation()


def classes(width: int, pattern: Pattern) -> Indices:
    """A number for each feature, the same where the digits of the pattern are."""
    codes = np.zeros(width, np.int64)
    index = np.arange(width)
    for low, high in pattern:
        codes = codes * (high // low) + index // low % (high // low)
    return codes
