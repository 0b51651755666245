"""What becomes of each model of the zoo, as one table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sparsify as sp
from sparsify.plan import Site
from tests.support.weight_flops import weight_flops

from . import ZOO, make

HEADS = ("model", "seen", "replaced", "on request", "stays dense even then")


@dataclass(frozen=True)
class Row:
    """One model: shares of its weight FLOPs, as a second counter sees them.

    Args:
        name: of the model.
        seen: share that belongs to sites of the plan.
        replaced: share that a plan replaces by default.
        requested: share that it replaces where every site is asked for by name.
        kept: why the rest stays dense, with the number of sites.
    """

    name: str
    seen: float
    replaced: float
    requested: float
    kept: str

    def cells(self) -> tuple[str, ...]:
        """As text, shares in percent."""
        shares = (f"{100 * share:.1f}" for share in (self.seen, self.replaced, self.requested))
        return (self.name, *shares, self.kept)


def row(name: str, budget: float = 0.5) -> tuple[Row, sp.Plan]:
    """The row of a model, and the plan that replaces all it can.

    Args:
        name: of `ZOO`.
        budget: half of the parameters: the layers are small.
    """
    total = weight_flops(*make(name, ZOO)).total()
    model, inputs = make(name, ZOO)
    default = sp.plan(model, inputs, budget=budget)
    asked = [site.name for site in default.sites]
    full = sp.plan(model, inputs, budget=budget, include=asked)

    def share(sites: tuple[Site, ...]) -> float:
        return sum(site.dense_flops for site in sites) / total

    found = Row(
        name, share(full.sites), share(default.replaced), share(full.replaced), _reasons(full)
    )
    return found, full


def _reasons(plan: sp.Plan) -> str:
    """The reasons of a plan, the most frequent first."""
    counts = Counter(_short(site) for site in plan.sites if site.fabric is None and site.calls)
    return ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())


def _short(site: Site) -> str:
    """A reason without names, and of tiny layers the one behind it."""
    if site.groups > 1 and site.in_features == site.groups:
        return "depthwise"
    if site.reason.startswith("has no fabric"):
        return "tiny"
    return "tied" if site.reason.startswith("tied to") else site.reason


def markdown(rows: list[Row]) -> str:
    """The table of a README."""
    lines = [HEADS, ("---", "--:", "--:", "--:", "---"), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
