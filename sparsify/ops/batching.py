"""torch.vmap over the operators: input, weights and gradients may all be batched.

Under vmap an operator becomes its formula, whose plain torch operations vmap batches one by one.
That covers ensembles (batched weights) and gradients per sample. Whoever only has more rows gives
the operator more leading axes instead, which is faster.
"""

from __future__ import annotations

from . import formula
from .schema import LIBRARY

__all__: list[str] = []

for _name, _formula in (("fabric", formula.apply), ("fabric_conv", formula.apply_conv)):
    LIBRARY.impl(_name, _formula, "FuncTorchBatched")
    LIBRARY.impl(f"{_name}_backward", formula.gradients, "FuncTorchBatched")
