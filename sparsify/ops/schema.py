"""The operators `sparsify::fabric` and `sparsify::fabric_conv`, and their backward operators.

Here: signatures, checks, shapes without data, and the call of a kernel. Derivatives are in
`autograd.py`, autocast in `autocast.py`, vmap in `batching.py`, FLOPs in `flops.py`; importing
`sparsify.ops` registers all of them.

The library is defined by hand because a `torch.library.custom_op` costs several times more a call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..fabric import Fabric
from .dispatch import select
from .errors import OperandError
from .formula import rows_of, wanted
from .window import Window

__all__ = ["LIBRARY", "OPERATORS"]

LIBRARY = torch.library.Library("sparsify", "DEF")

_OPERANDS = "Tensor x, Tensor[] factors, str fabric"
_WINDOW = "SymInt[] stride, SymInt[] padding, SymInt[] dilation"
_TRANSPOSED = "bool transposed{0}, SymInt[] output_padding{1}"
SIGNATURES = {
    "fabric": f"({_OPERANDS}, Tensor? bias=None) -> Tensor",
    "fabric_backward": f"(Tensor grad, {_OPERANDS}, bool[] needs) -> Tensor[]",
    "fabric_conv": (f"({_OPERANDS}, {_WINDOW}, {_TRANSPOSED.format('=False', '=[]')}) -> Tensor"),
    "fabric_conv_backward": (
        f"(Tensor grad, {_OPERANDS}, {_WINDOW}, {_TRANSPOSED.format('', '')}, bool[] needs) "
        "-> Tensor[]"
    ),
}
OPERATORS = tuple(SIGNATURES)


def check(
    x: Tensor, factors: Sequence[Tensor], fabric: Fabric, axis: int, bias: Tensor | None = None
) -> None:
    """Reject operands that do not fit a fabric.

    Args:
        x: the input.
        factors: the weights.
        fabric: what they should fit.
        axis: where the features of x are, -1 for the linear operator and 1 for a convolution.
        bias: what is added to the output, if anything.

    Raises:
        OperandError: a wrong width, number or shape of factors, dtype or device.
    """
    if not x.dim() or x.shape[axis] != fabric.in_features:
        raise OperandError(
            f"The input needs {fabric.in_features} features on axis {axis}; got shape "
            f"{tuple(x.shape)}. The fabric is {fabric}."
        )
    stages = fabric.stages
    if len(factors) != len(stages):
        raise OperandError(
            f"The fabric needs {len(stages)} factors, one per stage; got {len(factors)}. "
            f"It is {fabric}."
        )
    for index, (factor, stage) in enumerate(zip(factors, stages, strict=True)):
        if factor.shape != stage.shape:
            raise OperandError(
                f"Factor {index} needs the shape {stage.shape} of its stage {stage}; got "
                f"{tuple(factor.shape)}."
            )
        _check_place(x, factor, f"factor {index}")
    if bias is None:
        return
    if bias.shape != (fabric.out_features,):
        raise OperandError(
            f"The bias needs the shape ({fabric.out_features},); got {tuple(bias.shape)}. The "
            f"fabric is {fabric}."
        )
    _check_place(x, bias, "the bias")


def _check_place(x: Tensor, other: Tensor, name: str) -> None:
    if other.dtype != x.dtype or other.device != x.device:
        raise OperandError(
            f"The input, all factors and the bias need one dtype and one device; the input has "
            f"{x.dtype} on {x.device}, {name} has {other.dtype} on {other.device}. "
            "Move them with .to(), or use torch.autocast for mixed precision."
        )


def _fabric(x: Tensor, factors: list[Tensor], text: str, bias: Tensor | None = None) -> Tensor:
    fabric = Fabric.from_json(text)
    check(x, factors, fabric, -1, bias)
    kernel = select(text, x.device.type, x.dtype, False)
    y = kernel.forward(rows_of(x), factors, fabric, bias)
    return y if x.dim() == 2 else y.view(*x.shape[:-1], fabric.out_features)


def _fabric_backward(
    grad: Tensor, x: Tensor, factors: list[Tensor], text: str, needs: list[bool]
) -> list[Tensor]:
    fabric = Fabric.from_json(text)
    check(x, factors, fabric, -1)
    kernel = select(text, x.device.type, x.dtype, False)
    grads = kernel.backward(rows_of(grad), rows_of(x), factors, fabric, needs)
    if grads[0] is not None:
        grads[0] = grads[0].view(x.shape)
    return wanted(grads)


def _fabric_conv(x: Tensor, factors: list[Tensor], text: str, *geometry: Any) -> Tensor:
    fabric, window = _conv_request(x, factors, text, *geometry)
    kernel = select(text, x.device.type, x.dtype, True)
    return kernel.forward_conv(x, factors, fabric, window)


def _fabric_conv_backward(
    grad: Tensor, x: Tensor, factors: list[Tensor], text: str, *rest: Any
) -> list[Tensor]:
    *geometry, needs = rest
    fabric, window = _conv_request(x, factors, text, *geometry)
    kernel = select(text, x.device.type, x.dtype, True)
    return wanted(kernel.backward_conv(grad, x, factors, fabric, needs, window))


def _conv_request(
    x: Tensor, factors: list[Tensor], text: str, *geometry: Any
) -> tuple[Fabric, Window]:
    fabric = Fabric.from_json(text)
    window = Window.of(*geometry)
    window.check(x, fabric)
    check(x, factors, fabric, 1)
    return fabric, window


def _fake_fabric(x: Tensor, factors: list[Tensor], text: str, bias: Tensor | None = None) -> Tensor:
    fabric = Fabric.from_json(text)
    check(x, factors, fabric, -1, bias)
    return x.new_empty((*x.shape[:-1], fabric.out_features))


def _fake_fabric_conv(x: Tensor, factors: list[Tensor], text: str, *geometry: Any) -> Tensor:
    fabric, window = _conv_request(x, factors, text, *geometry)
    positions = window.outputs(x.shape[2:], fabric.kernel)
    return x.new_empty((x.shape[0], fabric.out_features, *positions))


def _fake_backward(
    grad: Tensor, x: Tensor, factors: list[Tensor], text: str, *rest: list[bool]
) -> list[Tensor]:
    operands = zip((x, *factors), rest[-1], strict=True)
    return [operand.new_empty(operand.shape) for operand, need in operands if need]


for _name, _signature in SIGNATURES.items():
    LIBRARY.define(_name + _signature)

LIBRARY.impl("fabric", _fabric, "CompositeExplicitAutograd")
LIBRARY.impl("fabric_backward", _fabric_backward, "CompositeExplicitAutograd")
LIBRARY.impl("fabric_conv", _fabric_conv, "CompositeExplicitAutograd")
LIBRARY.impl("fabric_conv_backward", _fabric_conv_backward, "CompositeExplicitAutograd")

torch.library.register_fake("sparsify::fabric", _fake_fabric, lib=LIBRARY)
torch.library.register_fake("sparsify::fabric_backward", _fake_backward, lib=LIBRARY)
torch.library.register_fake("sparsify::fabric_conv", _fake_fabric_conv, lib=LIBRARY)
torch.library.register_fake("sparsify::fabric_conv_backward", _fake_backward, lib=LIBRARY)
