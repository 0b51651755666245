"""What a family from another package must be, checked when it is used."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError, SparsifyError
from .base import Topology

__all__ = ["check_family", "proposals_of"]


def check_family(name: str, family: Any) -> None:
    """Check what a plug-in offers as a topology.

    Raises:
        ConfigError: it is none; the text goes on where the plug-in has been named.

    Example:
        >>> from sparsify.topology import Clos
        >>> check_family("clos", Clos)
    """
    if not inspect.isclass(family) or not issubclass(family, Topology):
        raise ConfigError(
            f"must be a subclass of sparsify.topology.Topology; it is {_kind(family)}."
        )
    if missing := sorted(getattr(family, "__abstractmethods__", ())):
        raise ConfigError(f"must define {', '.join(missing)}(), which it lacks.")
    if "__dataclass_params__" not in vars(family):
        raise ConfigError("must be a dataclass: put @dataclass(frozen=True) above the class.")
    own = getattr(family, "name", None)
    if own != name:
        raise ConfigError(
            f"must have the name of its entry point: name = {name!r} in the class; it is {own!r}."
        )
    fields = [field.name for field in dataclasses.fields(family)]
    if family.grows is not None and family.grows not in fields:
        raise ConfigError(
            f"must have as `grows` None or one of its options ({', '.join(fields)}); it is "
            f"{family.grows!r}."
        )


def proposals_of(family: type[Topology], in_features: int, out_features: int) -> list[Topology]:
    """The candidates of a family, each checked to be one of it.

    Raises:
        ConfigError: `candidates` fails, gives no iterable, or other things than its own instances.

    Example:
        >>> from sparsify.topology import LowRank
        >>> proposals_of(LowRank, 8, 8)
        [LowRank(rank=1)]
    """
    who = f"The topology {family.name!r} ({family.__module__}.{family.__qualname__})"
    try:
        found: Any = family.candidates(in_features, out_features)
        topologies = list(found) if isinstance(found, Iterable) else found
    except SparsifyError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{who} failed to propose settings for {in_features} -> {out_features}: "
            f"{type(error).__name__}: {error}"
        ) from error
    if not isinstance(topologies, list):
        raise ConfigError(
            f"{who} must give an iterable of its instances from candidates(); it gave "
            f"{_kind(found)}."
        )
    for topology in topologies:
        if not isinstance(topology, family):
            raise ConfigError(
                f"{who} must give its own instances from candidates(); it gave {_kind(topology)}."
            )
    return topologies


def _kind(thing: object) -> str:
    return f"{thing!r:.80} ({type(thing).__name__})"
