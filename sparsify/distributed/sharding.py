"""FSDP2 over fabrics: factors sharded evenly by block, and one call that wraps a whole model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import torch.distributed as dist
from torch import nn

from ..errors import ConfigError
from ..init import is_distributed
from ..nn import FabricLayer
from ..nn.check import check_model

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard

__all__ = ["fully_shard", "shard_placement"]

Model = TypeVar("Model", bound=nn.Module)

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def shard_placement(mesh: DeviceMesh | None = None) -> Callable[[nn.Parameter], Shard]:
    """How to divide parameters evenly: a `shard_placement_fn` for torch's own `fully_shard`.

    A factor is (a, d, b, c), with a for its blocks, often fewer than there are ranks; and FSDP
    divides the first dimension, so that some ranks would hold nothing. This takes the first
    dimension that the ranks divide evenly: a, else d, b, c. Where there is none, FSDP can only
    divide the first, unevenly. Parameters of other layers are treated alike.

    Args:
        mesh: the mesh that `fully_shard` is given; its last dimension shards. None: all ranks.

    Returns:
        A function of a parameter.

    Raises:
        ConfigError: there is neither a mesh nor a process group, or mesh is no DeviceMesh of one or
            two dimensions.

    Example:
        >>> from torch.distributed.fsdp import fully_shard
        >>> def shard(model, mesh):  # by hand: block by block, then the rest
        ...     for block in model.layers:
        ...         fully_shard(block, mesh=mesh, shard_placement_fn=shard_placement(mesh))
        ...     fully_shard(model, mesh=mesh, shard_placement_fn=shard_placement(mesh))
    """
    from torch.distributed.tensor import Shard

    ranks = _ranks(mesh)

    def place(parameter: nn.Parameter) -> Shard:
        # What tensor parallelism has sharded already is divided further.
        local = parameter.to_local() if is_distributed(parameter) else parameter  # type: ignore[attr-defined]
        even = (axis for axis, size in enumerate(local.shape) if size and size % ranks == 0)
        return Shard(next(even, 0))

    return place


def fully_shard(model: Model, mesh: DeviceMesh | None = None, **options: Any) -> Model:
    """Shard a converted model over all ranks with PyTorch's FSDP2, block by block.

    A block is an element of a `ModuleList`, `ModuleDict` or `Sequential` that holds a fabric: the
    layers of a transformer, the stages of a plain stack. Each is one group, gathered when it runs
    and let go afterwards; all that is left goes with the model itself. Blocks that share a
    parameter with others stay with the model too, for FSDP would untie it. Inner blocks that you
    have wrapped before with torch's own `fully_shard` stay as they are; not so the model itself.

    Make the optimiser afterwards, from `param_groups(model, ...)`.

    Args:
        model: what `sparsify` returned; may be on the meta device. Changed in place, as by
            `torch.distributed.fsdp.fully_shard`.
        mesh: the devices, all ranks by default; of two dimensions, the first holds copies.
        options: further arguments of torch's function for every group, such as `mp_policy` and
            `reshard_after_forward`. `shard_placement_fn` is `shard_placement(mesh)` by default.

    Returns:
        The model.

    Raises:
        ConfigError: there is neither a mesh nor a process group, mesh is no DeviceMesh of one or
            two dimensions, or model is no module, or sharded itself already, or wrapped in DDP.

    Example:
        >>> import sparsify as sp
        >>> def main(dense):  # on every rank, under torchrun
        ...     torch.distributed.init_process_group()
        ...     model = sp.distributed.fully_shard(sp.sparsify(dense, budget=0.1))
        ...     return model, torch.optim.AdamW(sp.param_groups(model, lr=1e-3))
    """
    from torch.distributed import fsdp

    check_model(model)
    if isinstance(model, fsdp.FSDPModule):
        raise ConfigError(
            "The model is sharded already: fully_shard, this one or torch's own, was called with "
            "it. Call it once; before, wrap inner blocks only."
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        raise ConfigError("The model is wrapped in DistributedDataParallel; give model.module.")
    options.setdefault("shard_placement_fn", shard_placement(mesh))
    for block in _apart(model, list(_blocks(model))):
        if not isinstance(block, fsdp.FSDPModule):
            fsdp.fully_shard(block, mesh=mesh, **options)
    fsdp.fully_shard(model, mesh=mesh, **options)
    return model


def _ranks(mesh: DeviceMesh | None) -> int:
    """Over how many a parameter is divided."""
    if mesh is None:
        if not dist.is_available() or not dist.is_initialized():
            raise ConfigError(
                "Sharding needs ranks: start the script with torchrun and call "
                "torch.distributed.init_process_group() first, or give a mesh."
            )
        return dist.get_world_size()
    from torch.distributed.device_mesh import DeviceMesh

    if not isinstance(mesh, DeviceMesh):
        raise ConfigError(
            "mesh must be a DeviceMesh, as torch.distributed.device_mesh.init_device_mesh makes "
            f"it, or None for all ranks; got {type(mesh).__name__}."
        )
    if mesh.ndim > 2:
        raise ConfigError(
            "FSDP shards over a mesh of one dimension, or of two, of which the first holds copies; "
            f'got {mesh.ndim}. Take one or two of them, such as mesh["data"].'
        )
    return mesh.size(mesh.ndim - 1)


def _blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The outermost elements of containers that hold a fabric and are no mere container."""
    for child in module.children():
        if not any(isinstance(part, FabricLayer) for part in child.modules()):
            continue
        if isinstance(module, _CONTAINERS) and type(child) not in _CONTAINERS:
            yield child
        else:
            yield from _blocks(child)


def _apart(model: nn.Module, blocks: list[nn.Module]) -> list[nn.Module]:
    """The blocks whose parameters and modules nothing else in the model has."""
    inside = {part for block in blocks for part in block.modules()}
    rest = [part for part in model.modules() if part not in inside]
    seen = Counter(p for block in blocks for p in block.parameters())
    seen.update({p for part in rest for p in part.parameters(recurse=False)})
    return [block for block in blocks if all(seen[p] == 1 for p in block.parameters())]
