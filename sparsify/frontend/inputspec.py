"""Example inputs written as text: `x:f32[batch,3,224,224]`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import ConfigError, nearest

__all__ = ["Given", "parse_inputs"]

_DTYPES = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "i64": torch.int64,
    "i32": torch.int32,
    "u8": torch.uint8,
    "bool": torch.bool,
}
_SPEC = re.compile(r"(?:(?P<name>\w+):)?(?P<dtype>\w+)\[(?P<sizes>[^\]]*)\]")
_LARGEST = 1 << 30  # elements
_EXAMPLE_SIZE = 2  # of a dynamic axis; tracers take a size of 1 for a constant


@dataclass(frozen=True)
class Given:
    """Example inputs that a user wrote.

    Args:
        inputs: as the API takes them; None where he wrote none.
        dynamic: the labels of named sizes, by input and axis.
    """

    inputs: tuple[Any, ...] | dict[str, Any] | None
    dynamic: dict[str, dict[int, str]]


def parse_inputs(specs: Sequence[str]) -> Given:
    """Tensors from texts: seeded noise for floats, zeros for the rest.

    Args:
        specs: texts name:dtype[sizes]; all with a name (keyword inputs) or all without. A size may
            be a label instead, such as "batch": that axis is dynamic in exported files.

    Raises:
        ConfigError: a text of another form, or names given only to some.

    Example:
        >>> parse_inputs(["ids:i64[batch,5]"]).dynamic
        {'ids': {0: 'batch'}}
    """
    if not specs:
        return Given(None, {})
    parsed = [_parse(spec) for spec in specs]
    names = {name for name, _, _ in parsed if name}
    if not names:
        return Given(tuple(tensor for _, tensor, _ in parsed), {})
    if len(names) != len(parsed):
        raise ConfigError(
            "Give every --input a name of its own (name:dtype[sizes]), or none of them; got "
            f"{', '.join(specs)}."
        )
    inputs = {name: tensor for name, tensor, _ in parsed}
    return Given(inputs, {name: labels for name, _, labels in parsed if labels})


def _parse(spec: str) -> tuple[str, Tensor, dict[int, str]]:
    match = _SPEC.fullmatch(spec.strip())
    if match is None:
        raise ConfigError(
            f"An input is name:dtype[sizes], such as 'x:f32[batch,3,224,224]'; got {spec!r}."
        )
    dtype = _DTYPES.get(match["dtype"])
    if dtype is None:
        raise ConfigError(
            f"--input {spec}: there is no type {match['dtype']!r}; there are {', '.join(_DTYPES)}."
            f"{nearest(match['dtype'], _DTYPES)}"
        )
    texts = [text.strip() for text in match["sizes"].split(",")] if match["sizes"] else []
    if not all(text.isidentifier() or (text.isascii() and text.isdigit()) for text in texts):
        raise ConfigError(f"--input {spec}: a size is a whole number or a label.")
    labels = {axis: text for axis, text in enumerate(texts) if text.isidentifier()}
    shape = tuple(_EXAMPLE_SIZE if text.isidentifier() else int(text) for text in texts)
    if math.prod(shape) > _LARGEST:
        raise ConfigError(f"--input {spec}: more than {_LARGEST} elements; give smaller sizes.")
    name = match["name"] or ""
    if not dtype.is_floating_point:
        return name, torch.zeros(shape, dtype=dtype), labels
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return name, noise.to(dtype), labels
