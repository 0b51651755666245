"""Real architectures with random weights, at realistic small widths, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Inputs = dict[str, Any] | tuple[Any, ...]
Maker = Callable[[], tuple[nn.Module, Inputs]]

TEXT: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}


class MixerBlock(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, tokens: int, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.token1, self.token2 = nn.Linear(tokens, 2 * tokens), nn.Linear(2 * tokens, tokens)
        self.channel1 = nn.Linear(channels, 4 * channels)
        self.channel2 = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x).transpose(1, 2)
        x = x + self.token2(functional.gelu(self.token1(y))).transpose(1, 2)
        return x + self.channel2(functional.gelu(self.channel1(self.norm2(x))))


class Mixer(nn.Module):
    """An MLP-Mixer."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 256, 8, 8)
        self.blocks = nn.ModuleList(MixerBlock(64, 256) for _ in range(4))
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def _double_conv(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, padding=1),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(nn.Module):
    """Two levels down, two levels up, with skips."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.down1, self.down2 = _double_conv(3, width), _double_conv(width, 2 * width)
        self.middle = _double_conv(2 * width, 4 * width)
        self.up2 = nn.ConvTranspose2d(4 * width, 2 * width, 2, 2)
        self.left2 = _double_conv(4 * width, 2 * width)
        self.up1 = nn.ConvTranspose2d(2 * width, width, 2, 2)
        self.left1 = _double_conv(2 * width, width)
        self.out = nn.Conv2d(width, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(functional.max_pool2d(first, 2))
        x = self.middle(functional.max_pool2d(second, 2))
        x = self.left2(torch.cat([self.up2(x), second], 1))
        return self.out(self.left1(torch.cat([self.up1(x), first], 1)))


def _tokens() -> Tensor:
    return torch.randint(5, 200, (2, 16), generator=torch.Generator().manual_seed(0))


def _image(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def _bert() -> tuple[nn.Module, Inputs]:
    from transformers import BertConfig, BertForMaskedLM

    inputs = {"input_ids": _tokens(), "attention_mask": torch.ones(2, 16, dtype=torch.long)}
    return BertForMaskedLM(BertConfig(**TEXT)), inputs


def _distilbert() -> tuple[nn.Module, Inputs]:
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(
        vocab_size=512, dim=256, n_layers=4, n_heads=4, hidden_dim=1024, max_position_embeddings=64
    )
    return DistilBertForSequenceClassification(config), {"input_ids": _tokens()}


def _gpt2() -> tuple[nn.Module, Inputs]:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=512,
        n_embd=256,
        n_layer=4,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config), {"input_ids": _tokens()}


def _llama() -> tuple[nn.Module, Inputs]:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(LlamaConfig(**TEXT, num_key_value_heads=2)), {"input_ids": _tokens()}


def _qwen3() -> tuple[nn.Module, Inputs]:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(**TEXT, num_key_value_heads=2, head_dim=64)
    return Qwen3ForCausalLM(config), {"input_ids": _tokens()}


def _vit() -> tuple[nn.Module, Inputs]:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=1024,
        image_size=32,
        patch_size=8,
        num_labels=10,
    )
    return ViTForImageClassification(config), {"pixel_values": _image(32)}


def _convnext() -> tuple[nn.Module, Inputs]:
    from transformers import ConvNextConfig, ConvNextForImageClassification

    config = ConvNextConfig(hidden_sizes=[64, 128, 256, 512], depths=[1, 1, 3, 1], num_labels=10)
    return ConvNextForImageClassification(config), {"pixel_values": _image(64)}


def _resnet() -> tuple[nn.Module, Inputs]:
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        embedding_size=64, hidden_sizes=[256, 512, 1024, 2048], depths=[1, 2, 2, 1], num_labels=10
    )
    return ResNetForImageClassification(config), {"pixel_values": _image(64)}


def _whisper() -> tuple[nn.Module, Inputs]:
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        num_mel_bins=80,
        d_model=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=1024,
        max_source_positions=32,
    )
    features = torch.randn(2, 80, 64, generator=torch.Generator().manual_seed(0))
    return WhisperEncoder(config), {"input_features": features}


MODELS: dict[str, Maker] = {
    "BERT": _bert,
    "DistilBERT": _distilbert,
    "GPT-2": _gpt2,
    "Llama": _llama,
    "Qwen3": _qwen3,
    "ViT": _vit,
    "ConvNeXt": _convnext,
    "ResNet": _resnet,
    "Whisper encoder": _whisper,
    "MLP-Mixer": lambda: (Mixer(), (_image(64),)),
    "UNet": lambda: (UNet(), (_image(32),)),
}


def make(name: str) -> tuple[nn.Module, Inputs]:
    """A model and its example inputs, the same at every call, the global RNG left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]()


def call(model: nn.Module, inputs: Inputs) -> Any:
    """Run a model on its example inputs."""
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


def first_tensor(output: Any) -> Tensor:
    """The main output: a tensor, or the first field of an output object."""
    return output if isinstance(output, Tensor) else output[0]
