"""Convolutions made of fabrics: a fabric over the channels with one spatial stage."""

from __future__ import annotations

import math
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import ConfigError
from ..fabric import Fabric
from ..ops import Window, convolve, fabric_conv
from .layer import FabricLayer, check_fabric

__all__ = ["FabricConv1d", "FabricConv2d", "FabricConv3d", "FabricConvNd", "Size"]

Size = int | tuple[int, ...]
PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
PADDING_MODES = get_args(PaddingMode)


def _check_groups(fabric: Fabric, groups: int) -> None:
    """A fabric serves a grouped convolution where each of its stages repeats over the groups."""
    if not isinstance(groups, int) or groups < 1:
        raise ConfigError(f"groups must be a whole number of 1 or more; got groups={groups!r}.")
    if fabric.in_features % groups or fabric.out_features % groups:
        raise ConfigError(f"groups={groups} must divide the channels of {fabric}.")
    if not fabric.separates(groups):
        raise ConfigError(
            f"The fabric mixes the {groups} groups; build it for one group and take "
            f"fabric.repeat({groups}). It is {fabric}."
        )


class FabricConvNd(FabricLayer):
    """What the three ranks share, and the transposed ones; see `FabricConv2d`."""

    rank: ClassVar[int]

    def __init__(
        self,
        fabric: Fabric,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size | str = 0,
        dilation: Size = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See `FabricConv2d`."""
        check_fabric(fabric)
        kernel = self._sizes("kernel_size", kernel_size)
        spatial = fabric if fabric.kernel else fabric.with_kernel(kernel, last=self.spreads)
        if spatial.kernel not in ((), kernel):
            raise ConfigError(f"The fabric has the kernel {spatial.kernel}, not {kernel}.")
        _check_groups(fabric, groups)
        if padding_mode not in PADDING_MODES:
            raise ConfigError(
                f"padding_mode is one of {', '.join(PADDING_MODES)}; got {padding_mode!r}."
            )
        super().__init__(spatial, bias, device, dtype)
        self.in_channels, self.out_channels = fabric.in_features, fabric.out_features
        self.kernel_size, self.groups = kernel, groups
        self.stride = self._sizes("stride", stride)
        self.dilation = self._sizes("dilation", dilation)
        self.padding = padding if isinstance(padding, str) else self._sizes("padding", padding)
        self.padding_mode = padding_mode
        self._pad = self._edges()
        is_plain = padding_mode == "zeros" and all(before == after for before, after in self._pad)
        # None: more than an operator does, so that the input is padded first.
        self._padding = tuple(before for before, _ in self._pad) if is_plain else None
        self.reset_parameters()

    def _sizes(self, name: str, value: Size) -> tuple[int, ...]:
        sizes = tuple(value) if isinstance(value, (tuple, list)) else (value,) * self.rank
        least = 0 if name.endswith("padding") else 1
        if len(sizes) != self.rank or not all(
            isinstance(size, int) and size >= least for size in sizes
        ):
            raise ConfigError(
                f"{name} must be one whole number or {self.rank} of them, each {least} or more; "
                f"got {value!r}."
            )
        return sizes

    def _edges(self) -> list[tuple[int, int]]:
        """Padding (before, after) of each spatial axis."""
        if self.padding == "valid":
            return [(0, 0)] * self.rank
        if self.padding == "same":
            if any(stride != 1 for stride in self.stride):
                raise ConfigError(f"padding='same' needs a stride of 1; got {self.stride}.")
            totals = [d * (k - 1) for d, k in zip(self.dilation, self.kernel_size, strict=True)]
            return [(total // 2, total - total // 2) for total in totals]
        if isinstance(self.padding, str):
            raise ConfigError(f"padding is 'same', 'valid' or sizes; got {self.padding!r}.")
        return [(size, size) for size in self.padding]

    @property
    def fan_in(self) -> int:
        """Weights per output of the dense convolution."""
        return self.in_channels // self.groups * math.prod(self.kernel_size)

    @property
    def is_centred(self) -> bool:
        """A stride or an even kernel would leave the inputs beside the centre tap unread."""
        return all(size % 2 for size in self.kernel_size) and max(self.stride) == 1

    @property
    def weight(self) -> Tensor:
        """The dense weight, (out_channels, in_channels / groups, *kernel_size)."""
        dense = self._responses().transpose(0, 1)
        inputs, outputs = self.in_channels // self.groups, self.out_channels // self.groups
        return torch.cat(
            [
                dense[g * outputs : (g + 1) * outputs, g * inputs : (g + 1) * inputs]
                for g in range(self.groups)
            ]
        )

    def _responses(self) -> Tensor:
        """Where an impulse in each input goes: (in_channels, out_channels, *kernel_size)."""
        first = self.factors[0]
        impulses = torch.eye(self.in_channels, dtype=first.dtype, device=first.device)
        return fabric_conv(
            impulses.reshape(self.in_channels, self.in_channels, *[1] * self.rank),
            list(self.factors),
            self._text,
            transposed=True,
        )

    def forward(
        self,
        x: Tensor,  # (batch, in_channels, *spatial), or without the batch
    ) -> Tensor:  # (batch, out_channels, *spatial)
        """Apply the layer."""
        if x.dim() == self.rank + 1:
            return self.forward(x.unsqueeze(0)).squeeze(0)
        padding = self._padding
        if padding is None:
            mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
            edges = [size for pair in reversed(self._pad) for size in pair]
            x = functional.pad(x, edges, mode=mode)
            padding = (0,) * self.rank
        window = Window(self.stride, padding, self.dilation, False, (0,) * self.rank)
        factors, bias = self._weights()
        return convolve(x, factors, self._text, window, bias)

    def extra_repr(self) -> str:
        """The fabric and the geometry."""
        return (
            f"{super().extra_repr()}, kernel_size={self.kernel_size}, stride={self.stride}, "
            f"padding={self.padding}, dilation={self.dilation}, groups={self.groups}"
        )


class FabricConv1d(FabricConvNd):
    """Stands for `nn.Conv1d`; see `FabricConv2d`."""

    rank = 1


class FabricConv2d(FabricConvNd):
    """Stands for `nn.Conv2d`: one stage of the fabric over channels takes the k x k taps.

    Args:
        fabric: in_channels -> out_channels (of all groups: see `Fabric.repeat`), with or without
            its spatial stage; without, the smallest stage becomes spatial.
        kernel_size: taps along each axis; 1 makes all stages act per position, as in a Linear.
        stride: as in torch.
        padding: as in torch, "same" and "valid" too.
        dilation: as in torch.
        groups: as in torch; the fabric must not mix them.
        bias: whether there is one.
        padding_mode: as in torch.
        device: as in torch.
        dtype: as in torch.

    Raises:
        ConfigError: sizes that do not go together.

    Example:
        >>> import sparsify as sp
        >>> layer = sp.nn.FabricConv2d(sp.fabric("monarch", 16, 32, blocks=4), 3, padding=1)
        >>> layer(torch.zeros(2, 16, 8, 8)).shape, layer.weight.shape
        (torch.Size([2, 32, 8, 8]), torch.Size([32, 16, 3, 3]))
    """

    rank = 2


class FabricConv3d(FabricConvNd):
    """Stands for `nn.Conv3d`; see `FabricConv2d`."""

    rank = 3
