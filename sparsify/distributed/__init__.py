"""Training on many devices with PyTorch's own engine: what fabrics add to it.

DDP, gradient accumulation, mixed precision and checkpoints take fabrics as they are.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agreement import check_agreement as check_agreement
    from .division import largest_shares as largest_shares
    from .sharding import fully_shard as fully_shard
    from .sharding import shard_placement as shard_placement
    from .start import initialise as initialise
    from .tensor_parallel import FabricParallel as FabricParallel

_HOMES = {  # public name -> where it is defined, imported when it is first used
    "FabricParallel": ".tensor_parallel",
    "check_agreement": ".agreement",
    "fully_shard": ".sharding",
    "initialise": ".start",
    "largest_shares": ".division",
    "shard_placement": ".sharding",
}

__all__ = [
    "FabricParallel",
    "check_agreement",
    "fully_shard",
    "initialise",
    "largest_shares",
    "shard_placement",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
