"""Fabrics: sums of products of sparse factors, as pure data.

A `Fabric` holds no weights and needs no torch. It says which factors there are, in which order, and
how their features connect; layers, kernels, initialisers and exporters all read it.

Any size works without a dead parameter: where a product of block sizes overshoots a width, the
first step *wraps* (its surplus inputs read the first features once more) and the last step *folds*
(its surplus outputs are added to the first ones). Fold is the transpose of wrap.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import ConfigError
from .steps import GraphStage, Shuffle, Stage, Step, Weighted, check_positive

__all__ = ["Fabric", "GraphStage", "Shuffle", "Stage", "Step", "Weighted"]

Matrix = npt.NDArray[np.int64]
Branch = tuple[Step, ...]


@dataclass(frozen=True)
class Fabric:
    """A sum of cascades (branches) of sparse stages, from in_features to out_features.

    Two fabrics are equal when they connect and order their parameters alike, whatever family made
    them.

    Args:
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        branches: the cascades; each a tuple of stages and shuffles, applied in that order.
        family: the call that made it, for people; not part of equality.

    Raises:
        ConfigError: a width is not positive, neighbours disagree in width, a branch has no stage,
            or the ends over- or undershoot the widths by more than wrap and fold can serve.

    Example:
        >>> fabric = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),))
        >>> fabric.parameters, fabric.density
        (128, 0.5)

    Reference:
        ClosNets, arXiv 1802.03885 (products of sparse matrices with topologies picked in advance).
    """

    in_features: int
    out_features: int
    branches: tuple[Branch, ...]
    family: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check that widths agree along each branch."""
        check_positive("A fabric", in_features=self.in_features, out_features=self.out_features)
        if not self.branches:
            raise ConfigError("A fabric needs at least one branch; got none.")
        if not all(isinstance(part, tuple) for part in (self.branches, *self.branches)):
            raise ConfigError(
                f"The branches of a fabric are a tuple of tuples of steps; got {self.branches!r}."
            )
        for branch in self.branches:
            self._check_branch(branch)
        if len({stage.kernel for stage in self.stages if stage.kernel}) > 1:
            raise ConfigError("The spatial stages of a fabric must share one kernel.")

    def _check_branch(self, branch: Branch) -> None:
        if not any(isinstance(step, Weighted) for step in branch):
            raise ConfigError("A branch needs at least one stage with weights; got none.")
        if sum(bool(step.kernel) for step in branch if isinstance(step, Weighted)) > 1:
            raise ConfigError("A branch has at most one spatial stage.")
        for before, after in itertools.pairwise(branch):
            if before.out_features != after.in_features:
                raise ConfigError(
                    f"Steps of a branch must agree in width: {before} writes "
                    f"{before.out_features} features, {after} reads {after.in_features}."
                )
        ends = (
            ("first", branch[0].in_features, self.in_features),
            ("last", branch[-1].out_features, self.out_features),
        )
        for which, step_width, width in ends:
            if not width <= step_width < 2 * width:
                raise ConfigError(
                    f"The {which} step of a branch must have {width} to {2 * width - 1} features "
                    f"outwards (the surplus wraps); got {step_width}."
                )

    @cached_property
    def stages(self) -> tuple[Weighted, ...]:
        """The stages with weights, branch by branch: the order of a layer's factors."""
        return tuple(s for branch in self.branches for s in branch if isinstance(s, Weighted))

    @cached_property
    def parameters(self) -> int:
        """Weights in total, biases not counted."""
        return sum(stage.parameters for stage in self.stages)

    @property
    def kernel(self) -> tuple[int, ...]:
        """Spatial taps of a convolution's fabric, () for a plain one."""
        return next((stage.kernel for stage in self.stages if stage.kernel), ())

    @property
    def dense_parameters(self) -> int:
        """Weights of the dense layer of the same sizes."""
        return self.in_features * self.out_features * math.prod(self.kernel)

    @property
    def density(self) -> float:
        """Parameters kept over parameters of the dense layer."""
        return self.parameters / self.dense_parameters

    @cached_property
    def waist(self) -> int:
        """Features at the narrowest place between input and output, summed over the branches."""
        return sum(
            min(width for step in branch for width in (step.in_features, step.out_features))
            for branch in self.branches
        )

    @property
    def width(self) -> int:
        """How many independent signals pass at most; where nothing wraps, the generic rank."""
        return min(self.in_features, self.out_features, self.waist)

    @property
    def is_exact(self) -> bool:
        """Whether every branch has exactly the fabric's widths, without wrap and fold."""
        return all(
            branch[0].in_features == self.in_features
            and branch[-1].out_features == self.out_features
            for branch in self.branches
        )

    def separates(self, groups: int) -> bool:
        """Whether it serves a grouped layer: no path leads from one group into another.

        Example:
            >>> Fabric(4, 4, ((Stage(2, 2, 2, 1),),)).separates(2)
            True
        """
        steps = [step for branch in self.branches for step in branch]
        return groups == 1 or (
            self.repeats and all(isinstance(s, Stage) and s.a % groups == 0 for s in steps)
        )

    @property
    def repeats(self) -> bool:
        """Whether copies can stand side by side: no wrap, no fold, Kronecker-sparse stages only."""
        return self.is_exact and all(
            isinstance(s, Stage) for branch in self.branches for s in branch
        )

    def flops(self, rows: int = 1) -> int:
        """Floating point operations for `rows` input vectors, a multiply-add counted as two."""
        return 2 * self.parameters * rows

    def mask(self) -> tuple[tuple[Matrix, ...], ...]:
        """The 0/1 matrix of each step, branch by branch, with wrap and fold in the end matrices.

        Returns:
            For each branch the (out, in) matrices in the order of application; the product
            last @ ... @ first counts the paths of the branch. Meant for small sizes.

        Example:
            >>> Fabric(2, 3, ((Stage(1, 3, 2, 1),),)).mask()[0][0].tolist()
            [[1, 1], [1, 1], [1, 1]]
        """
        return tuple(tuple(self._masks(branch)) for branch in self.branches)

    def _masks(self, branch: Branch) -> Iterator[Matrix]:
        last = len(branch) - 1
        for position, step in enumerate(branch):
            matrix = step.mask()
            if position == 0:
                matrix = matrix @ wrap_matrix(step.in_features, self.in_features)
            if position == last:
                matrix = wrap_matrix(step.out_features, self.out_features).T @ matrix
            yield matrix

    def paths(self) -> Matrix:
        """The number of paths from each input to each output, (out_features, in_features)."""
        total = np.zeros((self.out_features, self.in_features), np.int64)
        for matrices in self.mask():
            product = matrices[0]
            for matrix in matrices[1:]:
                product = matrix @ product
            total += product
        return total

    def with_kernel(self, kernel: tuple[int, ...], *, last: bool = False) -> Fabric:
        """The fabric over channels of a convolution: one stage of each branch becomes spatial.

        The stage with the fewest weights takes the taps, because they multiply them; the first of
        equals, so that with a stride the stages after it run on the smaller image. A 1 x 1 kernel
        changes nothing.

        Args:
            kernel: taps along each spatial axis, each 1 or more.
            last: take the last of equals, as a transposed convolution does, whose image grows.

        Example:
            >>> fabric = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),))
            >>> fabric.with_kernel((3, 3)).parameters
            640
        """
        if math.prod(kernel) == 1:
            return self
        if self.kernel:
            raise ConfigError(f"This fabric has a kernel already: {self.kernel}.")
        return replace(self, branches=tuple(_with_kernel(b, kernel, last) for b in self.branches))

    def repeat(self, groups: int) -> Fabric:
        """The fabric of a grouped layer: `groups` independent copies side by side.

        Raises:
            ConfigError: the fabric wraps, shuffles or has graphs, which would mix the groups.

        Example:
            >>> Fabric(4, 4, ((Stage(1, 4, 4, 1),),)).repeat(3).branches[0][0].a
            3
        """
        if groups == 1:
            return self
        if not self.repeats:
            raise ConfigError(
                f"Only a fabric without wrap, shuffle and graph repeats over groups; got {self}."
            )
        branches = tuple(
            tuple(replace(step, a=step.a * groups) for step in branch if isinstance(step, Stage))
            for branch in self.branches
        )
        return Fabric(self.in_features * groups, self.out_features * groups, branches, self.family)

    def transposed(self) -> Fabric:
        """The fabric of the transposed matrix, which leads from the outputs back to the inputs.

        Raises:
            ConfigError: a graph or a kernel is in it, whose transposes are no stages of ours.

        Example:
            >>> Fabric(4, 2, ((Stage(1, 2, 4, 1),),)).transposed().branches
            ((Stage(a=1, b=4, c=2, d=1, kernel=()),),)
        """
        branches = tuple(tuple(_transposed(s) for s in reversed(b)) for b in self.branches)
        return Fabric(self.out_features, self.in_features, branches)

    def to_json(self) -> str:
        """As compact JSON text, the form of files and of the custom ops."""
        return self._json

    @cached_property
    def _json(self) -> str:
        data: dict[str, Any] = {
            "in": self.in_features,
            "out": self.out_features,
            "branches": [[step.to_json() for step in branch] for branch in self.branches],
        }
        if self.family:
            data["family"] = self.family
        return json.dumps(data, separators=(",", ":"))

    @staticmethod
    @lru_cache(maxsize=4096)
    def from_json(text: str) -> Fabric:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: the text is no JSON of a fabric.

        Example:
            >>> fabric = Fabric(2, 3, ((Stage(1, 3, 2, 1),),))
            >>> Fabric.from_json(fabric.to_json()) == fabric
            True
        """
        try:
            data = json.loads(text)
            branches = tuple(tuple(_step(step) for step in branch) for branch in data["branches"])
            return Fabric(data["in"], data["out"], branches, str(data.get("family", "")))
        except ConfigError:
            raise
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"Not the JSON of a fabric ({type(error).__name__}: {error}): {text[:80]!r}."
            ) from None

    def __str__(self) -> str:
        """One readable line."""
        cascades = " + ".join(" . ".join(str(step) for step in branch) for branch in self.branches)
        name = self.family or "fabric"
        return (
            f"{name} {self.in_features} -> {self.out_features}: {cascades}, "
            f"{self.parameters:,} parameters ({self.density:.1%})"
        )


@lru_cache(maxsize=256)
def wrap_matrix(wide: int, width: int) -> Matrix:
    """The 0/1 matrix (wide, width) that reads feature i modulo width at position i."""
    matrix = np.zeros((wide, width), np.int64)
    matrix[np.arange(wide), np.arange(wide) % width] = 1
    return matrix


def _with_kernel(branch: Branch, kernel: tuple[int, ...], last: bool) -> Branch:
    stages = [(i, step) for i, step in enumerate(branch) if isinstance(step, Weighted)]
    position, spatial = min(stages[::-1] if last else stages, key=lambda found: found[1].parameters)
    return (*branch[:position], replace(spatial, kernel=kernel), *branch[position + 1 :])


def _transposed(step: Step) -> Step:
    if isinstance(step, Stage) and not step.kernel:
        return replace(step, b=step.c, c=step.b)
    if isinstance(step, Shuffle) and step.stride is not None:
        return Shuffle(step.size, stride=step.size // step.stride)
    raise ConfigError(f"The transpose of {step} is no step of a fabric.")


def _step(data: Any) -> Step:
    if isinstance(data, list):
        return Stage.from_json(data)
    return GraphStage.from_json(data) if "graph" in data else Shuffle.from_json(data)
