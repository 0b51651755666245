"""First weights of a model that was converted and sharded without memory for them."""

from __future__ import annotations

from torch import nn

from ..errors import ConfigError
from ..init import generator
from ..io.recipe import fabrics

__all__ = ["initialise"]


def initialise(model: nn.Module, seed: int = 0) -> None:
    """Fill the fabrics of a model that was converted on the meta device.

    Convert on meta, `fully_shard`, `model.to_empty(device=...)`, then this: each rank draws the
    factors of one layer at a time from (seed, path), as `sparsify` does, and keeps its own part, so
    every number of ranks starts from the same weights. The scale is that of PyTorch's own init, as
    a dense layer on meta has none to take over; biases are drawn likewise. Other layers are filled
    as without fabrics, by their `reset_parameters` or from a checkpoint.

    Args:
        model: with memory for its weights; the fabrics are written to, all else stays.
        seed: as for `sparsify`.

    Raises:
        ConfigError: the model is on the meta device still, or seed is no whole number.

    Example:
        >>> import torch, sparsify as sp
        >>> with torch.device("meta"):
        ...     dense = nn.Sequential(nn.Linear(256, 256))
        >>> sparse = sp.sparsify(dense, budget=0.25).to_empty(device="cpu")
        >>> sp.distributed.initialise(sparse, seed=0)
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed must be a whole number; got {seed!r}.")
    paths = list(fabrics(model))
    if any(p.is_meta for path in paths for p in model.get_submodule(path).parameters()):
        raise ConfigError(
            "The model is on the meta device and has nothing to fill: call "
            'model.to_empty(device="cuda") (or "cpu") first.'
        )
    done: set[nn.Module] = set()
    for path in paths:
        layer = model.get_submodule(path)
        if layer not in done:
            layer.reset_parameters(generator(seed, path))  # type: ignore[operator]
            done.add(layer)
