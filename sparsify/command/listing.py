"""What each family has for a size and a budget, and how it rates: `sparsify list --in --out`."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..config import Budget, as_budget
from ..fabric import Fabric
from ..report import Row, render
from ..select.choose import AUTO, Choice, choose
from ..select.rating import default_score
from ..select.score import score, score_errors
from ..select.strides import follower
from ..steps import check_positive
from ..topology import TOPOLOGIES, topologies

__all__ = ["Line", "Listing", "rate"]

logger = logging.getLogger(__name__)

_BLOCKS = (  # keys of the scores -> heads of the second and the third table
    {
        "effective_width": "width",
        "path_uniformity": "uniformity",
        "generic_rank": "rank",
        "local_dimension": "dimension",
        "isometry": "isometry",
        "reconstruction_gaussian": "rec. Gauss",
        "reconstruction_haar": "rec. Haar",
    },
    {
        "paths_min": "paths min",
        "paths_mean": "mean",
        "paths_max": "max",
        "path_variation": "variation",
        "spectral_gap": "spectral gap",
        "algebraic_connectivity": "connectivity",
        "cut_bandwidth": "cut",
    },
)


@dataclass(frozen=True)
class Line:
    """The best fabric of one family, None where it has none within the budget.

    Args:
        family: its name; "auto" for the automatic pick.
        fabric: the fabric.
        verdict: what the automatic choice made of it.
        rating: what the choice ranks by.
        scores: every score by name.
        errors: relative errors of those that are estimates.
    """

    family: str
    fabric: Fabric | None
    verdict: str
    rating: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)


def rate(in_features: int, out_features: int, budget: float | Budget) -> Listing:
    """The best fabric of each family within a budget, its scores, and the automatic pick.

    Args:
        in_features: width of the input, at least 1.
        out_features: width of the output, at least 1.
        budget: what may stay of the dense layer.

    Raises:
        ConfigError: a width below 1, or a wrong budget.

    Example:
        >>> print(rate(64, 64, 0.25).render("table").splitlines()[-1].partition(":")[0])
        picked monarch(blocks=8) because
    """
    check_positive("A fabric", in_features=in_features, out_features=out_features)
    share = as_budget(budget).share()

    def best(family: str) -> Choice | None:
        return choose(in_features, out_features, lambda f: f.density / share, family=family)

    pick = best(AUTO)
    lines = [] if pick is None else [_scored(AUTO, pick.fabric, "picked")]
    for family in topologies():
        choice = best(family)
        if choice is None:
            dense = in_features * out_features
            lines.append(Line(family, None, f"none within {share:.3g} of {dense:,} parameters"))
        else:
            # Among all families the pick was the best of its own.
            fabric = pick.fabric if pick and _name(pick.fabric) == family else choice.fabric
            lines.append(_scored(family, fabric, _verdict(family, fabric, pick, lines)))
    return Listing(pick, tuple(lines))


def _scored(family: str, fabric: Fabric, verdict: str) -> Line:
    start = time.perf_counter()
    rating = default_score(fabric, follower(fabric))
    line = Line(family, fabric, verdict, rating, score(fabric), score_errors(fabric))
    logger.info("%s: scored in %.1f s", fabric.family, time.perf_counter() - start)
    return line


def _verdict(family: str, fabric: Fabric, pick: Choice | None, before: Sequence[Line]) -> str:
    if pick is not None and family == _name(pick.fabric):
        return "picked"
    rivals = {_call(rival.family): rival.why for rival in (pick.rivals if pick else ())}
    if family in rivals:
        return rivals[family]
    twins = [line.family for line in before if line.fabric == fabric and line.family != AUTO]
    if twins:
        return f"the same fabric as {twins[0]}"
    return "" if TOPOLOGIES[family].is_structured else "only on request: no fast kernel"


def _name(fabric: Fabric) -> str:
    return _call(fabric.family)


def _call(text: str) -> str:
    """The family in the text of a call."""
    return text.partition("(")[0]


@dataclass(frozen=True)
class Listing:
    """What `rate` found.

    Args:
        pick: the automatic choice, None where nothing fits.
        lines: the pick where there is one, then one line per family.
    """

    pick: Choice | None
    lines: tuple[Line, ...]

    def render(self, form: str, *, styled: bool = False) -> str:
        """As tables and a sentence; as one object in JSON.

        Args:
            form: "table", "json" or "md".
            styled: whether tables may use the terminal's colours.

        Returns:
            The text.
        """
        if form == "json":
            return render((), form, data=self._data())
        families = [line for line in self.lines if line.family != AUTO]
        tables: list[Sequence[Row]] = [[_head_row(line) for line in families]]
        found = [line for line in families if line.fabric]
        tables += [[_score_row(line, heads) for line in found] for heads in _BLOCKS if found]
        texts = [render(rows, form, styled=styled) for rows in tables]
        return "\n\n".join([*texts, self._sentence()])

    def _sentence(self) -> str:
        if self.pick is None:
            return "picked nothing: no family has a fabric within the budget"
        return f"picked {self.pick.fabric.family} because: {self.pick.reason}"

    def _data(self) -> dict[str, Any]:
        return {
            "rows": [_json_row(line) for line in self.lines],
            "picked": None if self.pick is None else self.pick.fabric.family,
            "reason": self._sentence(),
        }


def _head_row(line: Line) -> Row:
    fabric = line.fabric
    return {
        "fabric": line.family if fabric is None else fabric.family,
        "parameters": None if fabric is None else fabric.parameters,
        "density": None if fabric is None else f"{fabric.density:.1%}",
        "stages": None if fabric is None else len(fabric.stages),
        "score": line.rating,
        "verdict": line.verdict,
    }


def _score_row(line: Line, heads: dict[str, str]) -> Row:
    """Scores of one line, with a ~ before estimates."""
    texts = {head: _number(line.scores[key], key in line.errors) for key, head in heads.items()}
    return {"family": line.family, **texts}


def _number(value: float, is_estimate: bool) -> str:
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"~{text}" if is_estimate else text


def _json_row(line: Line) -> dict[str, Any]:
    fabric = line.fabric
    return {
        "family": line.family,
        "fabric": None if fabric is None else str(fabric),
        "call": None if fabric is None else fabric.family,
        "parameters": None if fabric is None else fabric.parameters,
        "density": None if fabric is None else fabric.density,
        "stages": None if fabric is None else len(fabric.stages),
        "verdict": line.verdict,
        "score": line.rating,
        "scores": line.scores,
        "estimator_errors": line.errors,
    }
