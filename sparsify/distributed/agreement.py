"""Whether all ranks of a job converted their model alike, compared once before training."""

from __future__ import annotations

import hashlib
import itertools
import os
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ..errors import ConfigError, VerificationError
from ..init import is_distributed
from ..io.recipe import fabrics
from ..nn.check import check_model

__all__ = ["check_agreement"]


class _Parts(NamedTuple):
    """What a rank has: a text for each fabric and a digest of each parameter, by name."""

    recipe: dict[str, str]
    values: dict[str, str]

    def digests(self) -> tuple[str, ...]:
        return tuple(_sha256(repr(sorted(part.items())).encode()) for part in self)


def check_agreement(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Compare the converted model of this rank with those of all others.

    `sparsify` is a pure function, so ranks that give it the same model get the same fabrics and the
    same weights. This notices what was not the same: a dense model made from another seed, other
    options, another version. It gathers two sha256 digests, of the fabrics by path and of the
    parameters (names, shapes, types, requires_grad and values); buffers are free to differ. Every
    rank must call it, before DDP, `fully_shard` and `parallelize_module`, which change the models:
    the values of parameters that are divided already are not compared, with a warning, nor are
    those on the meta device.

    Args:
        model: what `sparsify` returned. Not changed.
        group: whose ranks are compared; all by default. Without a process group, and where this
            rank is its only member or none, nothing is done.

    Raises:
        VerificationError: some differ; which ranks, in what, and where first. Every rank raises.
        ConfigError: model is no module, or torchrun has started several processes and the process
            group is not made yet.

    Example:
        >>> import sparsify as sp
        >>> sparse = sp.sparsify(nn.Sequential(nn.Linear(256, 256)), budget=0.25)
        >>> sp.distributed.check_agreement(sparse)  # nothing to compare in a job of one process
    """
    check_model(model)
    if not dist.is_available() or not dist.is_initialized():
        _check_alone()
        return
    if dist.get_rank(group) < 0 or dist.get_world_size(group) < 2:
        return
    if any(is_distributed(parameter) for parameter in model.parameters()):
        warnings.warn(
            "The weights are divided over the ranks already, so their values cannot be compared: "
            "call check_agreement before fully_shard or parallelize_module.",
            stacklevel=2,
        )
    mine = _parts(model)
    if len(set(_gathered(mine.digests(), group))) == 1:
        return
    ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
    raise VerificationError(_difference(dict(zip(ranks, _gathered(mine, group), strict=True))))


def _check_alone() -> None:
    """Without a process group, torchrun's own word for how many there are."""
    processes = os.environ.get("WORLD_SIZE", "1")
    if processes != "1":
        raise ConfigError(
            f"This is one of {processes} processes (WORLD_SIZE), and they cannot compare their "
            "models yet: call torch.distributed.init_process_group() first."
        )


def _gathered(thing: object, group: dist.ProcessGroup | None) -> list[_Parts]:
    everyone: list[_Parts] = [None] * dist.get_world_size(group)  # type: ignore[list-item]
    dist.all_gather_object(everyone, thing, group=group)
    return everyone


def _parts(model: nn.Module) -> _Parts:
    named = model.named_parameters(remove_duplicate=False)
    return _Parts(
        {path: str(fabric) + fabric.to_json() for path, fabric in fabrics(model).items()},
        {name: _digest(parameter) for name, parameter in named},
    )


def _sha256(data: Any) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest(parameter: Tensor) -> str:
    """Its shape, type and whether it is trained, and of its bytes where this rank has them all."""
    about = f"{tuple(parameter.shape)} {parameter.dtype} {parameter.requires_grad}"
    if parameter.is_meta or is_distributed(parameter):
        return about
    values = parameter.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return f"{about} {_sha256(values.numpy())}"


def _difference(parts: Mapping[int, _Parts]) -> str:
    """The message: which ranks differ from the first in their recipe, and which in values only."""
    first, *others = parts
    found = []
    for place, what in enumerate(("the recipe (which fabric stands where)", "parameters")):
        wrong = [rank for rank in others if parts[rank][place] != parts[first][place]]
        if wrong:
            name = _first_difference(parts[first][place], parts[wrong[0]][place])
            listed = ", ".join(map(str, wrong))
            found.append(
                f"rank{'s' * (len(wrong) > 1)} {listed} in {what}, first at {name or 'the root'!r}"
            )
            others = [rank for rank in others if rank not in wrong]
    return (
        f"The ranks hold different models. From rank {first} differ: {'; '.join(found)}. Build the "
        "dense model from the same seed or file on every rank, call sparsify with the same "
        "arguments and versions, and freeze the same parameters."
    )


def _first_difference(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    names = itertools.chain(one, other)
    return next(name for name in names if one.get(name) != other.get(name))
