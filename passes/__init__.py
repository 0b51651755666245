"""The compiler's passes: one per file, in the order in which they run.

A pass takes a `Program` (graph, modules, sites, plan) and gives one back; the base class checks
what it requires and what it ensures. To add one: one file, one line in the table below.
"""

from __future__ import annotations

from ..registry import Registry
from .annotate_weights import AnnotateWeights
from .assign_plan import AssignPlan
from .base import Pass, PassError, PassResult, Program, run_passes
from .check_aliases import CheckAliases
from .find_sites import FindSites
from .follow_plan import FollowPlan
from .initialise import Initialise
from .keep_defaults import KeepDefaults
from .replace_dense import ReplaceDense
from .verify import Verify

__all__ = [
    "PASSES",
    "AnnotateWeights",
    "AssignPlan",
    "CheckAliases",
    "FindSites",
    "FollowPlan",
    "Initialise",
    "KeepDefaults",
    "Pass",
    "PassError",
    "PassResult",
    "Program",
    "ReplaceDense",
    "Verify",
    "run_passes",
]

PASSES = Registry(
    "pass",
    "sparsify.passes",
    {
        "annotate-weights": ".passes.annotate_weights:AnnotateWeights",
        "find-sites": ".passes.find_sites:FindSites",
        "check-aliases": ".passes.check_aliases:CheckAliases",
        "keep-defaults": ".passes.keep_defaults:KeepDefaults",
        "assign-plan": ".passes.assign_plan:AssignPlan",
        "follow-plan": ".passes.follow_plan:FollowPlan",
        "replace-dense": ".passes.replace_dense:ReplaceDense",
        "initialise": ".passes.initialise:Initialise",
        "verify": ".passes.verify:Verify",
    },
)
