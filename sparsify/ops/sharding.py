"""DTensors as operands: rows may be divided over the ranks of a mesh, features and factors not.

A leading axis of the input (the batch, or positions in sequence parallel training) stays divided as
it is, because every row is computed alone; the factors' gradients are then partial sums. Whatever
else is divided or pending is first made whole. Dividing factors is the work of
`sparsify.distributed.FabricParallel`, which needs no rule: it calls the operators on plain tensors.

torch.distributed.tensor is slow to import, so the rules wait until somebody else has imported it.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import OperandError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement

__all__ = ["meet_dtensors"]

_NAMES = ("fabric", "fabric_conv")
_has_met = False


def meet_dtensors() -> None:
    """Register the rules, once, as soon as there can be a DTensor."""
    global _has_met
    if _has_met or torch.compiler.is_dynamo_compiling():
        return
    if "torch.distributed.tensor" not in sys.modules:
        return
    from torch.distributed.tensor import DTensor

    from .schema import LIBRARY

    for name in _NAMES:
        for suffix, rule in (("", _forward), ("_backward", _backward)):
            torch.library.register_torch_dispatch(
                f"sparsify::{name}{suffix}", DTensor, rule, lib=LIBRARY
            )
    _has_met = True


def _forward(cls: Any, op: Any, types: Any, args: Sequence[Any], kwargs: Any = None) -> Any:
    """Apply a fabric to the rows of each rank."""
    x, factors, *rest = args
    operands = [one for one in (x, *factors, *rest) if isinstance(one, Tensor)]
    _check_distributed(operands)
    divided = _divided(op, x)
    whole = [_whole(factor) for factor in factors]
    y = op(_local(x, divided), whole, *map(_whole, rest), **(kwargs or {}))
    rows = _leading(op, x)
    return _distributed(y, x, divided, (*x.shape[:rows], *y.shape[rows:]))


def _backward(cls: Any, op: Any, types: Any, args: Sequence[Any], kwargs: Any = None) -> Any:
    """Gradients of the rows of each rank; those of the factors are to be summed over the ranks."""
    from torch.distributed.tensor import Partial, Shard

    grad, x, factors, *rest = args
    _check_distributed([grad, x, *factors])
    divided = _divided(op, x)
    summands = [Partial() if isinstance(place, Shard) else place for place in divided]
    needs = rest[-1]
    found = op(_local(grad, divided), _local(x, divided), [_whole(f) for f in factors], *rest)
    wanted = [one for one, need in zip((x, *factors), needs, strict=True) if need]
    places = [divided] * bool(needs[0]) + [summands] * len(factors)
    return [
        _distributed(local, x, place, operand.shape)
        for local, operand, place in zip(found, wanted, places, strict=False)
    ]


def _leading(op: Any, x: Tensor) -> int:
    """How many leading axes count rows: all but the features, or the samples of images."""
    return 1 if "conv" in op.name() else x.dim() - 1


def _divided(op: Any, x: DTensor) -> list[Placement]:
    """How x is laid out when its features are whole."""
    from torch.distributed.tensor import Replicate, Shard

    rows = range(_leading(op, x))
    return [
        place if type(place) is Shard and place.dim in rows else Replicate()
        for place in x.placements
    ]


def _local(x: DTensor, places: Sequence[Placement]) -> Tensor:
    return x.redistribute(x.device_mesh, places).to_local()


def _whole(x: Any) -> Any:
    """The tensor on every rank; what is no tensor as it is."""
    return x.full_tensor() if isinstance(x, Tensor) else x  # type: ignore[attr-defined]


def _distributed(
    local: Tensor, like: DTensor, places: Sequence[Placement], shape: Sequence[int]
) -> DTensor:
    """See what each rank computed as one tensor of a shape."""
    from torch.distributed.tensor import DTensor

    stride = [*itertools.accumulate(reversed(shape[1:]), lambda size, axis: size * axis, initial=1)]
    return DTensor.from_local(
        local.contiguous(),
        like.device_mesh,
        places,
        run_check=False,
        shape=torch.Size(shape),
        stride=tuple(reversed(stride)),
    )


def _check_distributed(operands: Sequence[Tensor]) -> None:
    from torch.distributed.tensor import DTensor

    kinds = {isinstance(operand, DTensor) for operand in operands}
    if len(kinds) > 1:
        raise OperandError(
            "The input, all factors and the bias are DTensors, or none is; got both. Distribute "
            "the rest with torch.distributed.tensor.distribute_tensor or distribute_module, or "
            "take the local tensors with .to_local()."
        )
