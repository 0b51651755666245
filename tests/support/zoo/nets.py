"""Two nets of torch alone, at any width."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


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
    """An MLP-Mixer on patches of 8 by 8, with a layer or an einsum as its head."""

    def __init__(self, width: int, depth: int, patches: int, with_einsum: bool = False) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.ModuleList(MixerBlock(patches, width) for _ in range(depth))
        if with_einsum:
            self.out = nn.Parameter(0.1 * torch.randn(width, 10))
        else:
            self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        if hasattr(self, "out"):
            return torch.einsum("btc,co->bto", x, self.out).mean(1)
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
