"""A fabric for every site that may be replaced, under the budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import nn

from ..config import Budget, Rule, as_budget
from ..errors import BudgetError, ConfigError, nearest
from ..fabric import Fabric
from ..match import Pattern, check_hits, matches, pattern_text
from ..plan import Plan, Site
from ..select.choose import AUTO, alternated, automatic, fit
from ..topology import TOPOLOGIES, build
from .base import Pass, PassError, PassResult, Program

__all__ = ["AssignPlan"]

# A fabric that keeps more than this share of the dense parameters is not worth its overhead.
_MOST = 0.9


@dataclass(frozen=True)
class AssignPlan(Pass):
    """Choose a fabric for each site; block diagonals take turns in their strides.

    Args:
        budget: what may stay of each replaced layer; never exceeded.
        topology: a family, or "auto" for the heuristic.
        include: patterns; where given, only sites that one of them takes are replaced.
        exclude: patterns of sites that stay dense.
        rules: exceptions; the first that takes a site holds.

    Requires: sites. Ensures: `program.plan` has every site; no replaced site exceeds its budget.
    Before: Site("fc1", replace, fabric=None)
    After:  Site("fc1", replace, fabric=monarch(blocks=16) ...)
    """

    name: ClassVar[str] = "assign-plan"
    budget: Budget = field(default_factory=lambda: Budget(parameters=0.1))
    topology: str = AUTO
    include: Sequence[Pattern] = ()
    exclude: Sequence[Pattern] = ()
    rules: Sequence[Rule] = ()

    def requires(self, program: Program) -> None:
        """The sites are known."""
        self.need(program.analysed, "the sites that find-sites lists")

    def run(self, program: Program) -> PassResult:
        """Decide site by site, in the order of the graph."""
        modules = dict(program.module.named_modules())
        self._check(program, modules)
        levels = _levels(program)
        cache: dict[Any, Fabric | None] = {}
        sites = tuple(
            self._decide(site, modules.get(site.name), levels.get(site.name, 0), cache)
            for site in program.sites
        )
        if any(s.reason.startswith(_NO_FIT) for s in sites) and not any(s.fabric for s in sites):
            misfit = next(site for site in sites if site.reason.startswith(_NO_FIT))
            raise BudgetError(
                f"No layer has a fabric within {_budget_text(self.budget)}: {misfit.name!r} "
                f"({misfit.in_features} -> {misfit.out_features}) {misfit.reason}. "
                "Raise the budget."
            )
        plan = Plan(sites, self.budget)
        return PassResult(replace(program, sites=sites, plan=plan), True, plan.summary())

    def ensures(self, before: Program, after: Program) -> None:
        """Nothing exceeds its budget, except where a rule gives the sizes themselves."""
        modules = dict(after.module.named_modules())
        for site in after.sites:
            rule = self._rule(site, modules.get(site.name))
            if site.fabric is None or (rule is not None and rule.options):
                continue
            if _usage(site, site.fabric, self._budget(rule)) > 1:
                raise PassError(f"{self.name} exceeded the budget of {site.name!r}.")

    def _check(self, program: Program, modules: dict[str, nn.Module]) -> None:
        if self.topology != AUTO and self.topology not in TOPOLOGIES:
            known = (AUTO, *TOPOLOGIES)
            raise ConfigError(
                f"There is no topology {self.topology!r}; there are {', '.join(known)}."
                f"{nearest(str(self.topology), known)}"
            )
        named = [(site.name, modules.get(site.name)) for site in program.sites]
        check_hits(self.include, named, "include")
        check_hits(self.exclude, named, "exclude")
        check_hits([rule.pattern for rule in self.rules], named, "rule")

    def _decide(
        self,
        site: Site,
        module: nn.Module | None,
        level: int,
        cache: dict[Any, Fabric | None],
    ) -> Site:
        if site.decision == "keep":
            return site
        for pattern in self.exclude:
            if matches(pattern, site.name, module):
                return site.kept(f"excluded by {pattern_text(pattern)}")
        if self.include and not any(matches(p, site.name, module) for p in self.include):
            return site.kept("not included")
        rule = self._rule(site, module)
        if rule is not None and rule.keep:
            return site.kept(f"kept by the rule {pattern_text(rule.pattern)}")
        return self._choose(site, rule, level, cache)

    def _rule(self, site: Site, module: nn.Module | None) -> Rule | None:
        return next((r for r in self.rules if matches(r.pattern, site.name, module)), None)

    def _budget(self, rule: Rule | None) -> Budget:
        return self.budget if rule is None or rule.budget is None else as_budget(rule.budget)

    def _choose(
        self, site: Site, rule: Rule | None, level: int, cache: dict[Any, Fabric | None]
    ) -> Site:
        by = "" if rule is None else f"rule {pattern_text(rule.pattern)}"
        if rule is not None and rule.options and rule.topology is not None:
            fabric = _for_site(
                site,
                build(
                    rule.topology,
                    site.in_features // site.groups,
                    site.out_features // site.groups,
                    rule.options,
                ),
            )
            return replace(site, fabric=fabric, reason=by)
        budget = self._budget(rule)
        family = self.topology if rule is None or rule.topology is None else rule.topology
        key = (family, budget, *_cost_key(site))
        if key not in cache:
            cache[key] = _fit_site(site, family, budget)
        found = cache[key]
        if found is None:
            which = "" if family == AUTO else f" of the family {family}"
            return site.kept(f"{_NO_FIT}{which} within {_budget_text(budget)}")
        return replace(site, fabric=_for_site(site, alternated(found, level)), reason=by)


_NO_FIT = "has no fabric"


def _cost_key(site: Site) -> tuple[Any, ...]:
    return (
        site.in_features, site.out_features, site.kernel, site.groups, site.rows, site.in_rows
    )  # fmt: skip


def _fit_site(site: Site, family: str, budget: Budget) -> Fabric | None:
    """The best fabric over the features of one group."""
    choose: Callable[..., Fabric | None] = automatic
    if family != AUTO:

        def choose(*sizes: Any, **options: Any) -> Fabric | None:
            return fit(family, *sizes, **options)

    def usage(fabric: Fabric) -> float:
        return _usage(site, _for_site(site, fabric), budget)

    return choose(
        site.in_features // site.groups,
        site.out_features // site.groups,
        usage,
        exact=site.groups > 1,
    )


def _for_site(site: Site, fabric: Fabric) -> Fabric:
    """A fabric over the features of one group -> that of the whole layer, kernel and all."""
    if site.groups > 1:
        if not fabric.is_exact:
            return fabric
        fabric = fabric.repeat(site.groups)
    return fabric.with_kernel(site.kernel) if site.kernel else fabric


def _usage(site: Site, fabric: Fabric, budget: Budget) -> float:
    """The share of the site's budget that a fabric uses, the strictest of all limits."""
    density = fabric.parameters / site.dense_parameters
    shares = [density / _MOST]
    if budget.parameters is not None:
        shares.append(density / budget.parameters)
    if budget.flops is not None:
        if site.rows is None and site.kernel:
            raise ConfigError(
                f"A budget of FLOPs for the convolution {site.name!r} depends on the image size: "
                "give example_inputs."
            )
        shares.append(site.flops_of(fabric) / site.dense_flops / budget.flops)
    return max(shares)


def _budget_text(budget: Budget) -> str:
    limits = {"parameters": budget.parameters, "FLOPs": budget.flops}
    return " and ".join(f"{share:.3g} of its {what}" for what, share in limits.items() if share)


def _levels(program: Program) -> dict[str, int]:
    """Site -> how many replaceable sites lie before it on the longest path of the graph."""
    replaceable = {site.name for site in program.sites if site.decision == "replace"}
    depth: dict[Any, int] = {}
    levels: dict[str, int] = {}
    order = 0
    for node in program.graph.nodes:
        before = max((depth[source] for source in node.all_input_nodes), default=0)
        name = node.meta.get("site")
        if name in replaceable:
            if not program.recorded:
                before, order = order, order + 1
            levels.setdefault(name, before)
            before += 1
        depth[node] = before
    return levels
