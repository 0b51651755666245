"""Files that lie about their fabrics, and what a native session makes of them.

Run as a module it prints one line for each case: `name: error` or `name: no error`. The test does
so in another process, for a crash would take its own along.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

import sparsify as sp
from sparsify.fabric import Fabric
from tests.support.fabrics import random_factors
from tests.support.onnx_models import body_model
from tests.support.onnx_nets import GRAPHS, MONARCH

__all__ = ["damaged", "lies"]

Array = npt.NDArray[Any]
Change = Callable[[onnx.ModelProto], None]

HUGE = 2**62
X: Array = np.ones((3, 16), np.float32)


def base(fabric: Fabric) -> onnx.ModelProto:
    """A model without a body, so that nothing but the native operator can run it."""
    model = body_model(fabric, [f.float() for f in random_factors(fabric)], 2)
    del model.functions[:]
    return model


def lies() -> Iterator[tuple[str, onnx.ModelProto, Array]]:
    """Models, each with one thing wrong, and an input."""
    for name, (fabric, change) in _CHANGES.items():
        model = base(fabric)
        change(model)
        yield name, model, X
    yield "x is too narrow", base(MONARCH), np.ones((3, 15), np.float32)
    yield "x has no axes", _of_rank(base(MONARCH), 0), np.ones((), np.float32)


def damaged(count: int) -> Iterator[tuple[str, onnx.ModelProto, Array]]:
    """Models with random numbers in their attributes; some of them may be right."""
    draw = random.Random(0)
    numbers = (-HUGE, -1, 0, 1, 2, 3, 4, 5, 8, 16, 17, 2**24, 2**31, 2**32, HUGE, 2**63 - 1)
    for number in range(count):
        model = base(draw.choice((MONARCH, GRAPHS)))
        for _ in range(draw.randint(1, 3)):
            attribute = draw.choice(model.graph.node[-1].attribute)
            if attribute.type == onnx.AttributeProto.INT:
                attribute.i = draw.choice(numbers)
            elif attribute.ints and draw.random() < 0.8:
                attribute.ints[draw.randrange(len(attribute.ints))] = draw.choice(numbers)
            else:
                attribute.ints.append(draw.choice(numbers))
        yield f"damaged {number}", model, X


def outcome(model: onnx.ModelProto, x: Array) -> str:
    """What the runtime says when the model is loaded and run with the native operators."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    sp.onnx.register(options)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        session.run(None, {"x": x})
    except Exception as error:  # onnxruntime's exceptions share no base class
        return " ".join(str(error).split())
    return "no error"


