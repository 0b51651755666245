"""ONNX files that did not come from this package: written by hand, as other tools write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

__all__ = ["FILES", "Net", "exported", "model", "noise", "save"]

Array = npt.NDArray[Any]
FLOAT = TensorProto.FLOAT


def noise(*shape: int, seed: int = 0, kind: str = "float32") -> Array:
    """Weights small enough that sums stay near one."""
    values = np.random.default_rng(seed).standard_normal(shape) / np.sqrt(shape[0])
    return values.astype(kind)


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, Array],
    x: list[Any],
    y: list[Any],
    *,
    opset: int = 18,
    kind: int = FLOAT,
    ir: int = 8,
    **more: Any,
) -> onnx.ModelProto:
    """A model from x to y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", kind, x)],
        [helper.make_tensor_value_info("y", kind, y)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", opset), *more.pop("opsets", [])]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=ir, **more)
    onnx.checker.check_model(made, full_check=True)
    return made


def save(made: onnx.ModelProto, path: Path, **options: Any) -> Path:
    """Write it."""
    onnx.save(made, path, **options)
    return path


def node(op: str, *names: str, **attributes: Any) -> onnx.NodeProto:
    """A node; the last name is its output."""
    *inputs, output = names
    return helper.make_node(op, inputs, [output], **attributes)


def keras() -> onnx.ModelProto:
    """As tf2onnx writes a Keras net: opset 13, SAME padding, weights (in, out), scopes in names."""
    return model(
        [
            node("Conv", "x", "conv/kernel", "conv/bias", "c", auto_pad="SAME_UPPER",
                 strides=[2, 2], name="net/conv/Conv2D"),
            node("Relu", "c", "r"),
            node("Conv", "r", "wide/kernel", "w", auto_pad="SAME_LOWER", group=2,
                 name="net/wide/Conv2D"),
            node("GlobalAveragePool", "w", "p"),
            node("Flatten", "p", "f"),
            node("MatMul", "f", "dense/kernel:0", "m", name="net/dense/MatMul"),
            node("Add", "m", "dense/bias:0", "a", name="net/dense/BiasAdd"),
            node("Tanh", "a", "t"),
            node("Gemm", "t", "head/kernel", "head/bias", "y", alpha=0.5, beta=2.0,
                 name="net/head/MatMul"),
        ],
        {
            "conv/kernel": noise(64, 32, 3, 3) / 3,
            "conv/bias": noise(64, seed=1),
            "wide/kernel": noise(64, 32, 2, 2, seed=2),
            "dense/kernel:0": noise(64, 96, seed=3),
            "dense/bias:0": noise(96, seed=4),
            "head/kernel": noise(96, 64, seed=5),
            "head/bias": noise(1, 64, seed=6),
        },
        ["batch", 32, 9, 10],
        ["batch", 64],
        opset=13,
        ir=7,
    )  # fmt: skip


def half() -> onnx.ModelProto:
    """All in float16."""
    return model(
        [node("MatMul", "x", "fc1.weight", "h"), node("Relu", "h", "r"),
         node("MatMul", "r", "fc2.weight", "y")],
        {"fc1.weight": noise(64, 64, kind="float16"),
         "fc2.weight": noise(64, 64, seed=1, kind="float16")},
        ["batch", 64], ["batch", 64], kind=TensorProto.FLOAT16,
    )  # fmt: skip


def chains() -> onnx.ModelProto:
    """Weights behind Transpose, Identity, Cast, Reshape, DequantizeLinear and in Constant nodes."""
    constant = numpy_helper.from_array(noise(64, 64, seed=7))
    return model(
        [
            node("Transpose", "w1", "w1t", perm=[1, 0]),
            node("Identity", "w1t", "w1i"),
            node("MatMul", "x", "w1i", "a", name="turned"),
            node("Cast", "w2", "w2c", to=FLOAT),
            node("MatMul", "a", "w2c", "b", name="cast"),
            node("DequantizeLinear", "w3", "scale", "zero", "w3d", axis=1),
            node("MatMul", "b", "w3d", "c", name="quantised"),
            node("Constant", "w4", value=constant),
            node("MatMul", "c", "w4", "d", name="constant"),
            node("Reshape", "w5", "shape", "w5r"),
            node("Gemm", "d", "w5r", "y", transB=1, name="reshaped"),
        ],
        {
            "w1": noise(96, 64),
            "w2": noise(96, 64, seed=1, kind="float16"),
            "w3": np.random.default_rng(2).integers(-100, 100, (64, 64)).astype(np.int8),
            "scale": np.full(64, 0.002, np.float32),
            "zero": np.arange(64, dtype=np.int8),
            "w5": noise(64 * 48, seed=3),
            "shape": np.array([-1, 64], np.int64),
        },
        ["batch", 64],
        ["batch", 48],
    )


def kept() -> onnx.ModelProto:
    """Products that stay, each for another reason."""
    body = helper.make_graph(
        [node("MatMul", "k", "inner", "then")],
        "body",
        [],
        [helper.make_tensor_value_info("then", FLOAT, None)],
        [numpy_helper.from_array(noise(64, 64, seed=9), "inner")],
    )
    other = helper.make_graph(
        [node("Identity", "k", "else")],
        "other",
        [],
        [helper.make_tensor_value_info("else", FLOAT, None)],
    )
    double = helper.make_function(
        "my", "Dense", ["a", "w"], ["b"], [node("MatMul", "a", "w", "b")],
        [helper.make_opsetid("", 18)],
    )  # fmt: skip
    names = ("tied", "left", "stack", "computed", "fun")
    weights = {name: noise(64, 64, seed=i) for i, name in enumerate(names)}
    weights["stack"] = noise(1, 64, 64, seed=2)
    weights["more"] = np.ones(1, np.float32)
    weights["free"] = noise(64, 64, seed=10)
    return model(
        [
            node("MatMul", "x", "tied", "a", name="tied"),
            node("ReduceSum", "tied", "sum", keepdims=0, name="reader"),
            node("Add", "a", "sum", "b"),
            node("Transpose", "b", "bt", perm=[1, 0]),
            node("MatMul", "left", "bt", "lt", name="left"),
            node("Transpose", "lt", "l", perm=[1, 0]),
            node("MatMul", "l", "stack", "s", name="stack"),
            node("Squeeze", "s", "q"),
            node("Mul", "computed", "more", "w"),
            node("MatMul", "q", "w", "i", name="computed"),
            node("MatMul", "i", "free", "k", name="free"),
            node("Greater", "sum", "more", "cond1"),
            node("Squeeze", "cond1", "cond"),
            helper.make_node("If", ["cond"], ["f"], name="branch", then_branch=body,
                             else_branch=other),
            helper.make_node("Dense", ["f", "fun"], ["y"], name="call", domain="my"),
        ],
        weights,
        [5, 64],
        [5, 64],
        functions=[double],
        opsets=[helper.make_opsetid("my", 1)],
    )  # fmt: skip


def shared() -> onnx.ModelProto:
    """One weight in two nodes, the same way; and an output between."""
    return model(
        [node("MatMul", "x", "w", "a"), node("Relu", "a", "b"),
         node("MatMul", "b", "w", "c"), node("Gemm", "c", "v", "y", transB=1, name="last")],
        {"w": noise(64, 64), "v": noise(64, 64, seed=1)},
        [3, 64], [3, 64],
    )  # fmt: skip


def ancient() -> onnx.ModelProto:
    """Opset 9 in version 3 of the format, which listed every initializer as an input."""
    made = model(
        [node("Gemm", "x", "w", "b", "a", transB=1), node("Dropout", "a", "d"),
         node("Unsqueeze", "d", "u", axes=[1]), node("Squeeze", "u", "s", axes=[1]),
         node("Gemm", "s", "v", "b", "y", name="last")],
        {"w": noise(64, 64), "v": noise(64, 64, seed=1), "b": noise(64)},
        ["N", 64], ["N", 64], opset=9, ir=4,
    )  # fmt: skip
    for tensor in made.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, FLOAT, list(tensor.dims))
        made.graph.input.append(value)
    made.ir_version = 3
    return made


FILES: dict[str, Callable[[], onnx.ModelProto]] = {
    "keras": keras,
    "half": half,
    "chains": chains,
    "kept": kept,
    "shared": shared,
    "ancient": ancient,
}


class Net(nn.Module):
    """What torch exports: a convolution, a transposed one, products behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(32, 64, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(64, 64, 4, stride=2, padding=1)
        self.fc1 = nn.Linear(64, 128)
        self.fc2 = nn.Linear(128, 64, bias=False)
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(torch.relu(self.conv(x)))).mean((2, 3))
        x = torch.relu(self.fc1(x[:, None]))
        result: Tensor = self.head(torch.relu(self.fc2(x)))
        return result


def exported(path: Path, **options: Any) -> Net:
    """A net and its file, by torch's own exporter."""
    torch.manual_seed(0)
    net = Net().eval()
    inputs = (torch.randn(2, 32, 8, 8),)
    torch.onnx.export(net, inputs, path, verbose=False, **options)
    return net
