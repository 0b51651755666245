"""Fabrics as torch operators: two functions, and a way to choose the kernel behind them.

Example:
    >>> import torch
    >>> from sparsify.fabric import Fabric, Stage
    >>> from sparsify.ops import fabric_linear
    >>> fabric = Fabric(16, 16, ((Stage(4, 4, 4, 1), Stage(1, 4, 4, 4)),))
    >>> factors = [torch.ones(stage.shape) for stage in fabric.stages]
    >>> fabric_linear(torch.ones(2, 16), factors, fabric).shape
    torch.Size([2, 16])
"""

from __future__ import annotations

from . import autocast, autograd, batching, flops, schema, sharding
from .dispatch import kernel_names as kernel_names
from .dispatch import use_kernel as use_kernel
from .errors import OperandError as OperandError
from .functional import convolve as convolve
from .functional import fabric_conv as fabric_conv
from .functional import fabric_linear as fabric_linear
from .window import Window as Window

__all__ = [
    "OperandError",
    "Window",
    "convolve",
    "fabric_conv",
    "fabric_linear",
    "kernel_names",
    "use_kernel",
]

sharding.meet_dtensors()

del autocast, autograd, batching, flops, schema, sharding
