"""A fabric for every site that may be replaced, under one budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from ..config import Budget, Rule, as_budget
from ..errors import BudgetError
from ..match import Pattern, check_hits, matches, pattern_text
from ..plan import Plan, Site
from ..select.assign import Demand, assign
from ..select.candidates import AUTO, check_topology
from ..select.choose import Choice
from ..select.criterion import DEFAULT, Criterion
from ..select.ladder import Conditions, for_site
from ..select.trained import Trained
from ..topology import Family, build
from .annotate_weights import unseen_share
from .base import Pass, PassError, PassResult, Program

if TYPE_CHECKING:
    from ..select.latency import LatencyModel

__all__ = ["AssignPlan", "levels_of"]


@dataclass(frozen=True)
class AssignPlan(Pass):
    """Choose fabrics for all sites together, and divide the budget over them.

    Args:
        budget: what may stay of the replaced layers; never exceeded by their sum.
        topology: a family or a topology, or "auto" for the heuristic.
        include: patterns; where given, only sites that one of them takes are replaced.
        exclude: patterns of sites that stay dense.
        rules: exceptions; the first that takes a site holds. The layers of a rule with a budget of
            its own share that one; those of a rule with options are outside all budgets.
        score: what fabrics are ranked by.
        min_speedup: sites that no fabric is predicted to speed up this much stay dense.
        latency: predicts seconds, for min_speedup and budgets of seconds.
        trained: the weights that fabrics are to come near, and what is known of their inputs;
            fabrics and budget then follow the errors. Without, they are chosen without data.

    Requires: sites. Ensures: `program.plan` has every site; no budget is exceeded.
    Before: Site("fc1", replace, fabric=None)
    After:  Site("fc1", replace, fabric=monarch(blocks=16) ...)
    """

    name: ClassVar[str] = "assign-plan"
    budget: Budget = field(default_factory=lambda: Budget(parameters=0.1))
    topology: Family = AUTO
    include: Sequence[Pattern] = ()
    exclude: Sequence[Pattern] = ()
    rules: Sequence[Rule] = ()
    score: str = DEFAULT
    min_speedup: float | None = None
    latency: LatencyModel | None = None
    trained: Trained | None = None

    def requires(self, program: Program) -> None:
        """The sites are known."""
        self.need(program.analysed, "the sites that find-sites lists")

    def run(self, program: Program) -> PassResult:
        """Decide which sites compete, then divide each budget over those that share it."""
        modules = dict(program.module.named_modules())
        self._check(program, modules)
        decided = {site.name: self._decide(site, modules.get(site.name)) for site in program.sites}
        levels = levels_of(program)
        for conditions, names in self._shares(decided, modules):
            demands = [
                Demand(decided[name], self._family(decided[name], modules), levels.get(name, 0))
                for name in names
            ]
            answers = assign(demands, conditions, self.trained)
            for demand, answer in zip(demands, answers, strict=True):
                rule = self._rule(demand.site, modules.get(demand.site.name))
                decided[demand.site.name] = _answered(demand.site, answer, rule)
        unseen = unseen_share(program) if program.annotated else (None, ())
        plan = Plan(tuple(map(self._judged, decided.values())), self.budget, *unseen)
        _check_fits(plan)
        return PassResult(replace(program, sites=plan.sites, plan=plan), True, plan.summary())

    def ensures(self, before: Program, after: Program) -> None:
        """No budget is exceeded by the layers that share it."""
        modules = dict(after.module.named_modules())
        shared = {
            site.name: site
            for site in after.sites
            if site.fabric is not None and not self._has_options(site, modules)
        }
        for conditions, names in self._shares(shared, modules, is_planned=True):
            sites = [shared[name] for name in names]
            budget = conditions.budget
            shares = [
                (budget.parameters, [(s.parameters, s.dense_parameters) for s in sites]),
                (budget.flops, [(s.flops, s.dense_flops) for s in sites]),
            ]
            for share, costs in shares:
                kept, dense = (sum(column) for column in zip(*costs, strict=True))
                if share is not None and kept > share * dense * (1 + 1e-9):
                    raise PassError(f"{self.name} exceeded the budget of {budget}.")

    def _check(self, program: Program, modules: dict[str, nn.Module]) -> None:
        check_topology(self.topology)
        for rule in self.rules:
            check_topology(AUTO if rule.topology is None else rule.topology)
        Criterion(self.score)
        named = [(site.name, modules.get(site.name)) for site in program.sites]
        check_hits(self.include, named, "include")
        check_hits(self.exclude, named, "exclude")
        check_hits([rule.pattern for rule in self.rules], named, "rule")

    def _decide(self, site: Site, module: nn.Module | None) -> Site:
        """Keep a site dense, give it the fabric of a rule's options, or leave it to the planner."""
        rule = self._rule(site, module)
        wish = self._wish(site, module, rule)
        if site.decision == "keep":
            return replace(site, by_user=bool(wish))
        if wish:
            return site.kept(wish, by_user=True)
        if rule is None or not rule.options or rule.topology is None:
            return site
        sizes = (site.in_features // site.groups, site.out_features // site.groups)
        fabric = for_site(site, build(rule.topology, *sizes, rule.options))
        reason = _also(site, f"rule {pattern_text(rule.pattern)}")
        return replace(site, fabric=fabric, reason=reason)

    def _wish(self, site: Site, module: nn.Module | None, rule: Rule | None) -> str:
        """By what the user keeps a site, "" where he does not."""
        for pattern in self.exclude:
            if matches(pattern, site.name, module):
                return f"excluded by {pattern_text(pattern)}"
        if self.include and not any(matches(p, site.name, module) for p in self.include):
            return "not included"
        if rule is not None and rule.keep:
            return f"kept by the rule {pattern_text(rule.pattern)}"
        return ""

    def wanted(self, program: Program) -> list[str]:
        """The sites that are to be replaced, before any fabric is chosen."""
        modules = dict(program.module.named_modules())
        self._check(program, modules)
        sites = (self._decide(site, modules.get(site.name)) for site in program.sites)
        return [site.name for site in sites if site.decision == "replace"]

    def _judged(self, site: Site) -> Site:
        """With its error, where its fabric was given and not chosen."""
        if self.trained is None or site.fabric is None or site.error is not None:
            return site
        return replace(site, error=self.trained.project(site.name, site.fabric, site.groups).error)

    def _rule(self, site: Site, module: nn.Module | None) -> Rule | None:
        return next((r for r in self.rules if matches(r.pattern, site.name, module)), None)

    def _has_options(self, site: Site, modules: dict[str, nn.Module]) -> bool:
        rule = self._rule(site, modules.get(site.name))
        return rule is not None and bool(rule.options)

    def _family(self, site: Site, modules: dict[str, nn.Module]) -> Family:
        rule = self._rule(site, modules.get(site.name))
        return self.topology if rule is None or rule.topology is None else rule.topology

    def _shares(
        self, sites: dict[str, Site], modules: dict[str, nn.Module], is_planned: bool = False
    ) -> list[tuple[Conditions, list[str]]]:
        """The sites that share each budget: the global one, and that of each rule that has one."""
        shares: dict[int, tuple[Conditions, list[str]]] = {}
        for name, site in sites.items():
            if site.decision == "keep" or (site.fabric is not None) != is_planned:
                continue
            rule = self._rule(site, modules.get(name))
            own = None if rule is None or rule.budget is None else as_budget(rule.budget)
            conditions = Conditions(
                own or self.budget, Criterion(self.score), self.min_speedup, self.latency
            )
            shares.setdefault(id(rule) if own else 0, (conditions, []))[1].append(name)
        return list(shares.values())


_NO_FIT = "has no fabric"


def _answered(site: Site, answer: Choice | str, rule: Rule | None) -> Site:
    if isinstance(answer, str):
        return site.kept(answer)
    reason = answer.reason if rule is None else f"rule {pattern_text(rule.pattern)}"
    return replace(
        site,
        fabric=answer.fabric,
        reason=_also(site, reason),
        rivals=answer.rivals,
        error=answer.error,
    )


def _also(site: Site, reason: str) -> str:
    """A reason, after what an earlier pass had to say."""
    return f"{site.reason}; {reason}" if site.reason else reason


def _check_fits(plan: Plan) -> None:
    """Raise where the budget left nothing to replace."""
    misfit = next((site for site in plan.sites if site.reason.startswith(_NO_FIT)), None)
    if misfit is not None and not plan.replaced:
        raise BudgetError(
            f"No layer has a fabric within {plan.budget}: {misfit.name!r} "
            f"({misfit.in_features} -> {misfit.out_features}) {misfit.reason}. Raise the budget."
        )


def levels_of(program: Program) -> dict[str, int]:
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
