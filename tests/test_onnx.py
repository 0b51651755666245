"""ONNX files: one node per fabric, any batch, stock runtimes, repeatable, nothing changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

import sparsify as sp
from sparsify.export.inputs import Inputs
from sparsify.export.onnx import write
from sparsify.export.onnx.graph import GraphWriter
from sparsify.export.onnx.neighbours import write_neighbours
from sparsify.export.onnx.ops import DOMAIN
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.steps import GRAPHS as GRAPHS_BY_NAME
from sparsify.verify import compare
from tests.support.onnx_nets import GRAPHS, MONARCH, ODD, ConvNet, Net, X


@pytest.fixture(scope="module")
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def test_one_node_per_fabric(net: Net, tmp_path: Path) -> None:
    report = sp.export_onnx(net, tmp_path / "m.onnx", (X,))
    assert report is not None
    assert report.passed
    assert sorted({d.batch for d in report.differences}) == [1, 2, 7]

    model = onnx.load(tmp_path / "m.onnx")
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.name for node in nodes] == ["first", "second", "second#2", "third"]
    names = ["Fabric_v1_0", "Fabric_v1_1", "FabricIndexed_v1_0"]  # the second one has no bias
    assert [node.op_type for node in nodes] == [names[0], names[1], names[1], names[2]]
    assert [function.name for function in model.functions] == names
    assert list(nodes[0].input) == [
        "x",
        "first.factors.0",
        "first.factors.1",
        "first.bias",
    ]
    factors = [f"third.factors.{i}" for i in range(3)]
    assert list(nodes[-1].input)[2:] == [*factors, "third.bias"]
    indices = nodes[-1].input[1]
    assert indices in {output for node in model.graph.node for output in node.output}
    weights = {w.name: numpy_helper.to_array(w) for w in model.graph.initializer}
    for name, tensor in net.state_dict().items():
        if ".factors." in name:
            np.testing.assert_array_equal(weights[name], tensor.numpy())
    assert model.ir_version == 8
    assert {entry.key for entry in model.metadata_props} == {
        "sparsify.schema",
        "sparsify.version",
        "torch.version",
    }


def test_runs_at_any_batch_in_both_runtimes(net: Net, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    sp.export_onnx(net, path, (X[:1],), dynamic={"x": {0: "batch", 1: "sequence"}})
    runtime = sp.onnx.session(path)
    assert runtime.get_inputs()[0].shape == ["batch", "sequence", 16]
    assert runtime.get_outputs()[0].shape == ["batch", "sequence", 17]
    for shape in ((1, 1, 16), (11, 3, 16)):
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        expected = net.eval()(x).detach().numpy()
        assert np.abs(runtime.run(None, {"x": x.numpy()})[0] - expected).max() < 1e-5
        y = ReferenceEvaluator(str(path)).run(None, {"x": x.numpy()})[0]
        assert np.abs(y - expected).max() < 1e-5
    net.train()


def test_same_model_same_bytes(net: Net, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        sp.export_onnx(net, tmp_path / name, (X,), verify=False)
    first, second = ((tmp_path / name).read_bytes() for name in ("a.onnx", "b.onnx"))
    assert first == second
    assert str(Path(__file__).parent.parent).encode() not in first
    assert b"site-packages" not in first


def test_convolutions(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    image = torch.randn(2, 16, 9, 8)
    report = sp.export_onnx(
        ConvNet(), path, {"x": image}, dynamic={"x": {0: "batch", 2: "height", 3: "width"}}
    )
    assert report is not None
    assert report.passed
    assert {d.output for d in report.differences} == {"taps", "point", "graphs"}
    kinds = [node.op_type for node in onnx.load(path).graph.node if node.domain == DOMAIN]
    assert set(kinds) == {"FabricConv_v1_0", "FabricConv_v1_1", "FabricConvIndexed_v1_0"}
    assert kinds.count("FabricConv_v1_1") == 1  # the one without taps
    assert sp.onnx.session(path).get_inputs()[0].shape == ["batch", 16, "height", "width"]


@pytest.mark.parametrize("fabric", [ODD, GRAPHS])
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opsets(opset: int, fabric: Fabric, tmp_path: Path) -> None:
    report = sp.export_onnx(sp.nn.FabricLinear(fabric), tmp_path / "m.onnx", (X,), opset=opset)
    assert report is not None
    assert report.passed
    model = onnx.load(tmp_path / "m.onnx")
    versions = {entry.domain: entry.version for entry in model.opset_import}
    assert versions == {"": opset, DOMAIN: 1}
    assert model.functions[0].opset_import[0].version == opset


@pytest.mark.parametrize("fabric", [MONARCH, GRAPHS])
def test_float16(fabric: Fabric, tmp_path: Path) -> None:
    model = sp.nn.FabricLinear(fabric).half()
    report = sp.export_onnx(model, tmp_path / "m.onnx", (X.half(),))
    assert report is not None
    assert report.passed


def test_no_indices_are_stored(tmp_path: Path) -> None:
    """A file with graphs and seeded shuffles of any size is hardly larger than its weights."""
    graph = GraphStage("random", 1024, 1024, 16, seed=3)
    layer = sp.nn.FabricLinear(Fabric(1024, 1024, ((Shuffle(1024, seed=1), graph),)), bias=False)
    path = tmp_path / "m.onnx"
    sp.export_onnx(layer, path, (torch.ones(2, 1024),))
    assert path.stat().st_size < 4 * 1024 * 16 + 12000


def test_seeds_share_a_body(tmp_path: Path) -> None:
    """Fabrics that differ in their seeds alone are one structure with different indices."""
    fabrics = [Fabric(8, 8, ((Shuffle(8, seed=s), Stage(2, 4, 4, 1)),)) for s in (1, 2, 1)]
    net = nn.Sequential(*(sp.nn.FabricLinear(fabric) for fabric in fabrics))
    report = sp.export_onnx(net, tmp_path / "m.onnx", (torch.linspace(-1, 1, 24).reshape(3, 8),))
    assert report is not None
    assert report.passed
    model = onnx.load(tmp_path / "m.onnx")
    nodes = [node for node in model.graph.node if node.domain == DOMAIN]
    assert [node.op_type for node in nodes] == ["FabricIndexed_v1_0"] * 3
    assert nodes[0].input[1] == nodes[2].input[1] != nodes[1].input[1]
    assert {attribute.name for attribute in nodes[0].attribute} == {
        "has_bias",
        "branches",
        "in_features",
        "out_features",
        "steps",
    }


def test_a_graph_without_a_form_in_onnx_is_refused(tmp_path: Path, monkeypatch: Any) -> None:
    class Own(type(GRAPHS_BY_NAME["random"]).__base__):  # type: ignore[misc]
        def check(self, *sizes: Any) -> None:
            """Take all."""

        def neighbours(self, *sizes: Any) -> Any:
            return np.zeros((4, 1), np.int64)

    monkeypatch.setitem(GRAPHS_BY_NAME, "own", Own())
    layer = sp.nn.FabricLinear(Fabric(4, 4, ((GraphStage("own", 4, 4, 1),),)))
    with pytest.raises(sp.ModelError, match="The graph 'own'"):
        sp.export_onnx(layer, tmp_path / "m.onnx", (torch.ones(2, 4),))
    assert not list(tmp_path.iterdir())
    with pytest.raises(sp.ModelError, match="no form in ONNX"):
        write_neighbours(GraphWriter(), layer.fabric.stages[0])


def test_large_weights_lie_beside(net: Net, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(write, "EXTERNAL_DATA_BYTES", 1000)
    path = tmp_path / "m.onnx"
    for _ in range(2):
        report = sp.export_onnx(net, path, (X,))
        assert report is not None
        assert report.passed
        assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert (tmp_path / "m.onnx.data").stat().st_size > 1000
    assert compare(net, path, (X,)).passed


def test_inputs_and_outputs_keep_their_names(tmp_path: Path) -> None:
    class Named(nn.Module):
        def forward(self, ids: Tensor, *, scale: Tensor, use_cache: bool = True) -> Any:
            twice = ids * 2
            return {"ids": ids, "twice": twice, "pair": (twice, twice * scale, None)}

    inputs = {"scale": torch.ones(3, 1), "ids": torch.arange(12).reshape(3, 4)}
    report = sp.export_onnx(Named(), tmp_path / "m.onnx", inputs)
    assert report is not None
    assert report.passed
    runtime = sp.onnx.session(tmp_path / "m.onnx")
    assert [value.name for value in runtime.get_inputs()] == ["ids", "scale"]
    assert [value.name for value in runtime.get_outputs()] == [
        "ids_out",
        "twice",
        "pair_0",
        "pair_1",
    ]


def test_resized_rows_differ() -> None:
    inputs = Inputs.bind(nn.Linear(4, 2), (torch.arange(8.0).reshape(2, 4),))
    rows = inputs.resized(inputs.axes(), {"batch": 5}).tensors()["input"]
    assert rows.shape == (5, 4)
    assert len({tuple(row.tolist()) for row in rows}) == 5
    assert set(rows.flatten().tolist()) == set(range(8))
