"""Every score by which fabrics can be compared before training, in one table.

To add one: a function of a fabric that gives a float, and one line below (or an entry point of the
group `sparsify.scores` in a package of your own). Where it estimates, a function of the same module
named with `_error` behind it gives the relative standard error, or None where the value is exact.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from functools import lru_cache

from ...errors import ConfigError
from ...fabric import Fabric
from ...registry import Registry

__all__ = ["HIGHER_IS_BETTER", "SCORES", "score", "score_errors", "score_named"]

Score = Callable[[Fabric], float]

SCORES = Registry(
    "score",
    "sparsify.scores",
    {
        "effective_width": ".select.score.effective_width:effective_width",
        "path_uniformity": ".select.score.paths:path_uniformity",
        "local_dimension": ".select.score.dimension:local_dimension",
        "generic_rank": ".select.score.rank:generic_rank",
        "reconstruction_gaussian": ".select.score.reconstruction:reconstruction_gaussian",
        "reconstruction_haar": ".select.score.reconstruction:reconstruction_haar",
        "paths_min": ".select.score.paths:paths_min",
        "paths_mean": ".select.score.paths:paths_mean",
        "paths_max": ".select.score.paths:paths_max",
        "path_variation": ".select.score.paths:path_variation",
        "stages": ".select.score.size:stages",
        "isometry": ".select.score.effective_width:isometry",
        "spectral_gap": ".select.score.spectra:spectral_gap",
        "algebraic_connectivity": ".select.score.spectra:algebraic_connectivity",
        "cut_bandwidth": ".select.score.cut:cut_bandwidth",
        "parameters": ".select.score.size:parameters",
    },
)

HIGHER_IS_BETTER: dict[str, bool] = {
    "effective_width": True,
    "path_uniformity": True,
    "local_dimension": True,
    "generic_rank": True,
    "reconstruction_gaussian": False,
    "reconstruction_haar": False,
    "paths_min": True,
    "paths_mean": True,
    "paths_max": True,
    "path_variation": False,
    "stages": False,
    "isometry": False,
    "spectral_gap": True,
    "algebraic_connectivity": True,
    "cut_bandwidth": True,
    "parameters": True,
}
"""Which end of each score is the good one; scores of other packages count as higher is better."""


def score(fabric: Fabric) -> dict[str, float]:
    """Every score of a fabric by name, without data and without training.

    Args:
        fabric: the fabric to rate.

    Raises:
        ConfigError: it is no fabric; or a score of another package gives no finite number.

    Example:
        >>> from sparsify.topology import Monarch
        >>> scores = score(Monarch(4).build(16, 16))
        >>> scores["generic_rank"], scores["local_dimension"], scores["paths_mean"]
        (16.0, 112.0, 1.0)

    Reference:
        NeuroFabric, arXiv 2002.08339 (rating topologies before training).
    """
    if not isinstance(fabric, Fabric):
        raise ConfigError(f"score rates a Fabric, see sp.fabric(...); got {type(fabric).__name__}.")
    return {name: score_named(name, fabric) for name in SCORES}


def score_errors(fabric: Fabric) -> dict[str, float]:
    """The relative standard errors of the scores that are estimates for this fabric.

    Example:
        >>> from sparsify.topology import BlockDiagonal
        >>> "effective_width" in score_errors(BlockDiagonal(4).build(16, 16))
        False
    """
    errors = {name: _error(name, fabric) for name in SCORES}
    return {name: error for name, error in errors.items() if error is not None}


@lru_cache(maxsize=4096)
def score_named(name: str, fabric: Fabric) -> float:
    """One score of a fabric.

    Raises:
        ConfigError: there is no such score, or it gives no finite number.

    Example:
        >>> from sparsify.topology import Monarch
        >>> score_named("stages", Monarch(4).build(16, 16))
        2.0
    """
    function: Score = SCORES[name]
    value = function(fabric)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"The score {name!r} must give a finite number; got {value!r} for {fabric}."
        )
    return number


def _error(name: str, fabric: Fabric) -> float | None:
    function = SCORES[name]
    module = sys.modules.get(getattr(function, "__module__", ""))
    estimate = getattr(module, f"{getattr(function, '__name__', '')}_error", None)
    return None if estimate is None else estimate(fabric)
