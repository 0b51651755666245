"""Lesson 4: ship it. One ONNX file, which any stock onnxruntime runs, at any batch size.

Run it:  python examples/04_deploy_onnx.py
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

import sparsify as sp

# A small convolutional network; convolutions become fabrics over their channels.
torch.manual_seed(0)
model = nn.Sequential(
    nn.Conv2d(3, 64, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Conv2d(64, 256, 3, stride=2, padding=1),
    nn.ReLU(),
    nn.Conv2d(256, 256, 3, padding=1),
    nn.ReLU(),
    nn.AdaptiveAvgPool2d(1),
    nn.Flatten(),
    nn.Linear(256, 10),
).eval()
example_inputs = (torch.randn(2, 3, 32, 32),)
sparse = sp.sparsify(model, example_inputs, budget=0.1)


def milliseconds(session: onnxruntime.InferenceSession, image: np.ndarray) -> float:
    times = []
    for _ in range(30):
        start = time.perf_counter()
        session.run(None, {session.get_inputs()[0].name: image})
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times)


with tempfile.TemporaryDirectory() as folder:
    for name, network in (("dense", model), ("fabric", sparse)):
        path = Path(folder, f"{name}.onnx")

        # Before the file is published, it is run in stock onnxruntime at batch sizes 1, 2 and 7 and
        # compared with the model. If they differ, no file is written and the layer is named.
        report = sp.export_onnx(network, path, example_inputs)

        # Each fabric is one node with a body of standard operators, so nothing has to be installed
        # where it runs. `sp.onnx.session` is the same, plus our own kernels where they are live.
        stock = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        image = np.random.default_rng(0).standard_normal((1, 3, 32, 32), dtype=np.float32)
        print(
            f"{name:6}  file {path.stat().st_size:>9,} bytes  "
            f"worst error {report.worst.max_abs:.1e}  {milliseconds(stock, image):.2f} ms"
        )

    ours = sp.onnx.session(path)
    for batch in (1, 5, 32):
        images = torch.randn(batch, 3, 32, 32)
        (scores,) = ours.run(None, {ours.get_inputs()[0].name: images.numpy()})
        same = torch.allclose(torch.from_numpy(scores), sparse(images), atol=1e-4)
        print(f"batch {batch:>2}: scores {scores.shape}, as in torch: {same}")
