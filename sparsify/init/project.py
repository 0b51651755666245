"""Projection of tensors: the best weights of a fabric for a trained dense weight."""

from __future__ import annotations

import torch
from torch import Tensor

from .. import projection
from ..errors import ConfigError
from ..fabric import Fabric

__all__ = ["project"]


@torch.no_grad()
def project(
    weight: Tensor, fabric: Fabric, covariance: Tensor | None = None, *, groups: int = 1
) -> tuple[list[Tensor], float]:
    """The weights of a fabric that come nearest to a dense weight.

    Exact where blocks of the weight are independent: one stage, Monarch, low rank, two-stage
    butterflies. Hierarchical splits and alternating least squares elsewhere. With a covariance of
    the inputs, the error of the outputs is minimised instead of that of the weight.

    Args:
        weight: (out, in), or (out, in / groups, *kernel) of a convolution; real, on any device.
        fabric: what to fit; for a convolution with its kernel, see `Fabric.with_kernel`.
        covariance: mean outer product of the inputs, (in, in); of a convolution over channels and
            taps, (in * taps, in * taps).
        groups: of a convolution.

    Returns:
        One tensor per stage, of `stage.shape` and the weight's dtype and device, and the relative
        squared error (in float64, before rounding to that dtype). A weight of zeros gives zeros
        and the error 0.

    Raises:
        ConfigError: shapes do not go together, or the covariance is none.
        ModelError: the weight has NaN or infinite entries.

    Example:
        >>> import sparsify as sp
        >>> fabric = sp.fabric("monarch", 64, 64, blocks=8)
        >>> factors, error = sp.project(torch.eye(64), fabric)
        >>> [tuple(factor.shape) for factor in factors], round(error, 6)
        ([(8, 1, 8, 8), (1, 8, 8, 8)], 0.0)

    Reference:
        Dao et al. 2022 (Monarch projection); Le et al. 2022 (hierarchical butterflies).
    """
    for name, tensor in (("weight", weight), ("covariance", covariance)):
        if tensor is not None and not isinstance(tensor, Tensor):
            raise ConfigError(f"project takes the {name} as a tensor; got {type(tensor).__name__}.")
        if tensor is not None and (not tensor.is_floating_point() or tensor.is_meta):
            raise ConfigError(
                f"project takes the {name} as a tensor of real numbers that has values; got "
                f"{tensor.dtype} on {tensor.device}."
            )
    metric = None if covariance is None else _array(covariance)
    factors, error = projection.project(_array(weight), fabric, metric, groups=groups)
    return [torch.from_numpy(f).to(weight.device, weight.dtype) for f in factors], error


def _array(tensor: Tensor) -> object:
    return tensor.detach().to("cpu", torch.float64).numpy()
