"""One model of the comparison on its way through the job."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import VerificationError
from ..export.onnx.export import export_onnx
from ..io import load, save
from ..verify import Report
from .console import progress
from .data import Corpus
from .model import ByteTransformer
from .result import Arm
from .train import BATCH, bits_per_byte, train

__all__ = ["Contender"]

TESTS = 640  # windows of held-out text, unless training saw fewer


@dataclass
class Contender:
    """A model with what is known of it so far.

    Args:
        name: for people; its files are called alike.
        model: the model.
        lr: learning rate of its body.
        folder: where its files go.
    """

    name: str
    model: ByteTransformer
    lr: float
    folder: Path
    bits: float = 8.0
    seconds: float = 0.0

    @property
    def saved(self) -> Path:
        """The saved model."""
        return self.folder / f"{self.name.replace(' ', '_')}.safetensors"

    @property
    def exported(self) -> Path:
        """The exported model."""
        return self.saved.with_suffix(".onnx")

    def learn(self, text: Corpus, steps: int, seed: int) -> None:
        """Train and test."""
        with progress(self.name, steps) as report:
            self.seconds = train(
                self.model, text.train, steps=steps, lr=self.lr, seed=seed, report=report
            )
        windows = min(TESTS, steps * BATCH)
        self.bits = bits_per_byte(self.model, text.held_out, windows)

    def save_and_load(self) -> None:
        """Write the file, read it into a model without weights, and compare bit by bit.

        Raises:
            VerificationError: a tensor came back different.
        """
        save(self.model, self.saved)
        with torch.device("meta"):
            skeleton = ByteTransformer(self.model.width, self.model.layers)
        loaded = load(self.saved, model=skeleton).state_dict()
        for name, value in self.model.state_dict().items():
            if not torch.equal(value, loaded[name]):
                raise VerificationError(f"{name!r} of the {self.name} model came back different.")

    def export(self, tokens: Tensor) -> Report | None:
        """Write the ONNX file; it is compared with the model before it is published."""
        self.model.eval()
        return export_onnx(self.model, self.exported, (tokens,))

    def arm(self, torch_ms: float, onnxruntime_ms: float) -> Arm:
        """What is to be shown of it."""
        return Arm(
            name=self.name,
            width=self.model.width,
            body_weights=self.model.body_weights(),
            parameters=sum(p.numel() for p in self.model.parameters()),
            file_bytes=self.saved.stat().st_size,
            bits_per_byte=self.bits,
            lr=self.lr,
            training_s=self.seconds,
            torch_ms=torch_ms,
            onnxruntime_ms=onnxruntime_ms,
        )
