"""The native operators in onnxruntime: they are called, right, thread-safe, and never crash."""

from __future__ import annotations

import itertools
import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper

import sparsify as sp
from sparsify.export.onnx.ops import DOMAIN
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.native import library
from sparsify.topology import TOPOLOGIES
from tests.support.fabrics import dense_matrix, random_fabrics, random_factors
from tests.support.onnx_models import between_casts, body_model, typed
from tests.support.onnx_nets import GRAPHS, MONARCH, ODD, Net, X
from tests.support.ort_matrix import probe, write_models
from tests.support.paths import ROOT, run_python

Array = npt.NDArray[Any]

live = pytest.mark.skipif(library.path() is None, reason=f"no native library: {library.why_not()}")

LEADS = ((), (0,), (1,), (2,), (7,), (33,), (2, 3), (0, 3), (3, 0), (2, 1, 3))
ERRORS = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-2, "bfloat16": 2e-2}
BIG = Fabric(256, 256, ((Stage(16, 16, 16, 1), Shuffle(256, seed=1), Stage(1, 16, 16, 16)),))


def calls() -> int:
    """Runs of our operators in this process."""
    native = library.library()
    assert native is not None
    return int(native.sparsify_ort_calls())


def opened(
    model: onnx.ModelProto, native: bool = True, threads: int = 1, optimize: bool = True
) -> onnxruntime.InferenceSession:
    """A session, silent; the errors are raised as well."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if native:
        sp.onnx.register(options)
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def run(session: onnxruntime.InferenceSession, x: Array) -> Array:
    """One run in which the native operator is called, once."""
    before = calls()
    (y,) = session.run(None, {"x": x})
    assert calls() == before + 1
    return np.asarray(y)


def check(fabric: Fabric, kind: str, leads: Sequence[tuple[int, ...]] = LEADS) -> None:
    """Native against the dense matrix, and against the body where the runtime can run it."""
    factors = typed(random_factors(fabric), kind)
    dense = dense_matrix(fabric, [torch.from_numpy(f.astype(np.float64)) for f in factors])
    random = np.random.default_rng(0)
    sessions: dict[int, list[onnxruntime.InferenceSession]] = {}
    for lead in leads:
        rank = len(lead) + 1
        if rank not in sessions:
            model = body_model(fabric, factors, rank)
            if kind == "bfloat16":
                sessions[rank] = [opened(between_casts(model))]
            else:
                sessions[rank] = [opened(model), opened(model, native=False)]
        x = random.standard_normal((*lead, fabric.in_features)).astype(
            "float32" if kind == "bfloat16" else kind
        )
        expected = x.astype(np.float64) @ dense.T
        # The runtime's own FusedMatMul in the body divides by zero where there are no rows.
        others = [s.run(None, {"x": x})[0] for s in sessions[rank][1:] if x.size]
        for y in (run(sessions[rank][0], x), *others):
            assert y.dtype == x.dtype
            assert y.shape == expected.shape
            scale = max(1.0, np.abs(expected).max(initial=0))
            worst = np.abs(y - expected).max(initial=0)
            assert worst <= ERRORS[kind] * scale, f"{fabric.to_json()} at {lead}"


@live
@pytest.mark.parametrize("family", list(TOPOLOGIES))
def test_family(family: str) -> None:
    kinds = itertools.cycle(ERRORS)
    for fabric, kind in zip(random_fabrics(family, 21, seed=5), kinds, strict=False):
        check(fabric, kind, ((1,), (7,), (33,), (2, 3)))


@live
@pytest.mark.parametrize("kind", list(ERRORS))
@pytest.mark.parametrize("fabric", [MONARCH, ODD, GRAPHS])
def test_types_and_shapes(fabric: Fabric, kind: str) -> None:
    check(fabric, kind)


@live
@pytest.mark.parametrize("kind", ["float64", "float32", "float16"])
@pytest.mark.parametrize("fabric", [MONARCH, GRAPHS])
def test_bias(fabric: Fabric, kind: str) -> None:
    factors = typed(random_factors(fabric), kind)
    bias = np.linspace(-2, 2, fabric.out_features).astype(kind)
    x = np.random.default_rng(0).standard_normal((7, 16)).astype(kind)
    dense = dense_matrix(fabric, [torch.from_numpy(f.astype(np.float64)) for f in factors])
    expected = x.astype(np.float64) @ dense.T + bias
    model = body_model(fabric, factors, 2, bias=bias)
    for y in (run(opened(model), x), opened(model, native=False).run(None, {"x": x})[0]):
        assert np.abs(y - expected).max() <= ERRORS[kind] * np.abs(expected).max()


@live
def test_whole_model(tmp_path: Path) -> None:
    """What the exporter writes runs natively, node by node, at every batch."""
    net = Net().eval()
    path = tmp_path / "m.onnx"
    sp.export_onnx(net, path, (X,))
    session = sp.onnx.session(path)
    for batch in (1, 2, 7, 33):
        x = torch.randn(batch, 5, 16)
        before = calls()
        (y,) = session.run(None, {"x": x.numpy()})
        assert calls() == before + 4
        assert np.abs(y - net(x).detach().numpy()).max() < 1e-5
    assert session.get_outputs()[0].shape == ["batch", 5, 17]
    inner = {value.name: value.type.tensor_type for value in onnx.load(path).graph.value_info}
    nodes = [node for node in onnx.load(path).graph.node if node.domain == DOMAIN]
    assert {inner[node.output[0]].elem_type for node in nodes[:-1]} == {TensorProto.FLOAT}


@live
def test_shapes_are_inferred() -> None:
    """The rest of a graph knows the sizes that follow from a fabric, symbols included."""
    model = body_model(ODD, [f.float() for f in random_factors(ODD)], 3)
    output = model.graph.output[0].type.tensor_type.shape.dim
    output[0].ClearField("dim_param")
    output[1].ClearField("dim_param")
    output[2].ClearField("dim_param")
    assert opened(model).get_outputs()[0].shape == ["x0", "x1", 17]


@live
def test_indices_that_change() -> None:
    """Indices that are an input of the model: each run follows its own, many at once."""
    fabric = Fabric(64, 64, ((Shuffle(64, seed=1), GraphStage("random", 64, 64, 4, seed=2)),))
    (weight,) = random_factors(fabric, dtype=torch.float32)
    model = body_model(fabric, [weight], 2)
    node = model.graph.node[-1]
    node.input[1] = "indices"
    model.graph.input.append(helper.make_tensor_value_info("indices", TensorProto.INT64, ["n"]))
    session = opened(model)
    random = np.random.default_rng(0)
    x = random.standard_normal((5, 64)).astype(np.float32)
    feeds = []
    for _ in range(4):
        order = random.permutation(64)
        reads = np.stack([random.permutation(64)[:4] for _ in range(64)])
        dense = np.zeros((64, 64), np.float32)
        np.put_along_axis(dense, reads, weight.numpy(), 1)
        feeds.append((np.concatenate([order, reads.ravel()]), x[:, order] @ dense.T))
    failed = []

    def work(first: int) -> None:
        for turn in range(50):
            indices, expected = feeds[(first + turn) % 4]
            y = session.run(None, {"x": x, "indices": indices})[0]
            if np.abs(y - expected).max() > 1e-4:
                failed.append((first, turn))

    _in_threads([lambda first=first: work(first) for first in range(4)])
    assert not failed
    with pytest.raises(Exception, match="An index is not a feature"):
        session.run(None, {"x": x, "indices": feeds[0][0] + 64})
    assert np.abs(session.run(None, {"x": x, "indices": feeds[0][0]})[0] - feeds[0][1]).max() < 1e-4


@live
@pytest.mark.parametrize("fabric", [MONARCH, GRAPHS])
def test_without_optimizations(fabric: Fabric) -> None:
    """Then the runtime computes the indices at every run; they are the same every time."""
    factors = random_factors(fabric)
    session = opened(body_model(fabric, factors, 2), optimize=False)
    x = np.random.default_rng(0).standard_normal((5, 16))
    expected = x @ dense_matrix(fabric, factors).T
    for _ in range(3):
        assert np.abs(run(session, x) - expected).max() < 1e-10


@live
@pytest.mark.parametrize("number", [63, 64])
def test_numbers_beyond_the_registered_ones_run_by_their_body(number: int) -> None:
    model = body_model(MONARCH, random_factors(MONARCH), 2)
    model.graph.node[-1].op_type = model.functions[0].name = f"Fabric_v1_{number}"
    x = np.random.default_rng(0).standard_normal((5, 16))
    before = calls()
    (y,) = opened(model).run(None, {"x": x})
    assert calls() - before == (number < 64)
    assert np.abs(y - x @ dense_matrix(MONARCH, random_factors(MONARCH)).T).max() < 1e-10


@live
def test_many_sessions_and_threads_at_once() -> None:
    models = [body_model(f, [w.float() for w in random_factors(f)], 2) for f in (MONARCH, GRAPHS)]
    x = np.random.default_rng(0).standard_normal((40, 16)).astype(np.float32)
    expected = [opened(model).run(None, {"x": x})[0] for model in models]
    failed = []

    def work(number: int) -> None:
        session = opened(models[number % 2], threads=1 + number // 4)
        for _ in range(30):
            (y,) = session.run(None, {"x": x})
            failed.extend([number] * (not np.array_equal(y, expected[number % 2])))

    before = calls()
    _in_threads([lambda number=number: work(number) for number in range(8)])
    assert not failed
    assert calls() == before + 8 * 30


def _in_threads(works: Sequence[Any]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@live
@pytest.mark.parametrize("kind", ["float32", "float16"])
def test_any_number_of_threads_gives_the_same_bits(kind: str) -> None:
    model = body_model(BIG, typed(random_factors(BIG), kind), 2)
    x = np.random.default_rng(0).standard_normal((2001, 256)).astype(kind)
    first, *others = [run(opened(model, threads=threads), x) for threads in (1, 2, 3, 2)]
    assert all(np.array_equal(first, other) for other in others)
    dense = dense_matrix(BIG, [w / 4 for w in random_factors(BIG)])
    expected = x.astype(np.float64) @ dense.T
    assert np.abs(first - expected).max() <= ERRORS[kind] * np.abs(expected).max()


@live
@pytest.mark.parametrize("damaged", [300])
def test_files_that_lie(damaged: int) -> None:
    """Each lie is an error of the runtime's; random damage may be, and nothing crashes."""
    done = run_python("-m", "tests.support.onnx_hostile", str(damaged), check=False)
    lines = [line.split(": ", 1) for line in done.stdout.splitlines()]
    assert done.returncode == 0, f"crash after {lines[-1:]}\n{done.stderr[-2000:]}"
    outcomes = dict(lines)
    harmless = [name for name, said in outcomes.items() if said == "no error"]
    assert [name for name in harmless if not name.startswith("damaged")] == []
    assert len(outcomes) > damaged + 50
    assert len(harmless) < damaged / 10
    assert "Weight 0 has another shape" in outcomes["factor of rank 3"]
    assert "are one vector" in outcomes["indices of rank 2"]
    assert "node '': A step has an unknown kind" in outcomes["step of an unknown kind"]


