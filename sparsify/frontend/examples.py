"""Example inputs for transformers models, by what their main input is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["ROWS", "example_inputs", "token_axes"]

ROWS = 2
"""Rows of every example: one row would make tracers take the batch for a constant."""


def example_inputs(model: Any, config: Any) -> dict[str, Tensor] | None:
    """Keyword inputs that a transformers model can be called with.

    Args:
        model: the model; its `dummy_inputs` serve where it reads tokens.
        config: its configuration.

    Returns:
        The inputs, or None where its kind is unknown; then the user has to give some.
    """
    name = getattr(model, "main_input_name", "input_ids")
    if name == "input_ids":
        return _with_images(_tokens(model), config)
    build = _BUILDERS.get(name)
    if build is None:
        return None
    inputs = {name: build(config)}
    if getattr(config, "is_encoder_decoder", False):
        start = getattr(config, "decoder_start_token_id", None) or 0
        inputs["decoder_input_ids"] = torch.full((ROWS, 4), start)
    return inputs


def token_axes(inputs: dict[str, Tensor] | None) -> dict[str, dict[int, str]]:
    """The axes of token inputs that may change: their number as well as their batch."""
    return {
        name: {0: "batch", 1: f"{name.removesuffix('input_ids')}sequence"}
        for name, value in (inputs or {}).items()
        if name.endswith("input_ids") and value.dim() == 2
    }


def _tokens(model: Any) -> dict[str, Tensor] | None:
    offered = getattr(model, "dummy_inputs", None)
    if not isinstance(offered, dict):
        return None
    return {name: value for name, value in offered.items() if isinstance(value, Tensor)}


def _with_images(tokens: dict[str, Tensor] | None, config: Any) -> dict[str, Tensor] | None:
    """Models that compare texts with images, such as CLIP, need as many images as texts."""
    if tokens is None or not hasattr(config, "logit_scale_init_value"):
        return tokens
    rows = len(next(iter(tokens.values())))
    image = _pixels(config)[:1]
    return tokens | {"pixel_values": image.expand(rows, *image.shape[1:]).contiguous()}


def _pixels(config: Any) -> Tensor:
    config = getattr(config, "vision_config", config)
    size = getattr(config, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else tuple(size)
    return _noise(getattr(config, "num_channels", 3), height, width)


def _spectrum(config: Any) -> Tensor:
    return _noise(config.num_mel_bins, 2 * config.max_source_positions)


def _waveform(config: Any) -> Tensor:
    return _noise(16000)


def _noise(*shape: int) -> Tensor:
    return torch.randn(ROWS, *shape, generator=torch.Generator().manual_seed(0), device="cpu")


_BUILDERS: dict[str, Callable[[Any], Tensor]] = {
    "pixel_values": _pixels,
    "input_features": _spectrum,
    "input_values": _waveform,
}
