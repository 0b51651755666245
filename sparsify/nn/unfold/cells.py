"""Recurrent cells with their gates as layers."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .gates import HIDDEN, STEPS
from .parts import linear, take_over

__all__ = ["Cell", "unfold_cell"]


class Cell(nn.Module):
    """`nn.RNNCell`, `nn.LSTMCell` or `nn.GRUCell` with the layers `input` and `hidden`.

    Made by `unfold_cell`.
    """

    def __init__(self, owner: nn.RNNCellBase) -> None:
        """Share the parameters of a cell."""
        super().__init__()
        self.input = linear(owner.weight_ih, owner.bias_ih)
        self.hidden = linear(owner.weight_hh, owner.bias_hh)
        if isinstance(owner, nn.RNNCell):
            self.mode = f"RNN_{owner.nonlinearity}".upper()
        else:
            self.mode = "LSTM" if isinstance(owner, nn.LSTMCell) else "GRU"
        take_over(self, owner)

    def forward(self, x: Tensor, hx: Any = None) -> Any:  # (batch, inputs) or (inputs,)
        """One step; see `nn.LSTMCell`."""
        count = HIDDEN[self.mode]
        if hx is None:
            state = (x.new_zeros(*x.shape[:-1], self.hidden.in_features),) * count
        else:
            state = tuple(hx) if count > 1 else (hx,)
        after = STEPS[self.mode](self.input(x), self.hidden(state[0]), state)
        return after if count > 1 else after[0]


def unfold_cell(module: nn.Module) -> nn.Module:
    """A recurrent cell with its gates as layers over the same parameters.

    Args:
        module: an `nn.RNNCell`, `nn.LSTMCell` or `nn.GRUCell`.

    Example:
        >>> unfold_cell(nn.GRUCell(4, 8)).hidden
        Linear(in_features=8, out_features=24, bias=True)
    """
    assert isinstance(module, nn.RNNCellBase)
    return Cell(module)
