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
from sparsify.export import onnx_rewrite, onnx_save
from sparsify.export.onnx_ops import DOMAIN
from sparsify.export.onnx_save import save_onnx
from sparsify.frontend.onnx_model import OnnxModel
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
    from sparsify.export import onnx_bytes

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
    right = onnx_rewrite.rewrite

    def wrong(sparse: OnnxModel) -> onnx_rewrite.Rewritten:
        found = right(sparse)
        nodes = found.proto.graph.node
        if what == "factor":
            name = next(name for name in found.values if name.startswith(layer))
            values = {**found.values, name: found.values[name] * 0}
            return onnx_rewrite.Rewritten(found.proto, values)
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


# --- bad input ------------------------------------------------------------------------------------


def damaged(folder: Path, kind: str) -> Path:
    """A file that cannot serve."""
    whole = (folder / "keras.onnx").read_bytes()
    path = folder / f"{kind}.onnx"
    if kind == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif kind == "text":
        path.write_text("this is no model\n" * 40)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "invalid":
        made = FILES["shared"]()
        made.graph.node[0].op_type = "MatMull"
        path.write_bytes(made.SerializeToString())
    elif kind == "future":
        made = FILES["shared"]()
        made.opset_import[0].version = 99
        path.write_bytes(made.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("cut", "damaged"),
        ("text", "damaged"),
        ("empty", "damaged"),
        ("invalid", "not valid ONNX"),
        ("future", "not valid ONNX|opset"),
    ],
)
def test_files_that_are_no_models(
    kind: str, message: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = damaged(folder, kind)
    with pytest.raises(sp.ModelError, match=message):
        sp.onnx.read(path)
    assert main(["plan", str(path)]) == 4
    assert "Traceback" not in capsys.readouterr().err


def _hostile(external: Path, key: str, value: str) -> None:
    made = onnx.load(external, load_external_data=False)
    for tensor in made.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == key:
                entry.value = value
    external.write_bytes(made.SerializeToString())


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("location", "../w.bin", sp.ModelError, "must lie in the folder"),
        ("location", "/etc/passwd", sp.ModelError, "must lie in the folder"),
        ("location", "gone.bin", sp.FileError, "does not exist"),
        ("offset", "99999999", sp.ModelError, "damaged"),
        ("offset", "-4", sp.ModelError, "no number of bytes"),
        ("length", "12", sp.ModelError, "damaged"),
    ],
)
def test_weights_that_are_not_there(
    external: Path, key: str, value: str, error: type[sp.SparsifyError], message: str
) -> None:
    _hostile(external, key, value)
    with pytest.raises(error, match=message):
        sp.onnx.read(external)


def test_links_are_not_followed(external: Path) -> None:
    data = external.with_name("w.bin")
    data.rename(data.with_name("other.bin"))
    data.symlink_to("other.bin")
    with pytest.raises(sp.ModelError, match="no links"):
        sp.onnx.read(external)


def test_no_dense_node(tmp_path: Path) -> None:
    path = save(model([node("Relu", "x", "y")], {}, [3, 4], [3, 4]), tmp_path / "m.onnx")
    with pytest.raises(sp.NothingToDoError, match="no dense"):
        sp.sparsify(sp.onnx.read(path))
    assert main(["plan", str(path)]) == 3


Case = tuple[Any, type[sp.SparsifyError], str]
BAD: dict[str, Case] = {
    "missing": (lambda m, p: sp.onnx.read(p / "no.onnx"), sp.FileError, "no file"),
    "a folder": (lambda m, p: sp.onnx.read(p), sp.FileError, "is a folder"),
    "its own path": (lambda m, p: sp.save(m, m.source.path), sp.FileError, "is read from"),
    "safetensors": (lambda m, p: sp.save(m, p / "o.safetensors"), sp.ConfigError, "saved as one"),
    "of a torch model": (
        lambda m, p: sp.save(torch.nn.Linear(2, 2), p / "o.onnx"),
        sp.ConfigError,
        "sp.export_onnx",
    ),
    "export": (lambda m, p: sp.export_onnx(m, p / "o.onnx", (1,)), sp.ConfigError, "ONNX file"),
    "skeleton": (lambda m, p: sp.load(m.source.path, model=m), sp.ConfigError, "whole model"),
    "too many inputs": (lambda m, p: m(torch.ones(1), torch.ones(1)), sp.ConfigError, "takes 1"),
    "name of an input": (lambda m, p: m(z=torch.ones(1)), sp.ConfigError, "takes the inputs x"),
    "type of an input": (
        lambda m, p: m(torch.ones(3, 64, dtype=torch.int64)),
        sp.ConfigError,
        r"float32 \[3, 64\] in the model; got int64",
    ),
    "shape of an input": (lambda m, p: m(torch.ones(3, 65)), sp.ConfigError, r"32 \[3, 65\]"),
    "example inputs": (
        lambda m, p: sp.plan(m, (torch.ones(2, 64),)), sp.ConfigError, r"got float32 \[2, 64\]"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_calls(case: str, folder: Path, tmp_path: Path) -> None:
    action, error, message = BAD[case]
    with pytest.raises(error, match=message):
        action(sp.onnx.read(folder / "shared.onnx"), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["convert", "{}", "-o", "o.safetensors"], 2),
        (["convert", "{}", "-o", "{}"], 6),
        (["convert", "tests.support.factories:mlp", "-o", "o.onnx"], 2),
        (["export", "{}", "-o", "o.onnx"], 2),
        (["bench", "{}"], 2),
        (["plan", "no.onnx"], 6),
        (["plan", "{}", "--weights", "{}"], 2),
    ],
)
def test_bad_commands(
    arguments: list[str], code: int, folder: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    source = str(folder / "shared.onnx")
    assert main([text.format(source) for text in arguments]) == code
    assert "Traceback" not in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


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
