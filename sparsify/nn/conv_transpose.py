"""Transposed convolutions made of fabrics: one stage spreads each position over the taps."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ..fabric import Fabric
from ..init.gain import DEFAULT_GAIN
from ..ops import OperandError, Window, convolve
from .conv import FabricConvNd, Size

__all__ = ["FabricConvTranspose1d", "FabricConvTranspose2d", "FabricConvTranspose3d"]


class _FabricConvTranspose(FabricConvNd):
    """What the three ranks share; see `FabricConvTranspose2d`."""

    spreads = True

    def __init__(
        self,
        fabric: Fabric,
        kernel_size: Size,
        stride: Size = 1,
        padding: Size = 0,
        output_padding: Size = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Size = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See `FabricConvTranspose2d`."""
        if isinstance(padding, str):
            raise ConfigError(f"A transposed convolution is padded by sizes; got {padding!r}.")
        super().__init__(
            fabric,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            device=device,
            dtype=dtype,
        )
        self._cut = self._sizes("padding", padding)
        self.output_padding = self._sizes("output_padding", output_padding)
        steps = zip(self.output_padding, self.stride, self.dilation, strict=True)
        if any(extra >= max(step, reach) for extra, step, reach in steps):
            raise ConfigError(
                f"output_padding must be less than stride or dilation; got {self.output_padding} "
                f"with stride {self.stride} and dilation {self.dilation}."
            )

    @property
    def default_gain(self) -> float:
        """PyTorch takes the outputs of a tap for its fan-in, whatever the stride."""
        return DEFAULT_GAIN * math.sqrt(self.in_channels / self.out_channels)

    @property
    def weight(self) -> Tensor:
        """The dense weight, (in_channels, out_channels / groups, *kernel_size)."""
        dense = self._responses()
        inputs, outputs = self.in_channels // self.groups, self.out_channels // self.groups
        return torch.cat(
            [
                dense[g * inputs : (g + 1) * inputs, g * outputs : (g + 1) * outputs]
                for g in range(self.groups)
            ]
        )

    def forward(
        self,
        x: Tensor,  # (batch, in_channels, *spatial), or without the batch
        output_size: Sequence[int] | None = None,
    ) -> Tensor:  # (batch, out_channels, *spatial)
        """Apply the layer.

        Args:
            x: the input.
            output_size: positions that shall come out, of the spatial axes or of all axes, where
                the stride leaves a choice; takes the place of `output_padding`.

        Raises:
            OperandError: no such positions come out.
        """
        if x.dim() == self.rank + 1:
            return self.forward(x.unsqueeze(0), output_size).squeeze(0)
        extra = self.output_padding
        if output_size is not None:
            extra = self._extra(x.shape[2:], output_size)
        window = Window(self.stride, self._cut, self.dilation, True, extra)
        factors, bias = self._weights()
        return convolve(x, factors, self._text, window, bias)

    def _extra(self, sizes: Sequence[int], wanted: Sequence[int]) -> tuple[int, ...]:
        """The output padding that gives the wanted positions."""
        least = tuple(
            (size - 1) * step - 2 * pad + reach * (taps - 1) + 1
            for size, step, pad, reach, taps in zip(
                sizes, self.stride, self._cut, self.dilation, self.kernel_size, strict=True
            )
        )
        spatial = tuple(wanted)[-self.rank :]
        extra = tuple(size - low for size, low in zip(spatial, least, strict=False))
        if len(wanted) not in (self.rank, self.rank + 1, self.rank + 2) or not all(
            0 <= more < step for more, step in zip(extra, self.stride, strict=True)
        ):
            most = tuple(low + step - 1 for low, step in zip(least, self.stride, strict=True))
            raise OperandError(
                f"output_size must lie between {least} and {most} for an input of "
                f"{tuple(sizes)} positions; got {tuple(wanted)}."
            )
        return extra

    def extra_repr(self) -> str:
        """The fabric and the geometry."""
        return f"{super().extra_repr()}, output_padding={self.output_padding}"


class FabricConvTranspose1d(_FabricConvTranspose):
    """Stands for `nn.ConvTranspose1d`; see `FabricConvTranspose2d`."""

    rank = 1


class FabricConvTranspose2d(_FabricConvTranspose):
    """Stands for `nn.ConvTranspose2d`: one stage of the fabric spreads positions over k x k taps.

    Stages before it work on the positions of the input, stages behind it on those of the output.

    Args:
        fabric: in_channels -> out_channels (of all groups: see `Fabric.repeat`), with or without
            its spatial stage; without, the smallest stage becomes spatial, the last of equals.
        kernel_size: taps along each axis.
        stride: as in torch.
        padding: as in torch.
        output_padding: as in torch.
        groups: as in torch; the fabric must not mix them.
        bias: whether there is one.
        dilation: as in torch.
        device: as in torch.
        dtype: as in torch.

    Raises:
        ConfigError: sizes that do not go together.

    Example:
        >>> import sparsify as sp
        >>> fabric = sp.fabric("monarch", 32, 16, blocks=4)
        >>> layer = sp.nn.FabricConvTranspose2d(fabric, 2, stride=2)
        >>> layer(torch.zeros(2, 32, 8, 8)).shape, layer.weight.shape
        (torch.Size([2, 16, 16, 16]), torch.Size([32, 16, 2, 2]))
    """

    rank = 2


class FabricConvTranspose3d(_FabricConvTranspose):
    """Stands for `nn.ConvTranspose3d`; see `FabricConvTranspose2d`."""

    rank = 3
