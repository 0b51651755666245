"""The steps of a cascade: stages with weights, and shuffles without.

A stage is Kronecker-sparse (`Stage`) or a graph (`GraphStage`). Nothing here stores an index: where
features connect follows from a few numbers, on every platform alike.
"""

from __future__ import annotations

from .check import check_positive
from .graph_stage import GraphStage
from .graphs import GRAPHS
from .shuffle import Shuffle
from .stage import Stage

__all__ = ["GRAPHS", "GraphStage", "Shuffle", "Stage", "Step", "Weighted", "check_positive"]

Weighted = Stage | GraphStage
"""Steps that have weights. `isinstance(step, Weighted)` works."""

Step = Weighted | Shuffle
