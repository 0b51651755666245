"""Recurrent modules with their gates as layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from .gates import HIDDEN, STEPS, State
from .parts import linear, take_over

__all__ = ["Recurrent", "unfold_recurrent"]


class Recurrent(nn.Module):
    """`nn.RNN`, `nn.LSTM` or `nn.GRU` whose gates are layers.

    Each layer and direction has `input_...` for its inputs, called once for all time steps, and
    `hidden_...` for its state, called in each; a projection of the state is `project_...`. The
    endings are torch's: `l0`, `l0_reverse`, ... Made by `unfold_recurrent`.

    In an exported graph, which cannot loop over a length that is not known, torch's own operator
    runs instead, on dense weights that the graph makes of the factors. Only batch first keeps the
    length dynamic there: a limit of torch's exporter for dense modules too.
    """

    mode: str
    num_layers: int
    hidden_size: int
    proj_size: int
    dropout: float
    bias: bool
    batch_first: bool
    bidirectional: bool

    def __init__(self, owner: nn.RNNBase) -> None:
        """Share the parameters of a recurrent module."""
        super().__init__()
        for suffix in _suffixes(owner):
            for name, ending in (("input", "ih"), ("hidden", "hh")):
                bias = getattr(owner, f"bias_{ending}_{suffix}", None)
                weight = getattr(owner, f"weight_{ending}_{suffix}")
                self.add_module(f"{name}_{suffix}", linear(weight, bias))
            if owner.proj_size:
                weight = getattr(owner, f"weight_hr_{suffix}")
                self.add_module(f"project_{suffix}", linear(weight, None))
        take_over(self, owner)
        self._all_weights: list[list[str]] = []

    def forward(
        self,
        x: Tensor | PackedSequence,  # (time, batch, inputs), or batch first, or without the batch
        hx: Any = None,  # (layers * directions, batch, hidden), for LSTMs a pair
    ) -> tuple[Any, Any]:
        """Run over the sequence; see `nn.LSTM`."""
        lengths = None
        packed = x
        if isinstance(x, PackedSequence):
            x, lengths = pad_packed_sequence(x, batch_first=False)
        is_batched = x.dim() == 3
        if torch.compiler.is_exporting() and is_batched and lengths is None:
            return self._fused(x, hx)
        if not isinstance(packed, PackedSequence):
            if not is_batched:
                x = x.unsqueeze(1)
                hx = _mapped(lambda state: state.unsqueeze(1), hx)
            elif self.batch_first:
                x = x.transpose(0, 1)
        y, state = self._looped(x, hx, lengths)
        if isinstance(packed, PackedSequence) and lengths is not None:
            sorted_y = pack_padded_sequence(y, lengths, enforce_sorted=False)
            return sorted_y._replace(sorted_indices=packed.sorted_indices), state
        if not is_batched:
            return y.squeeze(1), _mapped(lambda state: state.squeeze(1), state)
        return y.transpose(0, 1) if self.batch_first else y, state

    def flatten_parameters(self) -> None:
        """Nothing to do here: kept for code that calls it before each run."""

    def _looped(self, x: Tensor, hx: Any, lengths: Tensor | None) -> tuple[Tensor, Any]:
        """Layer by layer, direction by direction, step by step."""
        starts = self._starts(x, hx)
        finals: list[State] = []
        mask = None
        if lengths is not None:
            steps = torch.arange(x.shape[0], device=x.device)
            mask = (steps[:, None] < lengths.to(x.device)[None, :]).unsqueeze(-1)
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(2 if self.bidirectional else 1):
                suffix = f"l{layer}" + "_reverse" * direction
                y, final = self._direction(x, suffix, starts[len(finals)], mask)
                outputs.append(y)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if self.dropout and self.training and layer < self.num_layers - 1:
                x = nn.functional.dropout(x, self.dropout)
        state = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        return x, state if self.mode == "LSTM" else state[0]

    def _direction(
        self, x: Tensor, suffix: str, state: State, mask: Tensor | None
    ) -> tuple[Tensor, State]:
        step = STEPS[self.mode]
        hidden = getattr(self, f"hidden_{suffix}")
        project = getattr(self, f"project_{suffix}", None)
        gates = getattr(self, f"input_{suffix}")(x)
        outputs: list[Tensor] = [gates] * len(gates)
        order = range(len(gates))
        for t in reversed(order) if suffix.endswith("_reverse") else order:
            after = step(gates[t], hidden(state[0]), state)
            if project is not None:
                after = (project(after[0]), *after[1:])
            if mask is None:
                state, outputs[t] = after, after[0]
            else:  # a sequence that has ended, or in reverse not begun, keeps its state
                seen = mask[t]
                outputs[t] = after[0] * seen
                state = tuple(torch.where(seen, a, b) for a, b in zip(after, state, strict=True))
        return torch.stack(outputs), state

    def _starts(self, x: Tensor, hx: Any) -> list[State]:
        count = self.num_layers * (2 if self.bidirectional else 1)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: HIDDEN[self.mode]]
        if hx is None:
            return [tuple(x.new_zeros(x.shape[1], width) for width in widths)] * count
        parts = hx if isinstance(hx, tuple) else (hx,)
        return [tuple(part[place] for part in parts) for place in range(count)]

    def _fused(self, x: Tensor, hx: Any) -> tuple[Tensor, Any]:
        """Torch's own operator, on dense weights."""
        weights = []
        for suffix in _suffixes(self):
            layers = [getattr(self, f"{name}_{suffix}") for name in ("input", "hidden")]
            weights += [layer.weight for layer in layers]
            weights += [layer.bias for layer in layers if layer.bias is not None]
            if self.proj_size:
                weights.append(getattr(self, f"project_{suffix}").weight)
        if hx is None:
            starts = self._starts(x.transpose(0, 1) if self.batch_first else x, None)
            hx = tuple(torch.stack(parts) for parts in zip(*starts, strict=True))
        function = {"LSTM": torch.lstm, "GRU": torch.gru, "RNN_TANH": torch.rnn_tanh}
        run: Any = function.get(self.mode, torch.rnn_relu)
        start = hx if self.mode == "LSTM" else hx[0] if isinstance(hx, tuple) else hx
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        y, *state = run(x, start, weights, *options, self.batch_first)
        return y, tuple(state) if self.mode == "LSTM" else state[0]


def _suffixes(owner: Any) -> list[str]:
    endings = ("", "_reverse") if owner.bidirectional else ("",)
    return [f"l{layer}{ending}" for layer in range(owner.num_layers) for ending in endings]


def _mapped(change: Any, hx: Any) -> Any:
    if hx is None:
        return None
    return tuple(change(part) for part in hx) if isinstance(hx, tuple) else change(hx)


def unfold_recurrent(module: nn.Module) -> nn.Module:
    """A recurrent module with its gates as layers over the same parameters.

    Args:
        module: an `nn.RNN`, `nn.LSTM` or `nn.GRU`.

    Example:
        >>> unfolded = unfold_recurrent(nn.LSTM(4, 8))
        >>> [name for name, _ in unfolded.named_children()]
        ['input_l0', 'hidden_l0']
    """
    assert isinstance(module, nn.RNNBase)
    return Recurrent(module)
