"""What becomes of each model of the zoo, as one table."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import sparsify as sp
from sparsify.plan import Site
from tests.support.weight_flops import weight_flops

from . import ZOO, make

HEADS = ("model", "seen", "replaced", "on request", "dense even then", "ONNX, any")
_SHORT = {
    "tied to": "tied",
    "has no fabric": "tiny",
    "its weight is computed": "computed from parameters",
    "its weight is used": "read by other code",
    "its weight is also read": "read by other code",
    "its weight is held by spectral_norm": "spectral norm",
}


@dataclass(frozen=True)
class Row:
    """One model: shares of its weight FLOPs, as a second counter sees them.

    Args:
        name: of the model.
        seen: share that belongs to sites of the plan.
        replaced: share that a plan replaces by default.
        requested: share that it replaces where every site is asked for by name.
        kept: why the rest stays dense.
    """

    name: str
    seen: float
    replaced: float
    requested: float
    kept: str

    def cells(self) -> tuple[str, ...]:
        """As text, shares in percent."""
        shares = (f"{100 * share:.1f}" for share in (self.seen, self.replaced, self.requested))
        return (self.name, *shares, self.kept, _sizes(self.name))


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
    """Why sites that are used stay dense, the most frequent reason first."""
    counts = Counter(_short(site) for site in plan.sites if site.fabric is None and site.calls)
    return ", ".join(reason for reason, _ in counts.most_common())


def _short(site: Site) -> str:
    if site.groups > 1 and site.in_features == site.groups:
        return "depthwise"
    found = (short for start, short in _SHORT.items() if site.reason.startswith(start))
    return next(found, site.reason)


def _sizes(name: str) -> str:
    """What may change size in an exported file."""
    entry = ZOO[name]
    labels = (label for axes in entry.dynamic.values() for label in axes.values())
    return ", ".join(dict.fromkeys(("batch", *labels))) if entry.exports else "no"


def markdown(rows: list[Row]) -> str:
    """The table of the README."""
    lines = [HEADS, ("---", "--:", "--:", "--:", "---", "---"), *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
