"""Function bodies compute what fabrics mean, in onnxruntime and in onnx's own evaluator."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from onnx.reference import ReferenceEvaluator

from sparsify.export.onnx.ops import structure
from sparsify.fabric import Fabric, Shuffle, Stage
from sparsify.ops.window import Window
from sparsify.topology import TOPOLOGIES
from tests.support.fabrics import any_fabrics, dense_matrix, random_fabrics, random_factors
from tests.support.onnx_models import body_model
from tests.support.onnx_nets import GRAPHS, MONARCH, ODD

Array = npt.NDArray[Any]
LEADS = ((), (1,), (5,), (2, 3), (2, 1, 3))


def in_onnxruntime(model: onnx.ModelProto, *inputs: Array, optimize: bool = True) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    runtime = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return [runtime.run(None, {"x": x})[0] for x in inputs]


def check_body(fabric: Fabric) -> None:
    """At every rank, in both runtimes, against the dense matrix."""
    factors = random_factors(fabric)
    dense = dense_matrix(fabric, factors)
    random = np.random.default_rng(0)
    for lead in LEADS:
        x = random.standard_normal((*lead, fabric.in_features))
        model = body_model(fabric, factors, x.ndim)
        expected = x @ dense.T
        scale = max(1.0, np.abs(expected).max())
        for y in (in_onnxruntime(model, x)[0], ReferenceEvaluator(model).run(None, {"x": x})[0]):
            assert y.shape == expected.shape
            assert np.abs(y - expected).max() <= 1e-10 * scale, f"{fabric.to_json()} at {lead}"


@pytest.mark.parametrize("family", list(TOPOLOGIES))
def test_body_of_family(family: str) -> None:
    for fabric in itertools.islice(random_fabrics(family, 40, seed=3), 0, None, 4):
        check_body(fabric)


@settings(max_examples=25)
@given(any_fabrics(kernels=False))
def test_body_of_any_fabric(fabric: Fabric) -> None:
    check_body(fabric)


@pytest.mark.parametrize("lead", [(0,), (0, 3), (3, 0)])
@pytest.mark.parametrize("fabric", [MONARCH, ODD, GRAPHS])
def test_body_without_rows(fabric: Fabric, lead: tuple[int, ...]) -> None:
    # Without optimizations: onnxruntime's own FusedMatMul divides by zero where there are no rows.
    x = np.zeros((*lead, fabric.in_features))
    model = body_model(fabric, random_factors(fabric), x.ndim)
    expected = (*lead, fabric.out_features)
    assert in_onnxruntime(model, x, optimize=False)[0].shape == expected
    assert ReferenceEvaluator(model).run(None, {"x": x})[0].shape == expected


@pytest.mark.parametrize("kernel", [(), (3,), (1, 2), (3, 3), (2, 1, 3)])
@pytest.mark.parametrize("fabric", [MONARCH, ODD, GRAPHS])
@pytest.mark.parametrize("transposed", [False, True])
def test_body_of_convolution(fabric: Fabric, kernel: tuple[int, ...], transposed: bool) -> None:
    rank = len(kernel) or 2
    spatial = fabric.with_kernel(kernel) if kernel else fabric
    factors = random_factors(spatial, dtype=torch.float32)
    extra = (1, 0, 1)[:rank] if transposed else (0,) * rank
    window = Window((2, 1, 2)[:rank], (1, 0, 2)[:rank], (1, 2, 1)[:rank], transposed, extra)
    dense = torch.from_numpy(dense_matrix(spatial, factors)).float()  # (*kernel, out, in)
    dense = dense.reshape(*(kernel or (1,) * rank), *dense.shape[-2:])
    dense = dense.permute(rank, rank + 1, *range(rank))
    if transposed:
        dense = dense.transpose(0, 1)
    model = body_model(spatial, factors, rank + 2, window)
    images = [torch.randn(n, 16, *(7, 8, 6)[:rank]) for n in (1, 3, 0)]
    for x, y in zip(images, in_onnxruntime(model, *(x.numpy() for x in images)), strict=True):
        expected = torch.convolution(x, dense, None, *window, 1)
        assert y.shape == expected.shape
        assert (
            np.abs(y - expected.numpy()).max(initial=0) <= 1e-5 * expected.abs().max().item()
            if (y.size)
            else True
        )


def test_structure_names_every_step() -> None:
    steps = structure(ODD)["steps"]
    assert steps == [
        *(0, 3, 4, 6, 1, 1, 12, 3, 0, 0, 0, 2, 3, 2, 3),
        *(2, 16, 0, 0, 0, 0, 1, 17, 16, 1),
    ]
    assert structure(ODD)["branches"] == [3, 2]


def test_structure_points_into_the_tables() -> None:
    attributes = structure(GRAPHS)
    assert attributes["branches"] == [3, 2]
    assert attributes["steps"] == [
        *(3, 18, 36, 6, 0, 2, 36, 216, 0, 0, 3, 36, 36, 5, 252),
        *(3, 16, 16, 5, 432, 3, 16, 32, 3, 512),
    ]


def test_equal_steps_share_a_table() -> None:
    shuffle, stage = Shuffle(16, seed=3), Stage(4, 4, 4, 1)
    fabric = Fabric(16, 16, ((shuffle, stage, shuffle, stage), (Shuffle(16, seed=4), stage)))
    steps = structure(fabric)["steps"]
    assert [steps[i : i + 3] for i in (0, 10, 20)] == [[2, 16, 0], [2, 16, 0], [2, 16, 16]]
    check_body(fabric)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.float16])
def test_bodies_have_all_types(kind: torch.dtype) -> None:
    factors = [factor / 4 for factor in random_factors(GRAPHS)]
    model = body_model(GRAPHS, [factor.to(kind) for factor in factors], 2)
    x = np.linspace(-1, 1, 48).reshape(3, 16)
    expected = x @ dense_matrix(GRAPHS, factors).T
    y = in_onnxruntime(model, x.astype(str(kind).removeprefix("torch.")))[0]
    assert np.abs(y - expected).max() <= torch.finfo(kind).eps * 10 * np.abs(expected).max()


def test_bodies_in_bfloat16() -> None:
    """Types and shapes are inferred by the checker; onnxruntime has no such products on CPUs."""
    factors = [factor / 4 for factor in random_factors(GRAPHS)]
    model = body_model(GRAPHS, [np.asarray(f).astype(ml_dtypes.bfloat16) for f in factors], 2)
    x = np.linspace(-1, 1, 48).reshape(3, 16)
    expected = x @ dense_matrix(GRAPHS, factors).T
    y = ReferenceEvaluator(model).run(None, {"x": x.astype(ml_dtypes.bfloat16)})[0]
    assert y.dtype == ml_dtypes.bfloat16
    assert np.abs(y.astype(float) - expected).max() <= 2**-7 * np.abs(expected).max()


def test_onnxruntime_folds_graphs_and_shuffles_at_load(tmp_path: Path) -> None:
    """What is left is what depends on the input: products with constants, moves, sums."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    text = body_model(GRAPHS, random_factors(GRAPHS, dtype=torch.float32), 2).SerializeToString()
    onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])
    left = {node.op_type for node in onnx.load(tmp_path / "folded.onnx").graph.node}
    assert not left & {"TopK", "Mod", "BitwiseXor", "Range", "ScatterElements", "Expand"}
    assert "MatMul" in left