def _set(name: str, value: int | list[int]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        _drop(name)(model)
        kind = onnx.AttributeProto.INTS if isinstance(value, list) else onnx.AttributeProto.INT
        attribute = helper.make_attribute(name, value, attr_type=kind)
        model.graph.node[-1].attribute.append(attribute)

    return change


def _drop(name: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[-1]
        kept = [attribute for attribute in node.attribute if attribute.name != name]
        del node.attribute[:]
        node.attribute.extend(kept)

    return change


def _number(place: int, value: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        (steps,) = (a for a in model.graph.node[-1].attribute if a.name == "steps")
        steps.ints[place] = value

    return change


def _factor(*shape: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.ones(shape, np.float32), "w0")
        )

    return change


def _indices(values: Array) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.append(numpy_helper.from_array(values, "lies"))
        model.graph.node[-1].input[1] = "lies"

    return change


def _computed(offset: int) -> Change:
    """Indices that depend on the input of the model, so that they are not known at load."""

    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[-1]
        added = numpy_helper.from_array(np.array([offset]), "added")
        nodes = [
            helper.make_node("ReduceMin", ["x"], ["least"], keepdims=0),
            helper.make_node("Cast", ["least"], ["one"], to=TensorProto.INT64),
            helper.make_node("Mul", ["one", "added"], ["moved"]),
            helper.make_node("Add", [node.input[1], "moved"], ["wrong"]),
        ]
        node.input[1] = "wrong"
        model.graph.initializer.append(added)
        last = onnx.NodeProto()
        last.CopyFrom(node)
        del model.graph.node[-1]
        model.graph.node.extend([*nodes, last])

    return change


def _inputs(change_list: Callable[[list[str]], list[str]]) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = model.graph.node[-1]
        names = change_list(list(node.input))
        del node.input[:]
        node.input.extend(names)

    return change


def _of_rank(model: onnx.ModelProto, rank: int) -> onnx.ModelProto:
    for value in (*model.graph.input, *model.graph.output):
        del value.type.tensor_type.shape.dim[rank:]
    return model


_LENGTH = 608  # indices of GRAPHS
_RIGHT = np.zeros(_LENGTH, np.int64)

_CHANGES: dict[str, tuple[Fabric, Change]] = {
    "factor of rank 3": (MONARCH, _factor(4, 4, 4)),
    "factor of rank 5": (MONARCH, _factor(4, 1, 4, 4, 1)),
    "factor of another shape": (MONARCH, _factor(4, 1, 4, 5)),
    "factor with axes in another order": (MONARCH, _factor(1, 4, 4, 4)),
    "factor without elements": (MONARCH, _factor(0, 1, 4, 4)),
    "no factors": (MONARCH, _inputs(lambda names: names[:1])),
    "a factor missing": (MONARCH, _inputs(lambda names: names[:-1])),
    "a factor left out": (MONARCH, _inputs(lambda names: [*names[:-1], ""])),
    "a factor too many": (MONARCH, _inputs(lambda names: [*names, names[-1]])),
    "no in_features": (MONARCH, _drop("in_features")),
    "no out_features": (MONARCH, _drop("out_features")),
    "no word of a bias": (MONARCH, _drop("has_bias")),
    "a bias that is not there": (MONARCH, _set("has_bias", 1)),
    "a bias that is a factor": (
        MONARCH,
        lambda model: [_set("has_bias", 1)(model), _inputs(lambda names: [*names, "w0"])(model)][0],
    ),
    "no steps": (MONARCH, _drop("steps")),
    "no branches": (MONARCH, _drop("branches")),
    "in_features 0": (MONARCH, _set("in_features", 0)),
    "in_features below 0": (MONARCH, _set("in_features", -16)),
    "in_features huge": (MONARCH, _set("in_features", HUGE)),
    "out_features 0": (MONARCH, _set("out_features", 0)),
    "out_features huge": (MONARCH, _set("out_features", HUGE)),
    "out_features larger": (MONARCH, _set("out_features", 17)),
    "in_features of a list": (MONARCH, _set("in_features", [16, 16])),
    "steps of one number": (MONARCH, _set("steps", 3)),
    "steps empty": (MONARCH, _set("steps", [])),
    "branches empty": (MONARCH, _set("branches", [])),
    "steps cut off": (MONARCH, _set("steps", [0, 4, 4, 4, 1, 0, 1, 4, 4])),
    "branches of too many steps": (MONARCH, _set("branches", [3])),
    "branches of too few steps": (MONARCH, _set("branches", [1])),
    "branches below 0": (MONARCH, _set("branches", [-1, 3])),
    "branches that overflow": (MONARCH, _set("branches", [2**63 - 1, 2**63 - 1, 4])),
    "step of an unknown kind": (MONARCH, _number(0, 4)),
    "step of a kind below 0": (MONARCH, _number(0, -1)),
    "a of 0": (MONARCH, _number(1, 0)),
    "b below 0": (MONARCH, _number(2, -4)),
    "c huge": (MONARCH, _number(3, HUGE)),
    "d whose product overflows": (MONARCH, _number(4, 2**62)),
    "a * c * d that overflows to the right width": (
        MONARCH,
        _set("steps", [0, 2**32, 4, 2**32 + 4, 1, 0, 1, 4, 4, 4]),
    ),
    "widths that do not meet": (MONARCH, _set("steps", [0, 4, 4, 4, 1, 0, 1, 4, 5, 4])),
    "transposition whose stride is 0": (
        MONARCH,
        _set("steps", [0, 4, 4, 4, 1, 1, 16, 0, 0, 0]),
    ),
    "only a transposition": (MONARCH, _set("steps", [1, 16, 4, 0, 0, 1, 16, 4, 0, 0])),
    "permutation without indices": (MONARCH, _set("steps", [2, 16, 0, 0, 0, 0, 1, 4, 4, 4])),
    "graph without indices": (MONARCH, _set("steps", [3, 16, 16, 4, 0, 0, 1, 4, 4, 4])),
    "indices too few": (GRAPHS, _indices(_RIGHT[:-1])),
    "no indices": (GRAPHS, _indices(_RIGHT[:0])),
    "indices that repeat": (GRAPHS, _indices(_RIGHT)),
    "indices below 0": (GRAPHS, _indices(_RIGHT - 1)),
    "indices out of range": (GRAPHS, _indices(_RIGHT + 1000)),
    "indices huge": (GRAPHS, _indices(_RIGHT + HUGE)),
    "indices of rank 2": (GRAPHS, _indices(_RIGHT.reshape(2, -1))),
    "indices of rank 0": (GRAPHS, _indices(np.array(0))),
    "indices of another type": (GRAPHS, _indices(_RIGHT.astype(np.int32))),
    "computed indices out of range": (GRAPHS, _computed(1000)),
    "computed indices below 0": (GRAPHS, _computed(-1000)),
    "indices left out": (GRAPHS, _inputs(lambda names: [names[0], "", *names[2:]])),
    "start below 0": (GRAPHS, _number(4, -1)),
    "start beyond": (GRAPHS, _number(4, _LENGTH)),
    "start huge": (GRAPHS, _number(4, 2**63 - 1)),
    "degree of 0": (GRAPHS, _number(3, 0)),
    "degree huge": (GRAPHS, _number(3, HUGE)),
    "out * degree that overflows": (GRAPHS, _number(2, 2**61)),
}

if __name__ == "__main__":
    for case, model, x in (*lies(), *damaged(int(sys.argv[1]))):
        print(f"{case}: {outcome(model, x)}", flush=True)
