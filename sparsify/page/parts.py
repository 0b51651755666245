"""Numbers and tables of the page."""

from __future__ import annotations

import html
import math

from ..fabric import Fabric
from ..plan import Plan, Site

__all__ = ["escape", "fabric_table", "facts", "score_table", "site_table", "users_of"]

_SCORES = {
    "effective_width": "effective width",
    "path_uniformity": "path uniformity of two layers",
    "local_dimension": "local dimension",
    "generic_rank": "generic rank",
    "reconstruction_gaussian": "reconstruction error, Gaussian",
    "reconstruction_haar": "reconstruction error, orthogonal",
    "paths_min": "paths per pair, least",
    "paths_mean": "paths per pair, mean",
    "paths_max": "paths per pair, most",
    "path_variation": "variation of the paths",
    "stages": "stages",
    "isometry": "distance from isometry",
    "spectral_gap": "spectral gap",
    "algebraic_connectivity": "algebraic connectivity",
    "cut_bandwidth": "cut bandwidth",
    "parameters": "parameters",
}


def escape(text: str) -> str:
    """Text that is only text, inside elements and quoted attributes alike.

    Example:
        >>> escape("<script>")
        '&lt;script&gt;'
    """
    return html.escape(text, quote=True)


def facts(plan: Plan) -> str:
    """The numbers of the whole plan."""
    before = sum(site.dense_parameters for site in plan.sites)
    after = sum(site.parameters for site in plan.sites)
    pairs = [
        ("layers", f"{len(plan.replaced)} of {len(plan.sites)} replaced"),
        ("parameters of all dense layers", _change(before, after)),
        ("parameters of the replaced ones", _change(*_sums(plan, "parameters"))),
    ]
    if all(site.rows is not None or not site.calls for site in plan.sites):
        pairs.append(("FLOPs of the replaced ones, one run", _change(*_sums(plan, "flops"))))
    pairs.append(("share of the model's weight FLOPs replaced", f"{plan.flop_share:.1%}"))
    pairs += [(f"budget, {name}", _use(plan, name, limit)) for name, limit in _limits(plan)]
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in pairs)
    return "<dl>" + "\n".join(rows) + "</dl>"


def _sums(plan: Plan, kind: str) -> tuple[int, int]:
    before = sum(int(getattr(site, f"dense_{kind}")) for site in plan.replaced)
    return before, sum(int(getattr(site, kind)) for site in plan.replaced)


def _limits(plan: Plan) -> list[tuple[str, float]]:
    return [(name, limit) for name, limit in plan.budget.to_json().items() if limit is not None]


def _use(plan: Plan, name: str, limit: float) -> str:
    if name not in ("parameters", "flops"):
        return f"{limit:.3g}"
    before, after = _sums(plan, name)
    if not before:
        return f"{limit:.3g}, nothing replaced"
    return f"{limit:.3g} of them may stay, {after / before:.3g} do ({after / before / limit:.0%})"


def _change(before: int, after: int) -> str:
    return f"{before:,} -> {after:,} ({after / before:.1%})" if before else "0"


def site_table(plan: Plan) -> str:
    """One row per layer: what it is, what becomes of it, why, and what else was possible."""
    heads = (
        "layer", "kind", "shape", "decision", "fabric", "parameters", "density", "why", "rivals",
    )  # fmt: skip
    return _table(heads, [_site_row(site) for site in plan.sites])


def _site_row(site: Site) -> str:
    kernel = f" {'x'.join(map(str, site.kernel))}" if site.kernel else ""
    groups = f", {site.groups} groups" if site.groups > 1 else ""
    shape = f"{site.in_features} -> {site.out_features}{kernel}{groups}"
    fabric = "-" if site.fabric is None else site.fabric.family or "fabric"
    share = site.parameters / site.dense_parameters if site.dense_parameters else 1.0
    cells = (
        f'<td class="name">{escape(site.name or "(the model)")}</td>',
        f"<td>{escape(site.kind)}</td>",
        f'<td class="nowrap">{shape}</td>',
        f"<td>{site.decision}</td>",
        f'<td class="fabric"><code>{escape(fabric)}</code></td>',
        f'<td class="number">{site.parameters:,}</td>',
        f'<td class="number">{share:.1%}</td>',
        f"<td>{escape(site.reason)}</td>",
        f"<td>{_rivals(site)}</td>",
    )
    return f'<tr class="{site.decision}">{"".join(cells)}</tr>'


def _rivals(site: Site) -> str:
    if not site.rivals:
        return "-"
    items = (
        f"<li><code>{escape(rival.family)}</code>, {rival.parameters:,}: {escape(rival.why)}</li>"
        for rival in site.rivals
    )
    return f"<details><summary>{len(site.rivals)}</summary><ul>{''.join(items)}</ul></details>"


def users_of(plan: Plan) -> list[tuple[Fabric, list[str]]]:
    """Each different fabric with the layers that take it, the most used first."""
    users: dict[Fabric, list[str]] = {}
    for site in plan.replaced:
        if site.fabric is not None:
            users.setdefault(site.fabric, []).append(site.name or "(the model)")
    return sorted(users.items(), key=lambda pair: -len(pair[1]))


def fabric_table(users: list[tuple[Fabric, list[str]]]) -> str:
    """Fabrics that are not drawn."""
    rows = [
        f'<tr><td><code>{escape(str(fabric))}</code></td><td class="name">'
        f"{escape(', '.join(names))}</td></tr>"
        for fabric, names in users
    ]
    return _table(("fabric", "layers"), rows)


def score_table(fabric: Fabric) -> str:
    """Every score by name, estimates marked."""
    from ..select.score import score, score_errors

    estimated = score_errors(fabric)
    items = []
    for name, value in score(fabric).items():
        mark = "&asymp; " if name in estimated else ""
        label = _SCORES.get(name, name.replace("_", " "))
        items.append(f"<li><span>{escape(label)}</span><span>{mark}{_number(value)}</span></li>")
    return f'<ul class="scores">{"".join(items)}</ul>'


def _number(value: float) -> str:
    if math.isfinite(value) and value == int(value) and abs(value) < 1e12:
        return f"{int(value):,}"
    return f"{value:.3g}"


def _table(heads: tuple[str, ...], rows: list[str]) -> str:
    head = "".join(f"<th>{name}</th>" for name in heads)
    return (
        f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>\n'
        + "\n".join(rows)
        + "\n</tbody></table></div>"
    )
