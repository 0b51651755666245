"""Models that training on many devices has wrapped or sharded: here is not all of them."""

from __future__ import annotations

import itertools

from torch import nn

from ..errors import ModelError
from ..init import is_distributed

__all__ = ["GATHER", "check_whole"]

GATHER = (
    "On every rank call torch.distributed.checkpoint.state_dict.get_model_state_dict(model, "
    "options=StateDictOptions(full_state_dict=True, cpu_offload=True)); on one, load the result "
    "into an unsharded converted model (load_state_dict), and take that."
)
"""What to do about a sharded model where a whole one is needed."""


def check_whole(model: nn.Module, advice: str = GATHER) -> None:
    """Reject a model of which this process may hold a part.

    Args:
        model: the model.
        advice: what to do about a sharded one.

    Raises:
        ModelError: a tensor of it is sharded, or it is wrapped in DistributedDataParallel.

    Example:
        >>> check_whole(nn.Linear(2, 2))
    """
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ModelError("The model is wrapped in DistributedDataParallel; give model.module.")
    for name, tensor in itertools.chain(model.named_parameters(), model.named_buffers()):
        if is_distributed(tensor):
            raise ModelError(f"{name!r} is sharded over ranks (a DTensor). {advice}")
