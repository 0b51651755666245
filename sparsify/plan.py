"""Plans: every dense site of a model with a decision and a reason, as plain data.

A plan prints as a table, travels as JSON, and is the recipe that `sparsify(model, plan=plan)`
follows to the letter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from .config import Budget
from .errors import ConfigError, IncompleteError, nearest
from .fabric import Fabric
from .site import Site

__all__ = ["Plan", "Site"]

SCHEMA = 1

_HEADS = ("site", "kind", "shape", "decision", "parameters", "fabric or reason")

_NAMED = 3  # operations or sites that a sentence names


@dataclass(frozen=True)
class Plan:
    """The sites of a model in the order of its graph, each with a decision and a reason.

    Args:
        sites: the sites.
        budget: what the plan was made for.
        unseen: share of the model's weight FLOPs in operations that read a matrix of parameters and
            that we cannot name, by a rough estimate; None where no run of the model was watched.
        unseen_operations: these operations, each with its parameter.

    Raises:
        ConfigError: two sites of one name, or a share out of range.

    Example:
        >>> plan = Plan((Site("fc1", "linear", 784, 10).kept("final head"),))
        >>> Plan.from_json(plan.to_json()) == plan
        True
    """

    sites: tuple[Site, ...]
    budget: Budget = field(default_factory=lambda: Budget(parameters=0.1))
    unseen: float | None = None
    unseen_operations: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check that names are names, and the share a share."""
        if self.unseen is not None and not 0 <= self.unseen <= 1:
            raise ConfigError(f"What is unseen is a share between 0 and 1; got {self.unseen!r}.")
        names = [site.name for site in self.sites]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ConfigError(f"The plan has the site {twice!r} twice.")

    @property
    def replaced(self) -> tuple[Site, ...]:
        """The sites that become fabrics."""
        return tuple(site for site in self.sites if site.decision == "replace")

    @property
    def density(self) -> float:
        """Parameters kept over dense parameters, of the replaced sites; 1.0 if there are none."""
        dense = sum(site.dense_parameters for site in self.replaced)
        return sum(site.parameters for site in self.replaced) / dense if dense else 1.0

    @property
    def flop_share(self) -> float:
        """Share of the model's weight FLOPs that the replaced sites had, in [0, 1].

        Weight FLOPs are those of matrix products and convolutions with a parameter as an operand;
        those of `unseen` operations count too.
        """
        total = sum(site.dense_flops for site in self.sites)
        seen = 1 - (self.unseen or 0.0)
        return seen * sum(site.dense_flops for site in self.replaced) / total if total else 0.0

    def edit(self, name: str, *, fabric: Fabric | None, reason: str = "edited") -> Plan:
        """The plan with another decision for one site.

        Args:
            name: the site's name.
            fabric: what it becomes; None keeps it dense.
            reason: why.

        Raises:
            ConfigError: no site of that name, or a fabric of other sizes.

        Example:
            >>> plan = Plan((Site("fc1", "linear", 784, 256),))
            >>> plan.edit("fc1", fabric=None).sites[0].decision
            'keep'
        """
        names = [site.name for site in self.sites]
        if name not in names:
            raise ConfigError(f"The plan has no site {name!r}.{nearest(name, names)}")
        site = self.sites[names.index(name)]
        if fabric is None:
            edited = site.kept(reason, by_user=True)
        else:
            edited = replace(
                site,
                decision="replace",
                reason=reason,
                fabric=fabric,
                by_user=False,
                error=None,
            )
        return replace(self, sites=tuple(edited if s.name == name else s for s in self.sites))

    def check_complete(self) -> None:
        """Raise unless every dense operation is replaced or kept by the user's own choice.

        Raises:
            IncompleteError: some stay dense for another reason, or could not be named.

        Example:
            >>> site = Site("fc1", "linear", 784, 10).kept("excluded by 'fc1'", by_user=True)
            >>> Plan((site,)).check_complete()
        """
        kept = [site for site in self.sites if site.decision == "keep" and not site.by_user]
        if kept:
            listed = ", ".join(f"{site.name!r} ({site.reason})" for site in kept[:_NAMED])
            more = f" and {len(kept) - _NAMED} more" if len(kept) > _NAMED else ""
            raise IncompleteError(
                f"Strict: {len(kept)} of {len(self.sites)} dense sites stay dense: {listed}{more}. "
                "Ask for them by name with include, keep them on purpose with exclude, or do "
                "without strict."
            )
        if self.unseen:
            names = ", ".join(self.unseen_operations[:_NAMED])
            raise IncompleteError(
                f"Strict: about {self.unseen:.1%} of the weight FLOPs are in operations that are "
                f"not known here ({names}). Do without strict to convert the rest."
            )

    def diff(self, other: Plan) -> str:
        """What another plan decides differently, one line per site; empty where nothing.

        Example:
            >>> plan = Plan((Site("fc1", "linear", 784, 256),))
            >>> plan.diff(plan)
            ''
        """
        mine = {site.name: site for site in self.sites}
        theirs = {site.name: site for site in other.sites}
        lines = []
        for name in dict.fromkeys((*mine, *theirs)):
            before, after = (_decision_text(side.get(name)) for side in (mine, theirs))
            if before != after:
                lines.append(f"{name}: {before} -> {after}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps(
            {
                "schema": SCHEMA,
                "budget": self.budget.to_json(),
                "unseen": self.unseen,
                "unseen_operations": list(self.unseen_operations),
                "sites": [site.to_json() for site in self.sites],
            },
            indent=1,
        )

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: the text is no plan, or of a later schema.
        """
        try:
            return _plan_from_json(json.loads(text))
        except ConfigError:
            raise
        except (TypeError, KeyError, ValueError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"Not the JSON of a plan ({type(error).__name__}: {error}): {str(text)[:60]!r}."
            ) from None

    def rows(self) -> list[dict[str, str]]:
        """The table of `print(plan)` as text cells, one dictionary per site."""
        is_projected = any(site.error is not None for site in self.sites)
        return [
            {
                "site": site.name or "(the model)",
                "kind": site.kind,
                "shape": _shape_text(site),
                "decision": site.decision,
                "parameters": _change(site.dense_parameters, site.parameters),
                **({"error": _error_text(site.error)} if is_projected else {}),
                "fabric or reason": _why(site),
            }
            for site in self.sites
        ]

    def rivals(self) -> list[dict[str, str]]:
        """What each chosen fabric won against, as text cells; layers that are alike once.

        Example:
            >>> Plan((Site("fc1", "linear", 784, 256),)).rivals()
            []
        """
        lines: dict[tuple[str, str, str], dict[str, str]] = {}
        for site in self.replaced:
            shape, chosen = _shape_text(site), site.fabric.family if site.fabric else ""
            for rival in site.rivals:
                lines.setdefault(
                    (shape, chosen, rival.family),
                    {
                        "shape": shape,
                        "chosen": chosen,
                        "rival": rival.family,
                        "parameters": f"{rival.parameters:,}",
                        "score": "-" if rival.score is None else f"{rival.score:.3g}",
                        "why not": rival.why,
                    },
                )
        return list(lines.values())

    def _measure(self) -> str:
        """What the shares are shares of: where no run told the rows, every weight counts once."""
        unknown = any(site.rows is None and site.calls for site in self.sites)
        return "weights (no run: give example_inputs for FLOPs)" if unknown else "weight FLOPs"

    def summary(self) -> str:
        """One line: what is replaced, how much stays, what it covers."""
        dense = sum(site.dense_parameters for site in self.replaced)
        kept = sum(site.parameters for site in self.replaced)
        return (
            f"{len(self.replaced)} of {len(self.sites)} sites replaced, parameters {dense:,} -> "
            f"{kept:,} (density {self.density:.1%}), {self.flop_share:.1%} of the {self._measure()}"
            f"{self._blind_spot()}{self._errors()}"
        )

    def _errors(self) -> str:
        """The mean error of what is projected, each dense weight counted once."""
        found = [(s.error, s.dense_parameters) for s in self.replaced if s.error is not None]
        if not found:
            return ""
        mean = sum(error * size for error, size in found) / sum(size for _, size in found)
        return f", mean error {_error_text(mean)}"

    def _blind_spot(self) -> str:
        """How much of the model the plan does not list, where that is known."""
        if self.unseen is None:
            return ""
        names = ", ".join(self.unseen_operations[:_NAMED])
        more = ", ..." * (len(self.unseen_operations) > _NAMED)
        share = "0%" if self.unseen == 0 else f"about {max(self.unseen, 0.001):.1%}"
        return f", {share} unseen" + (f" ({names}{more})" if names else "")

    def __str__(self) -> str:
        """A table with one line per site, and the summary."""
        return f"{_table(self.rows())}\n{self.summary()}"


def _plan_from_json(data: dict[str, Any]) -> Plan:
    if data["schema"] != SCHEMA:
        raise ConfigError(
            f"This plan has schema {data['schema']!r}; this version reads {SCHEMA}. "
            "Make the plan again, or update the package."
        )
    sites = tuple(Site.from_json(site) for site in data["sites"])
    unseen = tuple(str(name) for name in data.get("unseen_operations", ()))
    return Plan(sites, Budget(**data["budget"]), data.get("unseen"), unseen)


def _why(site: Site) -> str:
    if site.fabric is None:
        return site.reason
    return f"{site.fabric.family or 'fabric'}; {site.reason}".removesuffix("; ")


def _shape_text(site: Site) -> str:
    kernel = " " + "x".join(map(str, site.kernel)) if site.kernel else ""
    groups = f" /{site.groups}" if site.groups > 1 else ""
    copies = f"{site.copies} x " if site.copies > 1 else ""
    return f"{copies}{site.in_features} -> {site.out_features}{kernel}{groups}"


def _change(before: int, after: int) -> str:
    if before == after:
        return f"{before:,}"
    return f"{before:,} -> {after:,} ({after / before:.1%})"


def _error_text(error: float | None) -> str:
    return "-" if error is None else f"{error:.3g}"


def _decision_text(site: Site | None) -> str:
    if site is None:
        return "absent"
    return f"keep ({site.reason})" if site.fabric is None else str(site.fabric)


def _table(rows: Iterable[dict[str, str]]) -> str:
    table = list(rows)
    cells = [list(row.values()) for row in table]
    heads = list(table[0]) if table else list(_HEADS)
    lines = [heads, *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    padded = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
    return "\n".join([padded[0], "  ".join("-" * width for width in widths), *padded[1:]])
