"""ONNX files as models: read, planned, converted, written, and compared with other ways there."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import sparsify as sp
from sparsify.cli import main
from sparsify.export.onnx import bytes as onnx_bytes
from sparsify.export.onnx import rewrite
from sparsify.export.onnx import save as onnx_save
from sparsify.export.onnx.ops import DOMAIN
from sparsify.export.onnx.save import save_onnx
from sparsify.frontend.onnx.model import OnnxModel
from tests.support import onnx_files
from tests.support.onnx_files import FILES, exported, model, node, noise, save
from tests.support.purity import untouched

BUDGET = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("onnx")
    for name, build in FILES.items():
        save(build(), place / f"{name}.onnx")
    return place


@pytest.fixture(scope="module")
def net(folder: Path) -> onnx_files.Net:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = {0: torch.export.Dim.DYNAMIC}
        return exported(folder / "net.onnx", dynamo=True, dynamic_shapes={"x": batch})


def converted(path: Path, **options: Any) -> tuple[OnnxModel, Path]:
    output = path.with_name(f"{path.stem}.sparse.onnx")
    sparse = sp.sparsify(sp.onnx.read(path), budget=BUDGET, **options)
    sp.save(sparse, output)
    return sparse, output


def run(path: Path, *inputs: Any, native: bool = False) -> list[Any]:
    runtime = sp.onnx.session(path, native=native)
    names = [entry.name for entry in runtime.get_inputs()]
    return list(runtime.run(None, dict(zip(names, inputs, strict=True))))


def fabrics(path: Path) -> list[str]:
    nodes = onnx.load(path, load_external_data=False).graph.node
    return [node.op_type for node in nodes if node.domain == DOMAIN]


def decisions(plan: sp.Plan) -> dict[str, str]:
    return {site.name: site.reason if site.decision == "keep" else "" for site in plan.sites}


# --- the same as the way through torch ------------------------------------------------------------


def test_file_and_torch_model_become_the_same(net: onnx_files.Net, folder: Path) -> None:
    x = torch.randn(5, 32, 8, 8)
    plan = sp.plan(net, (x[:1],), budget=BUDGET)
    twin = sp.sparsify(net, (x[:1],), plan=plan, seed=3)
    read = sp.onnx.read(folder / "net.onnx")
    assert [site.name for site in sp.plan(read, budget=BUDGET).sites] == [
        site.name for site in plan.sites
    ]
    sparse = sp.sparsify(read, plan=plan, seed=3)
    sp.save(sparse, folder / "twin.onnx")
    with torch.no_grad():
        expected = twin(x).numpy()
    for native in (False, True):
        (actual,) = run(folder / "twin.onnx", x.numpy(), native=native)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_flops_are_those_of_a_run_in_torch(net: onnx_files.Net, folder: Path) -> None:
    x = torch.randn(1, 32, 8, 8)
    ours = sp.plan(sp.onnx.read(folder / "net.onnx"), (x,))
    theirs = sp.plan(net, (x,))
    assert [site.dense_flops for site in ours.sites] == [s.dense_flops for s in theirs.sites]
    assert ours.flop_share == theirs.flop_share


# --- each kind of file ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_converted_file_is_valid_and_agrees(name: str, folder: Path) -> None:
    sparse, output = converted(folder / f"{name}.onnx")
    onnx.checker.check_model(output, full_check=True)
    before, after = onnx.load(folder / f"{name}.onnx"), onnx.load(output)
    held = {tensor.name for tensor in before.graph.initializer}
    assert [v for v in before.graph.input if v.name not in held] == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    calls = [path for path in sparse.reading.paths.values() if _is_fabric(sparse, path)]
    assert len(fabrics(output)) == len(calls) > 0
    report = save_onnx(sp.onnx.read(output), folder / "again.onnx")
    assert report.passed


def _is_fabric(sparse: OnnxModel, path: str) -> bool:
    return isinstance(sparse.get_submodule(path), sp.nn.FabricLinear | sp.nn.FabricConv2d)


def test_keras_graph_computes_what_its_layers_say(folder: Path) -> None:
    sparse, output = converted(folder / "keras.onnx")
    held = onnx.load(folder / "keras.onnx").graph.initializer
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in held}
    names = ("net.conv", "net.wide", "net.dense")
    conv, wide, dense = (sparse.get_submodule(name).weight for name in names)
    x = torch.randn(3, 32, 9, 10)
    functional = torch.nn.functional
    # 9 -> 5 and 10 -> 5 with stride 2 and 3 taps: one row on both sides, one column at the end.
    y = functional.conv2d(functional.pad(x, (0, 1, 1, 1)), conv, values["conv/bias"], 2).relu()
    y = functional.conv2d(functional.pad(y, (1, 0, 1, 0)), wide, None, 1, 0, 1, 2).mean((2, 3))
    y = (y @ dense.T + values["dense/bias:0"]).tanh()
    y = 0.5 * y @ values["head/kernel"] + 2.0 * values["head/bias"]
    np.testing.assert_allclose(run(output, x.numpy())[0], y.detach(), rtol=1e-4, atol=1e-5)
    (dense_node,) = [n for n in onnx.load(output).graph.node if "dense/bias:0" in n.input]
    assert dense_node.op_type.startswith("Fabric_v1")  # the Add behind it became its bias


def test_gemm_is_scaled_and_biased(folder: Path) -> None:
    """Both factors of a Gemm, with a weight (in, out) and a bias of one number per output."""
    made = model(
        [node("Gemm", "x", "w", "b", "h", alpha=0.25, beta=3.0, name="gemm"),
         node("Gemm", "h", "v", "y", transB=1, name="last")],
        {"w": noise(64, 64), "b": noise(64, seed=1), "v": noise(64, 64, seed=2)},
        [4, 64], [4, 64],
    )  # fmt: skip
    sparse, output = converted(save(made, folder / "gemm.onnx"), include=["gemm"])
    x = noise(4, 64, seed=5)
    weight = sparse.get_submodule("gemm").weight.detach().numpy()
    expected = (x @ weight.T + 3 * noise(64, seed=1)) @ noise(64, 64, seed=2).T
    np.testing.assert_allclose(run(output, x)[0], expected, rtol=1e-4, atol=1e-5)
    dense = sp.onnx.read(folder / "gemm.onnx").get_submodule("gemm").weight
    np.testing.assert_allclose(dense, 0.25 * noise(64, 64).T, rtol=1e-6)


def test_products_that_onnxruntime_has_fused(tmp_path: Path) -> None:
    turned = helper.make_node(
        "FusedMatMul", ["x", "w"], ["h"], "fused", domain="com.microsoft", alpha=0.5, transB=1
    )
    nodes = [turned, node("Add", "h", "b", "a"), node("MatMul", "a", "v", "y")]
    weights = {"w": noise(96, 64), "b": noise(96, seed=1), "v": noise(96, 64, seed=2)}
    opsets = [helper.make_opsetid("com.microsoft", 1)]
    made = model(nodes, weights, [2, 3, 64], [2, 3, 64], opsets=opsets)
    sparse, output = converted(save(made, tmp_path / "m.onnx"))
    x = noise(2, 3, 64)
    layer = sparse.get_submodule("fused").weight.detach().numpy()
    expected = (x @ layer.T + weights["b"]) @ weights["v"]
    np.testing.assert_allclose(run(output, x)[0], expected, rtol=1e-4, atol=1e-5)
    dense = sp.onnx.read(tmp_path / "m.onnx").get_submodule("fused").weight
    np.testing.assert_allclose(dense, 0.5 * weights["w"])


def test_weights_behind_chains_are_found(folder: Path) -> None:
    read = sp.onnx.read(folder / "chains.onnx")
    values = {
        t.name: numpy_helper.to_array(t)
        for t in onnx.load(folder / "chains.onnx").graph.initializer
    }
    steps = values["w3"].astype(np.float32) - values["zero"].astype(np.float32)
    expected = {
        "turned": values["w1"],
        "cast": values["w2"].astype(np.float32).T,
        "quantised": (steps * values["scale"]).T,
        "constant": noise(64, 64, seed=7).T,
        "reshaped": values["w5"].reshape(48, 64),
    }
    for name, weight in expected.items():
        np.testing.assert_allclose(read.get_submodule(name).weight, weight, rtol=1e-6)
    _, output = converted(folder / "chains.onnx", include=list(expected))
    left = onnx.load(output).graph
    assert {node.op_type for node in left.node if node.domain != DOMAIN} <= {"Identity"}
    assert not {tensor.name for tensor in left.initializer} & set(values)


def test_what_stays_has_a_reason(folder: Path) -> None:
    found = decisions(sp.plan(sp.onnx.read(folder / "kept.onnx"), budget=BUDGET))
    assert found == {
        "tied": "tied: its weight is also read by ReduceSum reader",
        "left": "its weight is the left operand",
        "stack": "its weight has 3 axes, not 2",
        "computed": "its weight is computed by Mul",
        "free": "",
        "branch.inner": "inside a body of If branch",
        "call.w": "inside the function Dense",
    }


def test_every_operator_with_a_weight_is_listed(tmp_path: Path) -> None:
    integers = np.zeros((64, 64), np.int8)
    made = model(
        [
            node("MatMul", "x", "w", "a"),
            helper.make_node("DynamicQuantizeLinear", ["a"], ["q", "qs", "qz"]),
            node("MatMulInteger", "q", "integers", "n", name="integer"),
            node("Cast", "n", "c", to=TensorProto.FLOAT),
            node("Einsum", "c", "e", "d", equation="ij,jk->ik", name="einsum"),
            node("Unsqueeze", "d", "zero", "u"),
            helper.make_node("LSTM", ["u", "W", "R"], ["l"], hidden_size=16, name="lstm"),
            node("Reshape", "l", "shape", "y"),
        ],
        {
            "w": noise(64, 64), "integers": integers, "e": noise(64, 64),
            "zero": np.zeros(1, np.int64), "W": noise(1, 64, 64), "R": noise(1, 64, 16),
            "shape": np.array([-1, 16], np.int64),
        },
        [4, 64], [4, 16],
    )  # fmt: skip
    plan = sp.plan(sp.onnx.read(save(made, tmp_path / "m.onnx")))
    assert {site.name: (site.reason, site.in_features, site.out_features, site.rows)
            for site in plan.sites if site.decision == "keep"} == {
        "integer": ("quantised (MatMulInteger)", 64, 64, 4),
        "einsum": ("a fabric cannot stand for the operator Einsum", 64, 64, 4),
        "lstm.W": ("a fabric cannot stand for the operator LSTM", 64, 64, 4),
        "lstm.R": ("a fabric cannot stand for the operator LSTM", 16, 64, 4),
    }  # fmt: skip


def test_one_weight_in_two_nodes_is_one_layer(folder: Path) -> None:
    sparse, output = converted(folder / "shared.onnx", include=["w", "last"])
    (site,) = [
        site for site in sp.plan(sp.onnx.read(folder / "shared.onnx")).sites if site.calls > 1
    ]
    assert (site.calls, site.rows) == (2, 3)
    left = onnx.load(output).graph
    inputs = [list(node.input)[1:] for node in left.node if node.domain == DOMAIN]
    assert inputs[0] == inputs[1] != inputs[-1]
    assert sum(1 for _ in sparse.parameters()) == sum(len(names) for names in inputs[1:])


def test_final_head_is_kept(net: onnx_files.Net, folder: Path) -> None:
    assert (
        decisions(sp.plan(sp.onnx.read(folder / "net.onnx"), budget=BUDGET))["head"] == "final head"
    )


def test_index_tables_are_computed_in_the_graph(folder: Path) -> None:
    _, output = converted(folder / "half.onnx", topology="random_regular", include=["*"])
    assert all("Indexed" in name for name in fabrics(output))


def test_graphs_that_need_a_newer_opset(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x", "w", "a"), node("MatMul", "a", "v", "y")]
    weights = {"w": noise(64, 64), "v": noise(64, 64, seed=1)}
    path = save(model(nodes, weights, [3, 64], [3, 64], opset=15), tmp_path / "m.onnx")
    graph = sp.fabric("expander", 64, 64, kind="cayley", degree=4)
    plan = sp.plan(sp.onnx.read(path)).edit("w", fabric=graph)
    with pytest.raises(sp.ModelError, match="opset 15"):
        sp.save(sp.sparsify(sp.onnx.read(path), plan=plan), tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


# --- what stays as it was -------------------------------------------------------------------------


def test_metadata_names_and_axes_stay(tmp_path: Path) -> None:
    made = FILES["keras"]()
    made.producer_name, made.producer_version, made.doc_string = "tf2onnx", "1.9", "a net"
    made.metadata_props.add(key="author", value="somebody")
    made.graph.value_info.append(
        helper.make_tensor_value_info("f", TensorProto.FLOAT, ["batch", 64])
    )
    _, output = converted(save(made, tmp_path / "m.onnx"))
    after = onnx.load(output)
    assert (after.producer_name, after.producer_version, after.doc_string) == (
        "tf2onnx", "1.9", "a net",
    )  # fmt: skip
    notes = {entry.key: entry.value for entry in after.metadata_props}
    assert notes["author"] == "somebody"
    assert "sparsify.version" in notes
    assert "f" in {value.name for value in after.graph.value_info}
    assert run(output, noise(7, 32, 9, 10))[0].shape == (7, 64)


def test_wrong_notes_of_the_source_are_not_ours_to_judge(tmp_path: Path) -> None:
    made = FILES["shared"]()
    made.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [3, 65]))
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.checker.check_model(made, full_check=True)
    _, output = converted(save(made, tmp_path / "m.onnx"))
    assert len(fabrics(output)) == 2


def test_reading_and_converting_leave_everything_untouched(folder: Path) -> None:
    bytes_before = (folder / "keras.onnx").read_bytes()
    read = sp.onnx.read(folder / "keras.onnx")
    with untouched(read):
        sparse = sp.sparsify(read, budget=BUDGET)
        sp.save(sparse, folder / "untouched.onnx")
        copy.deepcopy(sparse)
    assert (folder / "keras.onnx").read_bytes() == bytes_before


def test_weights_are_shared_and_not_copied(folder: Path) -> None:
    read = sp.onnx.read(folder / "keras.onnx")
    copied = copy.deepcopy(read)
    mine, theirs = (m.get_submodule("net.dense").weight for m in (read, copied))
    assert mine.data_ptr() == theirs.data_ptr() == _address(read, "dense/kernel:0")
    assert not mine.requires_grad


def _address(read: OnnxModel, name: str) -> int:
    return int(read.source.values[name].ctypes.data)


def test_equal_input_gives_equal_bytes(folder: Path) -> None:
    _, output = converted(folder / "keras.onnx")
    first = output.read_bytes()
    converted(folder / "keras.onnx")
    assert output.read_bytes() == first


# --- weights beside the file ----------------------------------------------------------------------


@pytest.fixture
def external(tmp_path: Path) -> Path:
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    return save(FILES["keras"](), tmp_path / "m.onnx", **options)


def test_weights_beside_the_file(external: Path, folder: Path) -> None:
    read = sp.onnx.read(external)
    assert isinstance(read.source.values["dense/kernel:0"], np.memmap)
    _, output = converted(external)
    assert [entry.name for entry in external.parent.glob("*.data")] == []
    _, other = converted(folder / "keras.onnx")
    x = noise(2, 32, 9, 10)
    np.testing.assert_array_equal(run(output, x)[0], run(other, x)[0])


def test_large_models_keep_weights_beside_the_file(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_bytes, "EXTERNAL_DATA_BYTES", 10_000)
    path = save(FILES["keras"](), tmp_path / "m.onnx")
    _, output = converted(path)
    assert (tmp_path / "m.sparse.onnx.data").stat().st_size > 10_000
    assert output.stat().st_size < 20_000
    monkeypatch.undo()
    _, small = converted(folder / "keras.onnx")
    x = noise(2, 32, 9, 10)
    np.testing.assert_array_equal(run(output, x)[0], run(small, x)[0])
    with pytest.raises(sp.FileError, match="is a file that the model is read from"):
        sp.save(sp.onnx.read(output), tmp_path / "m.sparse.onnx")


def test_saved_files_load_without_a_skeleton(folder: Path) -> None:
    sparse, output = converted(folder / "half.onnx", include=["fc1"])
    x = torch.randn(3, 64).half()
    loaded = sp.load(output)
    torch.testing.assert_close(loaded(x)["y"], sparse(x)["y"], rtol=1e-2, atol=1e-2)
    assert [site.name for site in sp.plan(loaded).sites] == ["fc2"]


def test_defaults_of_inputs_are_no_constants(tmp_path: Path) -> None:
    nodes = [node("MatMul", "x", "w", "a"), node("MatMul", "a", "v", "y")]
    made = model(nodes, {"w": noise(64, 64), "v": noise(64, 64)}, [3, 64], [3, 64])
    made.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [64, 64]))
    read = sp.onnx.read(save(made, tmp_path / "m.onnx"))
    assert decisions(sp.plan(read))["w"] == "its weight is an input of the model, with a default"
    assert list(read.dummy_inputs) == ["x"]


# --- trained weights ------------------------------------------------------------------------------


def test_projection_with_and_without_calibration(folder: Path) -> None:
    read = sp.onnx.read(folder / "keras.onnx")
    batches = [torch.randn(8, 32, 9, 10) + 1 for _ in range(3)]
    x = torch.randn(64, 32, 9, 10) + 1
    truth, errors = read(x)["y"], []
    for calibration in (None, batches):
        sparse = sp.sparsify(read, budget=BUDGET, init="project", calibration=calibration)
        errors.append(float((sparse(x)["y"] - truth).square().mean()))
    drawn = sp.sparsify(read, budget=BUDGET)
    assert errors[1] < errors[0] < float((drawn(x)["y"] - truth).square().mean())
    plan = sp.plan(read, budget=1.0, topology="low_rank", init="project", include=["net.dense"])
    assert next(site.error for site in plan.replaced) < 0.2


def test_weights_that_are_no_numbers(tmp_path: Path) -> None:
    weight = noise(64, 64)
    weight[3, 4] = np.nan
    nodes = [node("MatMul", "x", "w", "a"), node("MatMul", "a", "v", "y")]
    path = save(model(nodes, {"w": weight, "v": weight}, [3, 64], [3, 64]), tmp_path / "m.onnx")
    with pytest.raises(sp.ModelError, match="NaN"):
        sp.sparsify(sp.onnx.read(path), init="project")
    assert main(["convert", str(path), "-o", str(tmp_path / "o.onnx"), "--init", "project"]) == 4
    assert not (tmp_path / "o.onnx").exists()


# --- running the module ---------------------------------------------------------------------------


def test_module_runs_the_file_as_it_stands(folder: Path) -> None:
    read = sp.onnx.read(folder / "keras.onnx")
    x = torch.randn(2, 32, 9, 10)
    assert torch.equal(read(x)["y"], torch.from_numpy(run(folder / "keras.onnx", x.numpy())[0]))
    sparse, output = converted(folder / "keras.onnx")
    np.testing.assert_allclose(sparse(x=x)["y"], run(output, x.numpy())[0], rtol=1e-4, atol=1e-6)
    before = sparse(x)["y"]
    with torch.no_grad():
        sparse.get_submodule("net.dense").factors[0].zero_()
    assert not torch.equal(sparse(x)["y"], before)


def test_hooks_of_layers_see_what_their_nodes_see(folder: Path) -> None:
    read = sp.onnx.read(folder / "shared.onnx")
    seen: list[torch.Tensor] = []
    layer = read.get_submodule(read.reading.paths["a"])
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    x = torch.randn(3, 64)
    read(x)
    handle.remove()
    first = x @ torch.from_numpy(noise(64, 64))
    assert len(seen) == 2
    torch.testing.assert_close(seen[0], x)
    torch.testing.assert_close(seen[1], first.relu(), rtol=1e-4, atol=1e-5)
    read(x)
    assert len(seen) == 2


def test_converting_twice_keeps_the_fabrics(folder: Path) -> None:
    path = folder / "shared.onnx"
    sparse = sp.sparsify(sp.onnx.read(path), budget=BUDGET, include=["last"])
    sp.save(sparse, folder / "once.onnx")
    again = sp.sparsify(sp.onnx.read(folder / "once.onnx"), budget=BUDGET, include=["w"], seed=1)
    sp.save(again, folder / "twice.onnx")
    assert fabrics(folder / "once.onnx") == ["Fabric_v1_0"]
    assert fabrics(folder / "twice.onnx") == ["Fabric_v1_1", "Fabric_v1_1", "Fabric_v1_0"]
    x = noise(3, 64)
    weight = again.get_submodule("w").weight.detach().numpy()
    last = sparse.get_submodule("last").weight.detach().numpy()
    expected = np.maximum(x @ weight.T, 0) @ weight.T @ last.T
    np.testing.assert_allclose(run(folder / "twice.onnx", x)[0], expected, rtol=1e-4, atol=1e-5)
    everything = sp.sparsify(sp.onnx.read(path), budget=BUDGET, include=["w", "last"])
    sp.save(everything, folder / "all.onnx")
    with pytest.raises(sp.NothingToDoError):
        sp.sparsify(sp.onnx.read(folder / "all.onnx"))


# --- the comparison before publishing -------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "layer"), [("factor", "net.dense"), ("pads", "net.conv"), ("bias", "net.conv")]
)
def test_a_wrong_rewrite_is_never_published(
    what: str, layer: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = rewrite.rewrite

    def wrong(sparse: OnnxModel) -> rewrite.Rewritten:
        found = right(sparse)
        nodes = found.proto.graph.node
        if what == "factor":
            name = next(name for name in found.values if name.startswith(layer))
            values = {**found.values, name: found.values[name] * 0}
            return rewrite.Rewritten(found.proto, values)
        if what == "bias":
            next(n for n in nodes if n.op_type == "Add").op_type = "Sub"
            return found
        pads = next(t for t in found.proto.graph.initializer if t.name.endswith(".pads"))
        array = numpy_helper.to_array(pads)
        pads.raw_data = np.roll(array, array.size // 2).tobytes()
        return found

    monkeypatch.setattr(onnx_save, "rewrite", wrong)
    sparse = sp.sparsify(sp.onnx.read(folder / "keras.onnx"), budget=BUDGET)
    with pytest.raises(sp.VerificationError, match=f"first layer that differs is '{layer}'"):
        sp.save(sparse, tmp_path / "o.onnx")
    assert list(tmp_path.iterdir()) == []


def test_inputs_that_nobody_can_invent_have_to_be_given(tmp_path: Path) -> None:
    shape = np.array([7, 64], np.int64)  # the axis is open by name only
    made = model(
        [node("Reshape", "x", "shape", "r"), node("MatMul", "r", "w", "a"),
         node("MatMul", "a", "v", "y")],
        {"shape": shape, "w": noise(64, 64), "v": noise(64, 64, seed=1)},
        ["n", 64], ["m", 64],
    )  # fmt: skip
    path = save(made, tmp_path / "m.onnx")
    with pytest.raises(sp.ConfigError, match="--input on the command line"):
        sp.save(sp.sparsify(sp.onnx.read(path)), tmp_path / "o.onnx")
    sparse = sp.sparsify(sp.onnx.read(path), (torch.randn(7, 64),))
    sp.save(sparse, tmp_path / "o.onnx")
    assert main(["convert", str(path), "-o", str(tmp_path / "p.onnx"), "--input", "f32[7,64]"]) == 0


# --- the command line -----------------------------------------------------------------------------


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = str(folder / "keras.onnx"), str(tmp_path / "o.onnx")
    assert main(["plan", source, "--format", "json", "-o", str(tmp_path / "plan.json")]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    assert [site["name"] for site in sites] == ["net.conv", "net.wide", "net.dense", "net.head"]
    assert main(["convert", source, "-o", output, "--plan", str(tmp_path / "plan.json")]) == 0
    assert main(["verify", output, output]) == 0
    assert main(["verify", output, source]) == 5  # another function than the dense one
    capsys.readouterr()
    assert main(["inspect", output, "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["fabrics"] == len(fabrics(Path(output)))
    assert main(["convert", source, "-o", output]) == 6
    assert main(["convert", source, "-o", output, "--force", "--seed", "1"]) == 0


# --- models as people have them -------------------------------------------------------------------


def _transformer(name: str) -> tuple[torch.nn.Module, tuple[torch.Tensor, ...]]:
    transformers = pytest.importorskip("transformers")
    sizes: dict[str, Any] = {"vocab_size": 99, "attn_implementation": "eager"}
    if name == "gpt2":
        config = transformers.GPT2Config(n_layer=2, n_head=4, n_embd=64, n_positions=128, **sizes)
        inner = transformers.GPT2LMHeadModel(config)
    else:
        sizes |= {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        config = transformers.BertConfig(hidden_size=64, **sizes)
        inner = transformers.BertModel(config)

    class Logits(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.inner(input_ids)[0]
            return result

    return Logits().eval(), (torch.randint(0, 99, (2, 9)),)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gpt2", "bert"])
def test_transformers(name: str, tmp_path: Path) -> None:
    net, inputs = _transformer(name)
    axes = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, inputs, tmp_path / "m.onnx", dynamo=True, verbose=False, dynamic_shapes=[axes]
        )
    read = sp.onnx.read(tmp_path / "m.onnx")
    plan = sp.plan(read, budget=BUDGET)
    wanted = {path for path, module in net.named_modules() if _is_dense(module)}
    assert wanted - {"inner.pooler.dense"} <= {site.name for site in plan.sites}  # not exported
    assert all(site.rows for site in plan.sites)
    if name == "gpt2":  # some exporters write the tied weight twice
        reason = decisions(plan)["inner.lm_head"]
        assert reason == "final head" or "also read by Gather" in reason
    sparse = sp.sparsify(read, plan=plan)
    sp.save(sparse, tmp_path / "o.onnx")
    assert len(fabrics(tmp_path / "o.onnx")) == len(plan.replaced)
    assert run(tmp_path / "o.onnx", np.ones((3, 5), np.int64))[0].shape[:2] == (3, 5)


def _is_dense(module: torch.nn.Module) -> bool:
    return isinstance(module, torch.nn.Linear) or type(module).__name__ == "Conv1D"


@pytest.mark.slow
def test_models_beyond_two_gigabytes(tmp_path: Path) -> None:
    """Weights that no one file can hold: nine layers of 256 MB."""
    width, depth = 8192, 9
    names = [f"w{i}" for i in range(depth)]
    values = ["x", *(f"h{i}" for i in range(depth - 1)), "y"]
    nodes = [node("MatMul", values[i], names[i], values[i + 1]) for i in range(depth)]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
    )  # fmt: skip
    size = 4 * width * width
    with (tmp_path / "m.onnx.data").open("wb") as file:
        file.truncate(size * depth)  # zeros that take no room on the disk
    for i, name in enumerate(names):
        held = graph.initializer.add(name=name, dims=[width, width], data_type=TensorProto.FLOAT)
        held.data_location = TensorProto.EXTERNAL
        place = {"location": "m.onnx.data", "offset": i * size, "length": size}
        for key, value in place.items():
            held.external_data.add(key=key, value=str(value))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    plan = sp.plan(sp.onnx.read(path), budget=0.01, include=["w0"])
    sp.save(sp.sparsify(sp.onnx.read(path), plan=plan), tmp_path / "o.onnx")
    assert (tmp_path / "o.onnx.data").stat().st_size > 8 * size
    assert run(tmp_path / "o.onnx", np.ones((1, width), np.float32))[0].shape == (1, width)


@pytest.fixture(autouse=True)
def _no_noise() -> Iterator[None]:
    onnxruntime.set_default_logger_severity(4)
    yield
    onnxruntime.set_default_logger_severity(2)
