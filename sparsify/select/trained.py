"""The trained weights that fabrics are to come near, and the inputs that they meet."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ModelError
from ..fabric import Fabric
from ..projection import Projection, best_variant, project

__all__ = ["Trained"]

Matrix = npt.NDArray[np.float64]

_KEPT_BYTES = 1 << 30


@dataclass(eq=False)
class Trained:
    """Where weights and covariances come from, one layer at a time; and what was projected.

    Neither all weights nor all covariances need to be in memory at once.

    Args:
        weight_of: name of a site -> its weight, (out, in / groups, *kernel), of any real type.
        covariance_of: name of a site -> the mean outer product of what it reads, as
            `projection.project` takes it; None where nothing is known.
        mean_of: name of a site -> the mean of what it reads, (groups, in / groups * taps), where
            the covariance is about that mean: a bias has to make up for the error that it gets.

    Example:
        >>> from sparsify.topology import LowRank
        >>> trained = Trained(lambda name: np.ones((4, 4)))
        >>> trained.project("fc", LowRank(1).build(4, 4)).error < 1e-12
        True
    """

    weight_of: Callable[[str], Any]
    covariance_of: Callable[[str], Any] = lambda _: None
    mean_of: Callable[[str], Any] = lambda _: None
    _done: dict[tuple[str, Fabric], Projection] = field(default_factory=dict)
    _bytes: int = 0

    def weight(self, name: str) -> Matrix:
        """The weight of a site in float64.

        Raises:
            ModelError: it has NaN or infinite entries.
        """
        weight = np.asarray(self.weight_of(name), np.float64)
        if not np.isfinite(weight).all():
            bad = int(weight.size - np.isfinite(weight).sum())
            raise ModelError(
                f"The weight of {name!r} has NaN or infinity ({bad} of {weight.size} entries) "
                "and cannot be projected. Mend it, or keep the layer with exclude."
            )
        return weight

    def covariance(self, name: str) -> Matrix | None:
        """What is known of the inputs of a site."""
        found = self.covariance_of(name)
        return None if found is None else np.asarray(found, np.float64)

    def project(self, name: str, fabric: Fabric, groups: int = 1) -> Projection:
        """The factors of a fabric that come nearest, kept for the next call.

        Args:
            name: of the site.
            fabric: of the whole layer, groups and kernel in place.
            groups: of a convolution.

        Raises:
            ModelError: the weight has NaN or infinite entries.
        """
        key = (name, fabric)
        if key not in self._done:
            made = project(self.weight(name), fabric, self.covariance(name), groups=groups)
            self._keep(key, made)
            return made
        return self._done[key]

    def best(self, name: str, fabric: Fabric, groups: int = 1) -> tuple[Fabric, Projection]:
        """The variant of a fabric, with neighbouring or strided blocks, that comes nearest.

        Args:
            name: of the site.
            fabric: as for `project`.
            groups: as for `project`.

        Raises:
            ModelError: the weight has NaN or infinite entries.
        """
        found, made = best_variant(self.weight(name), fabric, self.covariance(name), groups=groups)
        self._keep((name, found), made)
        return found, made

    def _keep(self, key: tuple[str, Fabric], made: Projection) -> None:
        """The plan asks first, then the layer; factors of large models are made again."""
        size = sum(factor.nbytes for factor in made.factors)
        if self._bytes + size <= _KEPT_BYTES:
            self._bytes += size
            self._done[key] = made
