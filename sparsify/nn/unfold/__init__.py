"""Composite owners: modules whose dense weights are no layers, brought to layers.

An attention module keeps query, key and value in one matrix, a recurrent one loops in C, stacked
experts are one tensor of three axes. *Unfolding* gives an equivalent module in which every dense
product is a called `nn.Linear` child that shares its parameters with the owner (views, no copies).
What works on layers (recording, plans, replacing, saving) then needs to know nothing else.
"""

from __future__ import annotations

from .composites import COMPOSITES, is_composite, unfold
from .parts import HOOKS, carry_hooks
from .twin import fold_weights, shared_tensors, unfolded_twin

__all__ = [
    "COMPOSITES",
    "HOOKS",
    "carry_hooks",
    "fold_weights",
    "is_composite",
    "shared_tensors",
    "unfold",
    "unfolded_twin",
]
