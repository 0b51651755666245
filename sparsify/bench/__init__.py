"""How fast this machine is, in two ways.

`calibrate` measures it once, keeps that in a file, and predicts the time of a plan by it.
`sparsify bench` compares fabrics with dense layers: a `subject` and its `arms`, which take `turns`
in every combination of a `comparison`, are `told` as tables.
"""

from __future__ import annotations

from .cache import latency_model as latency_model
from .calibrate import calibrate as calibrate

__all__ = ["calibrate", "latency_model"]
