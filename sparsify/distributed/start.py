"""First weights of a model that was converted and sharded without memory for them."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import torch
from torch import nn

from ..errors import ConfigError
from ..init import check_seed, generator, write
from ..nn import FabricLayer
from ..nn.check import check_model

__all__ = ["initialise"]


def initialise(model: nn.Module, seed: int = 0) -> None:
    """Fill a model that was converted on the meta device, fabrics and other layers.

    Convert on meta, `fully_shard`, `model.to_empty(device=...)`, then this: each rank draws the
    weights of one layer at a time from (seed, path) and keeps its own part, so every number of
    ranks starts from the same weights. Fabrics are drawn as by `sparsify`; their scale is that of
    PyTorch's own init, as a dense layer on meta has none to take over. Other layers start as
    PyTorch starts them, by their `reset_parameters`. What belongs to modules that have none (a
    class token, a table of angles) is not written, and a warning names it.

    Args:
        model: with memory for its weights, which are overwritten: load what you have afterwards.
        seed: as for `sparsify`.

    Raises:
        ConfigError: model is no module, it is on the meta device still, or seed is no whole number.

    Example:
        >>> import torch, sparsify as sp
        >>> with torch.device("meta"):
        ...     dense = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10))
        >>> sparse = sp.sparsify(dense, budget=0.25).to_empty(device="cpu")
        >>> sp.distributed.initialise(sparse, seed=0)  # the fabric, and the head that stayed dense
        >>> bool(sparse[2].weight.abs().max() <= 256**-0.5)
        True
    """
    check_model(model)
    check_seed(seed)
    if any(tensor.is_meta for tensor in itertools.chain(model.parameters(), model.buffers())):
        raise ConfigError(
            "The model is on the meta device and has nothing to fill: call "
            'model.to_empty(device="cuda") (or "cpu") first.'
        )
    inside: set[nn.Module] = set()  # of fabrics, whose factors are in a list of their own
    left: list[str] = []
    for path, module in model.named_modules():
        own = [name for name, value in _own(module).items() if value is not None]
        if isinstance(module, FabricLayer):
            module.reset_parameters(generator(seed, path))
            inside.update(module.modules())
        elif own and module not in inside:
            if hasattr(module, "reset_parameters"):
                _reset(module, generator(seed, path))
            else:
                left += [f"{path}.{name}".lstrip(".") for name in own]
    if left:
        warnings.warn(
            f"Tensors of modules without reset_parameters are not filled: {len(left)}, "
            f"{', '.join(map(repr, left[:3]))}{', ...' * (len(left) > 3)}. Fill them by "
            "torch.nn.init or from a checkpoint.",
            stacklevel=2,
        )


def _own(module: nn.Module) -> dict[str, Any]:
    return {**module._parameters, **module._buffers}


def _reset(module: Any, random: torch.Generator) -> None:
    """Let a layer fill whole parameters, and keep the part of them that is here.

    Filled in place, a sharded parameter would get other numbers on other numbers of ranks.
    """
    here = {name: value for name, value in module._parameters.items() if value is not None}
    for name, value in here.items():
        whole = torch.empty(value.shape, dtype=value.dtype, device="cpu")
        module._parameters[name] = nn.Parameter(whole, value.requires_grad)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.set_rng_state(random.get_state())
            module.reset_parameters()
        for name, value in here.items():
            write(value, module._parameters[name])
    finally:
        module._parameters.update(here)
