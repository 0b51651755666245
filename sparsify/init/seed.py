"""Seeds, and random generators that depend on nothing but a seed and a name."""

from __future__ import annotations

import hashlib

import torch

from ..errors import ConfigError

__all__ = ["check_seed", "generator"]


def check_seed(seed: object) -> None:
    """Reject what is no whole number.

    Raises:
        ConfigError: it is something else.

    Example:
        >>> check_seed(-1)
    """
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise ConfigError(f"seed must be a whole number; got {seed!r}.")


def generator(seed: int, name: str) -> torch.Generator:
    """A generator on the CPU for one site: the same on every rank, device and layer order.

    Args:
        seed: any whole number.
        name: the site.

    Example:
        >>> a, b = generator(0, "fc1"), generator(0, "fc1")
        >>> bool(torch.rand(1, generator=a) == torch.rand(1, generator=b))
        True
    """
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
