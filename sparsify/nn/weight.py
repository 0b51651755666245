"""Modules that stand for a raw parameter: torch's products with them are calls of a layer.

Code such as `F.linear(x, self.w)`, `x @ self.w` or `torch.einsum("bi,io->bo", x, self.w)` finds a
module where it had a parameter. Torch hands every function with such an operand to
`__torch_function__`, which calls the layer where the function is a product that it can serve, and
gives every other function the dense values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_map

from ..fabric import Fabric
from .linear import FabricLinear

__all__ = ["DenseWeight", "FabricWeight"]


class _Flipped:
    """The transpose of a standing-in module, as `.T` and `.t()` give it."""

    def __init__(self, module: _StandIn) -> None:
        self.module = module

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Serve a product, or use the dense values."""
        return _dispatch(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """Whatever else is asked of it, the dense values answer."""
        return getattr(self.module.weight.T, name)


class _StandIn(nn.Module):
    """What both kinds share: they behave as the dense values, and as a layer in products.

    Attributes:
        flipped: whether the parameter is (in, out), as in `x @ w`, instead of (out, in).
    """

    flipped: bool

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Serve a product, or use the dense values."""
        return _dispatch(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        """What a tensor has and a module has not."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name.startswith("_") or not hasattr(Tensor, name):
                raise
            return getattr(self.weight, name)

    @property
    def T(self) -> Any:
        """The transpose, which products serve too."""
        return _Flipped(self)

    def t(self) -> Any:
        """The transpose, which products serve too."""
        return _Flipped(self)


def _as_values(name: str) -> Callable[..., Any]:
    def method(self: _StandIn, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.weight, name)(*args, **kwargs)

    method.__name__ = name
    method.__doc__ = "As the dense values do it."
    return method


# What a module has too, or what Python looks up on the class alone.
for _name in (
    *("to", "type", "float", "double", "half", "bfloat16", "cpu", "cuda"),
    *("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__", "__truediv__"),
    *("__matmul__", "__neg__", "__getitem__", "__len__", "__pow__"),
):
    setattr(_StandIn, _name, _as_values(_name))


class DenseWeight(_StandIn):
    """A raw parameter as a layer; the dense side of `FabricWeight`.

    Args:
        weight: the parameter, (out, in), or (in, out) where flipped; shared, not copied.
        flipped: which of the two.

    Example:
        >>> layer = DenseWeight(nn.Parameter(torch.ones(2, 3)), flipped=True)
        >>> (torch.ones(5, 2) @ layer).shape
        torch.Size([5, 3])
    """

    def __init__(self, weight: nn.Parameter, flipped: bool) -> None:
        """See the class."""
        super().__init__()
        self.flipped = flipped
        self.weight = weight
        self.register_parameter("bias", None)

    @property
    def in_features(self) -> int:
        """Inputs of the product."""
        return int(self.weight.shape[0 if self.flipped else 1])

    @property
    def out_features(self) -> int:
        """Outputs of the product."""
        return int(self.weight.shape[1 if self.flipped else 0])

    def forward(self, x: Tensor) -> Tensor:  # (*, in_features) -> (*, out_features)
        """The product."""
        return functional.linear(x, self.weight.T if self.flipped else self.weight)


class FabricWeight(_StandIn, FabricLinear):
    """Stands for a raw parameter: products with it are those with a fabric.

    Functions that are no products of an input with it see the dense matrix, made anew each time.

    Args:
        fabric: in_features -> out_features.
        flipped: whether the parameter was (in, out), as in `x @ w`, instead of (out, in).
        device: as in torch.
        dtype: as in torch.

    Example:
        >>> import sparsify as sp
        >>> weight = sp.nn.FabricWeight(sp.fabric("low_rank", 8, 12, rank=2))
        >>> torch.nn.functional.linear(torch.ones(3, 8), weight).shape, weight.shape
        (torch.Size([3, 12]), torch.Size([12, 8]))
    """

    def __init__(
        self,
        fabric: Fabric,
        flipped: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """See the class."""
        super().__init__(fabric, False, device, dtype)
        self.flipped = flipped

    @property
    def weight(self) -> Tensor:
        """The dense values, in the parameter's own shape."""
        dense = FabricLinear.weight.fget(self)  # type: ignore[attr-defined]
        return dense.T if self.flipped else dense  # type: ignore[no-any-return]


def _dispatch(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    product = _PRODUCTS.get(func)
    if product is not None:
        y = product(*args, **kwargs)
        if y is not None:
            return y
    args, kwargs = tree_map(_values, (tuple(args), kwargs))
    return func(*args, **kwargs)


def _values(leaf: Any) -> Any:
    if isinstance(leaf, _Flipped):
        return leaf.module.weight.T
    return leaf.weight if isinstance(leaf, _StandIn) else leaf


def _layer(operand: object, contracted: int) -> _StandIn | None:
    """The layer to call for a product over this axis of a 2-D operand, None where it has none."""
    module = operand.module if isinstance(operand, _Flipped) else operand
    if not isinstance(module, _StandIn):
        return None
    axis = contracted if module is operand else 1 - contracted
    return module if axis == (0 if module.flipped else 1) else None


def _linear(input: Any, weight: Any, bias: Tensor | None = None) -> Tensor | None:
    layer = _layer(weight, 1)
    if layer is None or not isinstance(input, Tensor):
        return None
    y: Tensor = layer(input)
    return y if bias is None else y + bias


def _matmul(input: Any, other: Any) -> Tensor | None:
    layer = _layer(other, 0)
    return layer(input) if layer is not None and isinstance(input, Tensor) else None


def _addmm(bias: Any, input: Any, other: Any, **scales: Any) -> Tensor | None:
    y = None if scales else _matmul(input, other)
    return None if y is None else y + bias


def _einsum(equation: str, *operands: Any) -> Tensor | None:
    """A product of two operands that sums over one axis of the weight and keeps the other."""
    given = operands[0] if len(operands) == 1 else operands
    left, _, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not result or "." in equation or len(terms) != 2 or len(given) != 2:
        return None
    place = 0 if isinstance(given[0], (_StandIn, _Flipped)) else 1
    weight, axes = given[place], terms[place]
    x, x_axes = given[1 - place], terms[1 - place]
    summed = [axis for axis in axes if axis in x_axes and axis not in result]
    if len(axes) != 2 or len(summed) != 1 or len(set(x_axes)) != len(x_axes):
        return None
    kept = axes.replace(summed[0], "")
    rest = x_axes.replace(summed[0], "")
    if kept in x_axes or sorted(rest + kept) != sorted(result) or not isinstance(x, Tensor):
        return None
    layer = _layer(weight, axes.index(summed[0]))
    if layer is None:
        return None
    y: Tensor = layer(x.movedim(x_axes.index(summed[0]), -1))
    return y.permute([(rest + kept).index(axis) for axis in result])


_PRODUCTS: dict[Any, Callable[..., Tensor | None]] = {
    functional.linear: _linear,
    torch.matmul: _matmul,
    torch.mm: _matmul,
    Tensor.matmul: _matmul,
    Tensor.mm: _matmul,
    Tensor.__matmul__: _matmul,
    torch.addmm: _addmm,
    torch.einsum: _einsum,
}
