"""Training on many devices with PyTorch's own engine: what fabrics add to it.

DDP, gradient accumulation, mixed precision and checkpoints take fabrics as they are. Every rank
converts the model by itself, `check_agreement` compares the results once, `fully_shard` is FSDP2.
`FabricParallel` divides fabrics over ranks, and `clip_grad_norm_` clips what is divided in part.

A checkpoint of `torch.distributed.checkpoint` that holds the plan too can be resumed by any number
of ranks and rebuilt without choosing again:

    state, optim = get_state_dict(model, optimizer)
    dcp.save({"plan": plan.to_json(), "model": state, "optim": optim}, checkpoint_id=folder)

    found = {"plan": ""}  # in the next job, before there is a model
    dcp.load(found, checkpoint_id=folder)
    sparse = sp.sparsify(dense, example_inputs, plan=sp.Plan.from_json(found["plan"]))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .agreement import check_agreement as check_agreement
    from .clipping import clip_grad_norm_ as clip_grad_norm_
    from .division import largest_shares as largest_shares
    from .sharding import fully_shard as fully_shard
    from .sharding import shard_placement as shard_placement
    from .start import initialise as initialise
    from .tensor_parallel import FabricParallel as FabricParallel

_HOMES = {  # public name -> where it is defined, imported when it is first used
    "FabricParallel": ".tensor_parallel",
    "check_agreement": ".agreement",
    "clip_grad_norm_": ".clipping",
    "fully_shard": ".sharding",
    "initialise": ".start",
    "largest_shares": ".division",
    "shard_placement": ".sharding",
}

__all__ = [
    "FabricParallel",
    "check_agreement",
    "clip_grad_norm_",
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
