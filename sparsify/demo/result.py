"""What the demo found, as data and as a table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from ..report import Row, render

__all__ = ["Arm", "Result"]


@dataclass(frozen=True)
class Arm:
    """One model of the comparison.

    Args:
        name: "dense", "narrow dense" or "fabric".
        width: features per position.
        body_weights: weights of the blocks' matrices.
        parameters: all parameters.
        file_bytes: size of the saved file.
        bits_per_byte: loss on files that were held out; lower is better.
        lr: learning rate of its body.
        training_s: seconds of training.
        torch_ms: milliseconds of one inference in torch, median.
        onnxruntime_ms: the same of the exported file in stock onnxruntime.
    """

    name: str
    width: int
    body_weights: int
    parameters: int
    file_bytes: int
    bits_per_byte: float
    lr: float
    training_s: float
    torch_ms: float
    onnxruntime_ms: float

    def row(self) -> Row:
        """The arm's line of the closing table."""
        return {
            "model": self.name,
            "width": self.width,
            "bits per byte": f"{self.bits_per_byte:.3f}",
            "body weights": self.body_weights,
            "parameters": self.parameters,
            "file kB": round(self.file_bytes / 1000),
            "train s": f"{self.training_s:.1f}",
            "torch ms": f"{self.torch_ms:.2f}",
            "onnxruntime ms": f"{self.onnxruntime_ms:.2f}",
        }


@dataclass(frozen=True)
class Result:
    """The whole comparison.

    Args:
        arms: dense, narrow dense, fabric.
        steps: optimiser steps of each arm.
        tokens: bytes that each arm was trained on.
        seed: of all randomness.
        threads: of torch and onnxruntime.
        onnx_error: largest difference between the fabric in torch and in onnxruntime.
        seconds: the whole run.
    """

    arms: tuple[Arm, ...]
    steps: int
    tokens: int
    seed: int
    threads: int
    onnx_error: float
    seconds: float

    def arm(self, name: str) -> Arm:
        """An arm by its name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def compression(self) -> float:
        """Body weights of the dense model over those of the fabric."""
        return self.arm("dense").body_weights / self.arm("fabric").body_weights

    @property
    def gain(self) -> float:
        """Bits per byte that the fabric is better than its narrow twin; negative if worse."""
        return self.arm("narrow dense").bits_per_byte - self.arm("fabric").bits_per_byte

    def to_json(self) -> str:
        """As JSON text."""
        return json.dumps({**asdict(self), "compression": self.compression, "gain": self.gain})

    def __str__(self) -> str:
        """The closing table."""
        return render([arm.row() for arm in self.arms])

    def verdict(self) -> str:
        """What the numbers say, for and against."""
        dense, narrow, fabric = (self.arm(name) for name in ("dense", "narrow dense", "fabric"))
        against = dense.bits_per_byte - fabric.bits_per_byte
        return "\n".join(
            (
                f"The fabric has {self.compression:.1f} times fewer body weights than dense. After "
                f"the same {self.tokens:,} bytes",
                f"of text it is {_compare(self.gain)} than its narrow twin, and "
                f"{_compare(against)} than dense",
                "(bits per byte, one seed: below 0.03 is noise).",
                _at_equal_time(fabric.training_s / narrow.training_s),
            )
        )


def _compare(gain: float) -> str:
    return f"{abs(gain):.3f} {'better' if gain > 0 else 'worse'}"


def _at_equal_time(slower: float) -> str:
    if slower <= 1:
        return "It also trains in less time than the narrow twin."
    return (
        f"But the narrow twin trains {slower:.1f} times faster here: given equal time instead of "
        "equal text,\nit could read that much more, and that is hard to beat."
    )
