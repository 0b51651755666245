"""Real architectures with random weights: 41 small ones, and eleven at realistic widths.

`python -m tests.support.zoo` prints what becomes of the 41, as a table.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .audio import AUDIO, whisper_encoder
from .entry import Entry, Inputs, Maker, image
from .nets import Mixer, UNet
from .plain import PLAIN
from .text import TEXT, bert, distilbert, gpt2, llama, qwen3
from .vision import VISION, convnext, resnet, vit

__all__ = ["MODELS", "ZOO", "Entry", "Inputs", "call", "first_tensor", "make"]

ZOO: dict[str, Entry] = {**TEXT, **VISION, **AUDIO, **PLAIN}
"""41 models, at widths of 64 and thereabouts."""

MODELS: dict[str, Maker] = {
    "BERT": partial(bert, 256, 4),
    "DistilBERT": partial(distilbert, 256, 4),
    "GPT-2": partial(gpt2, 256, 4),
    "Llama": partial(llama, 256, 4),
    "Qwen3": partial(qwen3, 256, 4),
    "ViT": partial(vit, 256, 4),
    "ConvNeXt": partial(convnext, (64, 128, 256, 512), 3),
    "ResNet": partial(resnet, 64, (256, 512, 1024, 2048)),
    "Whisper encoder": whisper_encoder,
    "MLP-Mixer": lambda: (Mixer(256, 4, patches=64), (image(64),)),
    "UNet": lambda: (UNet(64), (image(32),)),
}
"""Eleven models wide enough for fabrics to be worth it."""


def make(name: str, of: dict[str, Maker] | dict[str, Entry] = MODELS) -> tuple[nn.Module, Inputs]:
    """A model and its example inputs, the same at every call, the global RNG left as it was."""
    maker = of[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return (maker.make if isinstance(maker, Entry) else maker)()


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model on its example inputs."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def first_tensor(output: Any) -> Tensor:
    """The main output: a tensor, or the first field of an output object."""
    return output if isinstance(output, Tensor) else output[0]
