"""One time step of each recurrent network, from gates that are computed already."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["HIDDEN", "STEPS", "State"]

State = tuple[Tensor, ...]  # h, or h and c; each (batch, features)
Step = Callable[[Tensor, Tensor, State], State]


def _tanh(inputs: Tensor, hidden: Tensor, state: State) -> State:
    return (torch.tanh(inputs + hidden),)


def _relu(inputs: Tensor, hidden: Tensor, state: State) -> State:
    return (torch.relu(inputs + hidden),)


def _lstm(inputs: Tensor, hidden: Tensor, state: State) -> State:
    i, f, g, o = (inputs + hidden).chunk(4, -1)
    c = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def _gru(inputs: Tensor, hidden: Tensor, state: State) -> State:
    reset_in, update_in, new_in = inputs.chunk(3, -1)
    reset_h, update_h, new_h = hidden.chunk(3, -1)
    reset, update = torch.sigmoid(reset_in + reset_h), torch.sigmoid(update_in + update_h)
    new = torch.tanh(new_in + reset * new_h)
    return (new + update * (state[0] - new),)


STEPS: dict[str, Step] = {"RNN_TANH": _tanh, "RNN_RELU": _relu, "LSTM": _lstm, "GRU": _gru}
"""Torch's name of the kind -> (gates of the input, gates of the state, state) -> next state."""

HIDDEN = {"RNN_TANH": 1, "RNN_RELU": 1, "LSTM": 2, "GRU": 1}
"""Torch's name of the kind -> tensors in a state."""
