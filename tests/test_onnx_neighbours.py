"""Graphs and permutations recomputed in ONNX are those of numpy, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sparsify.export.onnx.graph import GraphWriter
from sparsify.export.onnx.neighbours import write_neighbours, write_permutations
from sparsify.steps import GRAPHS, GraphStage
from sparsify.steps.scramble import permutations

Array = npt.NDArray[np.int64]

STAGES = [
    *(GraphStage("random", 60, 60, degree, seed=7) for degree in (1, 2, 3, 12, 60)),
    GraphStage("random", 12, 30, 2, seed=2**64 - 1),
    GraphStage("random", 30, 12, 10, seed=2**70),
    GraphStage("random", 2048, 2048, 32, seed=3),
    *(GraphStage("hypercube", size, size, size.bit_length() - 1) for size in (2, 4, 64, 1024)),
    GraphStage("hypercube", 16, 64, 4),
    GraphStage("hypercube", 64, 16, 16),
    *(GraphStage("circulant", 13, 13, degree, seed=4) for degree in (1, 5, 13)),
    GraphStage("circulant", 26, 13, 8, seed=3),
    GraphStage("circulant", 13, 39, 4, seed=3),
    *(GraphStage("xor", 16, 16, degree, seed=4) for degree in (1, 5, 16)),
    GraphStage("xor", 16, 32, 5, seed=1),
    GraphStage("xor", 32, 16, 10, seed=1),
    GraphStage("xor", 1, 3, 1),
    GraphStage("paley", 13, 13, 6),
    GraphStage("paley", 13, 26, 4),
    GraphStage("paley", 34, 17, 16),
    GraphStage("radix", 12, 12, 3, (3, 4)),
    GraphStage("radix", 12, 24, 5, (5, 1)),
    GraphStage("radix", 24, 12, 4, (2, 100)),
    GraphStage("torus", 5, 5, 3, (5,)),
    GraphStage("torus", 12, 12, 5, (3, 4)),
    GraphStage("torus", 2, 2, 2, (2,)),
    GraphStage("torus", 1, 4, 1, (1, 1)),
    GraphStage("torus", 12, 24, 5, (2, 3, 2)),
    GraphStage("torus", 60, 20, 15, (4, 5)),
    GraphStage("torus", 27, 27, 7, (3, 3, 3)),
    *(GraphStage("plane", prime**2, prime**2, prime) for prime in (2, 3, 5, 7, 11)),
    GraphStage("plane", 49, 98, 7),
    GraphStage("plane", 27, 9, 9),
]


def computed(body: Callable[[GraphWriter], str]) -> tuple[list[Array], int]:
    """What both runtimes make of nodes, and the most numbers that any constant holds."""
    write = GraphWriter()
    write("Identity", body(write), outputs=["y"])
    output = helper.make_tensor_value_info("y", TensorProto.INT64, ["rows", "columns"])
    graph = helper.make_graph(write.nodes, "g", [], [output])
    opsets = [helper.make_opsetid("", 18)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    runtime = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: list[Any] = [runtime.run(None, {})[0], ReferenceEvaluator(model).run(None, {})[0]]
    tensors = [a.t for node in write.nodes for a in node.attribute if a.name == "value"]
    return found, max((numpy_helper.to_array(tensor).size for tensor in tensors), default=1)


@pytest.mark.parametrize("stage", STAGES, ids=str)
def test_neighbours_are_those_of_the_stage(stage: GraphStage) -> None:
    found, largest = computed(lambda write: write_neighbours(write, stage))
    for neighbours in found:
        assert neighbours.dtype == np.int64
        assert neighbours.shape == (stage.out_features, stage.degree)
        assert (neighbours == stage.neighbours()).all()
    assert largest <= max(3, stage.degree)


def test_every_generator_has_a_form() -> None:
    assert {stage.graph for stage in STAGES} == set(GRAPHS)


@settings(max_examples=30)
@given(st.integers(1, 5), st.integers(1, 100), st.integers(-3, 2**66))
def test_permutations_are_those_of_numpy(count: int, size: int, seed: int) -> None:
    found, largest = computed(lambda write: write_permutations(write, count, size, seed))
    for order in found:
        assert (order == permutations(count, size, seed)).all()
    assert largest <= 2
