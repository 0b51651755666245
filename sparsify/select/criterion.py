"""What fabrics are ranked by: the default rating, or any score by name."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import ConfigError, nearest
from ..fabric import Fabric
from .rating import default_score
from .score import HIGHER_IS_BETTER, SCORES, score_named
from .strides import follower

__all__ = ["DEFAULT", "Criterion"]

DEFAULT = "default"
"""The rating that predicts training best in our own measurements."""

_TIE_OF_DEFAULT = 0.01  # of a dense layer, a hundredth

_SHORT = {"reconstruction": "reconstruction_gaussian"}


@dataclass(frozen=True)
class Criterion:
    """A score to rank by, higher is better.

    Args:
        name: "default", or a key of `sparsify.score(fabric)`; "reconstruction" is short for
            "reconstruction_gaussian".

    Raises:
        ConfigError: there is no such score; or, when called, it is not finite.

    Example:
        >>> from sparsify.topology import Monarch
        >>> Criterion("stages")(Monarch(blocks=4).build(16, 16))
        -2.0
    """

    name: str = DEFAULT

    def __post_init__(self) -> None:
        """Check the name."""
        known = (DEFAULT, *SCORES, *_SHORT)
        if self.name not in known:
            raise ConfigError(
                f"There is no score {self.name!r}; there are {', '.join(known)}."
                f"{nearest(str(self.name), known)}"
            )

    def tie(self, highest: float) -> float:
        """Scores that are lower than the highest by no more than this are as good."""
        return _TIE_OF_DEFAULT if self.name == DEFAULT else 0.05 * abs(highest)

    def __call__(self, fabric: Fabric) -> float:
        """Rate a fabric."""
        if self.name == DEFAULT:
            return default_score(fabric, follower(fabric))
        key = _SHORT.get(self.name, self.name)
        value = score_named(key, fabric)
        return value if HIGHER_IS_BETTER.get(key, True) else -value