@live
def test_session_registers_the_library(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    layer = sp.nn.FabricLinear(MONARCH, bias=False)
    x = torch.randn(2, 16)
    sp.export_onnx(layer, path, (x,))
    feed = {"x": x.numpy()}
    options = onnxruntime.SessionOptions()
    azure = ["AzureExecutionProvider", "CPUExecutionProvider"]
    other = azure if azure[0] in onnxruntime.get_available_providers() else None
    for native, session in (
        (0, sp.onnx.session(path, native=False)),
        (1, sp.onnx.session(path)),
        (0, sp.onnx.session(path, options, native=False)),
        (1, sp.onnx.session(path, options)),
        (1, sp.onnx.session(path, options, providers=[("CPUExecutionProvider", {})])),
        (0 if other else 1, sp.onnx.session(path, providers=other or azure[1:])),
    ):
        before = calls()
        (y,) = session.run(None, feed)
        assert calls() == before + native
        assert np.abs(y - layer(x).detach().numpy()).max() < 1e-5


def test_where_the_library_is_not_live(monkeypatch: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    sp.export_onnx(sp.nn.FabricLinear(MONARCH), path, (X,))
    monkeypatch.setattr(library, "path", lambda: None)
    monkeypatch.setattr(library, "why_not", lambda: "it was never built")
    for function in (sp.onnx.library_path, lambda: sp.onnx.register(None)):
        with pytest.raises(sp.errors.FileError, match=r"not live: it was never built\."):
            function()
    assert sp.onnx.session(path).run(None, {"x": X.numpy()})[0].shape == (3, 5, 16)


def test_where_the_runtime_refuses_the_library(
    monkeypatch: Any, tmp_path: Path, caplog: Any
) -> None:
    path = tmp_path / "m.onnx"
    sp.export_onnx(sp.nn.FabricLinear(MONARCH), path, (X,))
    (tmp_path / "libno.so").write_bytes(b"no library")
    monkeypatch.setattr(library, "path", lambda: tmp_path / "libno.so")
    with caplog.at_level(logging.WARNING, "sparsify"):
        session = sp.onnx.session(path)
    assert "refuses" in caplog.text
    assert "libno.so" in caplog.text
    assert session.run(None, {"x": X.numpy()})[0].shape == (3, 5, 16)


@live
def test_probe_of_other_versions(tmp_path: Path) -> None:
    """`tests.support.ort_matrix` asks this of many versions of onnxruntime, here of one."""
    write_models(tmp_path)
    found = probe(sys.executable, tmp_path)
    assert found["version"] == onnxruntime.__version__
    assert len(found["models"]) == 17
    for name, row in found["models"].items():
        kind = name.split("-")[1]
        assert row["native_calls"] == (8 if name.startswith("net") else 4)
        assert row["native"] <= ERRORS[kind]
        if kind != "bfloat16":  # in which the runtime has no products of matrices
            assert row["body_calls"] == 0
            assert row["body"] <= ERRORS[kind]


@live
def test_example_in_c(tmp_path: Path) -> None:
    """`examples/onnx_native.c`, compiled and run on an exported model."""
    compiler = os.environ.get("CC") or shutil.which("cc")
    if not compiler:
        pytest.skip("no C compiler")
    runtime = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if not runtime:
        pytest.skip(f"onnxruntime {onnxruntime.__version__} has no library that C could load")
    layer = sp.nn.FabricLinear(sp.fabric("monarch", 64, 64, blocks=8))
    model, program = tmp_path / "layer.onnx", tmp_path / "onnx_native"
    sp.export_onnx(layer, model, (torch.randn(2, 64),))
    source, include = ROOT / "examples/onnx_native.c", ROOT / "sparsify/native/ort"
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", f"-I{include}", source, "-o", program, "-ldl"],
        check=True,
    )
    names = [runtime, sp.onnx.library_path(), model, "64", "64"]
    done = subprocess.run([program, *names], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = layer(torch.linspace(-1, 1, 64).reshape(1, 64))[0].tolist()
    first, last = done.stdout.splitlines()
    assert first == "calls of our operators: 1"
    assert np.allclose([float(number) for number in last.split()], expected, atol=1e-5)
    wrong = subprocess.run([program, *names[:2], "no.onnx", "64", "64"], capture_output=True)
    assert wrong.returncode == 1
    assert b"no.onnx" in wrong.stderr
