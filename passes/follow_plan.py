"""The decisions of a plan that was made before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ..errors import ConfigError, nearest
from ..plan import Plan
from .base import Pass, PassResult, Program

__all__ = ["FollowPlan"]


@dataclass(frozen=True)
class FollowPlan(Pass):
    """Take the decisions of a plan that was made before, for this very model.

    Args:
        plan: the plan.

    Requires: sites, with aliases checked. Ensures: `program.plan` is that plan.
    Before: Site("fc1", replace, fabric=None)
    After:  Site("fc1", replace, fabric=... of the plan)

    Raises:
        ConfigError: the plan is of another model, or replaces what cannot be replaced.
    """

    name: ClassVar[str] = "follow-plan"
    plan: Plan

    def __post_init__(self) -> None:
        """Check the type before any work is done."""
        if not isinstance(self.plan, Plan):
            raise ConfigError(
                f"plan must be a Plan, as sp.plan(...) or sp.Plan.from_json(...) give; "
                f"got {type(self.plan).__name__}."
            )

    def requires(self, program: Program) -> None:
        """The sites are known."""
        self.need(program.analysed, "the sites that find-sites lists")

    def run(self, program: Program) -> PassResult:
        """Check every site of the plan that is to be replaced."""
        found = {site.name: site for site in program.sites}
        for planned in self.plan.replaced:
            site = found.get(planned.name)
            if site is None:
                raise ConfigError(
                    f"The plan is of another model: this one has no dense layer {planned.name!r}."
                    f"{nearest(planned.name, found)}"
                )
            theirs, ours = (
                (s.kind, s.in_features, s.out_features, s.kernel, s.groups) for s in (planned, site)
            )
            if theirs != ours:
                raise ConfigError(
                    f"The plan is of another model: it has {planned.name!r} as {theirs}, this one "
                    f"as {ours} (kind, inputs, outputs, kernel, groups)."
                )
            if site.decision == "keep":
                raise ConfigError(f"{site.name!r} cannot be replaced: {site.reason}.")
        program = replace(program, sites=self.plan.sites, plan=self.plan)
        return PassResult(program, True, self.plan.summary())
