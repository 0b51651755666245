"""Exported programs: raised to layers, trained, converted, written and read again."""

from __future__ import annotations

import contextlib
import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils import _pytree as pytree

import sparsify as sp
from sparsify.cli import main
from sparsify.export import pt2 as export
from sparsify.export.pt2 import export_program, export_pt2
from sparsify.export.pt2_compare import compare_pt2
from sparsify.frontend.pt2.file import open_program
from sparsify.frontend.pt2.raising import MATCHERS, raised
from sparsify.io.recipe import fabrics
from tests.support.programs import PROGRAMS, Attention, Net, batch, exported
from tests.support.purity import untouched
from tests.support.zoo import ZOO, call, make
from tests.support.zoo.entry import noise

BUDGET = 0.3


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of each program, in evaluation mode, and `net` in training mode too."""
    place = tmp_path_factory.mktemp("pt2")
    for name, program in PROGRAMS.items():
        torch.export.save(exported(program), place / f"{name}.pt2")
    torch.export.save(exported(PROGRAMS["net"], training=True), place / "trained.pt2")
    return place


@pytest.fixture
def file(folder: Path, tmp_path: Path) -> Path:
    """A file of one's own, converted: `net` in training mode."""
    path = tmp_path / "net.pt2"
    sp.save(sp.sparsify(sp.load(folder / "trained.pt2"), budget=BUDGET), path)
    return path


def outputs(model: Any, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return pytree.tree_leaves(call(model, inputs))


def assert_equal(first: list[Tensor], second: list[Tensor]) -> None:
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert torch.equal(a, b)


# --- from operations to layers --------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", PROGRAMS)
def test_raised_computes_the_same_bits(name: str, folder: Path) -> None:
    program = torch.export.load(folder / f"{name}.pt2")
    module = sp.load(folder / f"{name}.pt2")
    for rows in (2, 5):
        inputs = batch(PROGRAMS[name].inputs(), rows)
        assert_equal(outputs(module, inputs), outputs(program.module(), inputs))


@pytest.mark.parametrize("name", PROGRAMS)
def test_operations_become_layers_at_their_owners_paths(name: str, folder: Path) -> None:
    module = sp.load(folder / f"{name}.pt2")
    found = {
        path: type(part).__name__
        for path, part in module.named_modules()
        if type(part) is not nn.Module and path not in ("", "_guards_fn")
    }
    assert found == PROGRAMS[name].layers
    left = [n for n in module.graph.nodes if n.op == "call_function" and n.target in MATCHERS]
    assert len(left) == PROGRAMS[name].left


def test_names_of_parameters_stay_where_layers_owned_them(folder: Path) -> None:
    module = sp.load(folder / "net.pt2")
    assert set(module.state_dict()) == set(Net().state_dict())
    assert module.load_state_dict(Net().state_dict())


def test_ties_are_one_parameter_after_a_file(folder: Path) -> None:
    plain = torch.export.load(folder / "tied.pt2").module()
    module = sp.load(folder / "tied.pt2")
    assert plain.embedding.weight is not plain.head.weight  # what torch gives: two, sharing memory
    assert module.embedding.weight is module.head.weight
    assert len(list(module.parameters())) == 3
    plan = sp.plan(module)
    assert {site.name: site.decision for site in plan.sites} == {"body": "replace", "head": "keep"}
    assert "tied" in {site.name: site.reason for site in plan.sites}["head"]
    sparse = sp.sparsify(module, budget=BUDGET)
    assert sparse.embedding.weight is sparse.head.weight
    assert plan.sites[0].calls == 2


def test_weights_that_others_read_stay_dense(folder: Path) -> None:
    with pytest.raises(sp.NothingToDoError, match="also read"):
        sp.sparsify(sp.load(folder / "autoencoder.pt2"))


def test_decomposed_programs_raise_too(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, about itself
        program = torch.export.load(folder / "net.pt2").run_decompositions()
    assert torch.ops.aten.convolution.default in {node.target for node in program.graph.nodes}
    module = raised(program)
    assert sorted(path for path, _ in module.named_modules() if path.count(".") == 0 and path) == [
        "_guards_fn", "features", "head", "hidden",
    ]  # fmt: skip
    assert type(getattr(module.features, "4")) is nn.Conv2d
    assert type(module.hidden) is nn.Linear
    inputs = PROGRAMS["net"].inputs()
    assert_equal(outputs(module, inputs), outputs(program.module(), inputs))


# --- modes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["net.pt2", "trained.pt2"])
def test_train_and_eval(name: str, folder: Path) -> None:
    module = sp.load(folder / name)
    assert module.training is (name == "trained.pt2")
    inputs = PROGRAMS["net"].inputs()
    norm = getattr(module.features, "1")
    before = norm.running_mean.clone()
    module.train()
    assert not torch.equal(module(*inputs), module(*inputs))
    assert not torch.equal(norm.running_mean, before)
    before, counted = norm.running_mean.clone(), norm.num_batches_tracked.item()
    assert counted == (2 if name == "trained.pt2" else 0)  # a counter is in the graph, or is not
    module.eval()
    assert torch.equal(module(*inputs), module(*inputs))
    assert torch.equal(norm.running_mean, before)
    assert norm.num_batches_tracked.item() == counted


def test_a_trained_program_evaluates_as_the_model_does(folder: Path) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Net().eval()
    inputs = PROGRAMS["net"].inputs()
    module = sp.load(folder / "trained.pt2")
    module.load_state_dict(model.state_dict())
    assert_equal(outputs(module.eval(), inputs), outputs(model, inputs))


def test_a_part_can_be_frozen(folder: Path) -> None:
    module = sp.load(folder / "trained.pt2")
    norm = getattr(module.features, "1")
    norm.eval()
    module(*PROGRAMS["net"].inputs())
    assert norm.num_batches_tracked.item() == 0
    assert torch.equal(norm.running_mean, torch.zeros(64))


def test_dropout_of_attention_follows_the_mode() -> None:
    program = exported(PROGRAMS["attention"], training=True, model=Attention())
    module, inputs = raised(program), PROGRAMS["attention"].inputs()
    assert not torch.equal(module(*inputs), module(*inputs))
    module.eval()
    assert torch.equal(module(*inputs), module(*inputs))


def test_copies_are_independent(folder: Path) -> None:
    module = sp.load(folder / "trained.pt2").eval()
    module.register_forward_hook(lambda *_: None)
    other = copy.deepcopy(module).train()
    assert len(other._forward_hooks) == 1
    assert not module.training
    inputs = PROGRAMS["net"].inputs()
    assert torch.equal(module(*inputs), module(*inputs))
    other.hidden.weight.data.zero_()
    assert module.hidden.weight.abs().sum() > 0
    other.graph.erase_node(next(n for n in other.graph.nodes if "guards" in n.name))
    other.recompile()
    assert "_guards_fn" in module.code
    assert "_guards_fn" not in other.code


# --- conversion -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "net", "products", "tied", "attention", "recurrent"])
def test_round_trip(name: str, folder: Path, tmp_path: Path) -> None:
    """Convert, write, read, train, write, read: the same bits and sizes all the way."""
    program = PROGRAMS[name]
    first, second = tmp_path / "first.pt2", tmp_path / "second.pt2"
    sparse = sp.sparsify(sp.load(folder / f"{name}.pt2"), budget=0.4)
    sp.save(sparse, first)
    trained = sp.load(first)
    assert set(trained.state_dict()) == set(sparse.state_dict())
    assert fabrics(trained) == fabrics(sparse)
    if name != "recurrent":  # what loops in the model is one operator in a graph
        assert_equal(outputs(trained, program.inputs()), outputs(sparse, program.inputs()))
    train(trained, program.inputs())
    sp.save(trained, second)
    again = sp.load(second)
    assert again.interface.ranges == trained.interface.ranges
    for rows in (1, 2, 6):
        inputs = batch(program.inputs(), rows)
        assert_equal(outputs(again, inputs), outputs(trained, inputs))


def train(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    before = {name: p.detach().clone() for name, p in module.named_parameters()}
    losses = take_steps(module, inputs)
    assert min(losses[1:]) < losses[0]
    changed = {n for n, p in module.named_parameters() if not torch.equal(p, before[n])}
    assert any("factors" in name for name in changed)


def take_steps(module: nn.Module, inputs: Any, count: int = 10) -> list[float]:
    """Train towards outputs of 1; the losses."""
    module.train()
    optimizer = torch.optim.Adam(sp.param_groups(module, lr=1e-3))
    losses = []
    for _ in range(count):
        tensors = [t for t in pytree.tree_leaves(call(module, inputs)) if t.requires_grad]
        loss = torch.stack([(t - 1).square().mean() for t in tensors]).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    module.eval()
    return losses


def test_fabrics_of_all_kinds_are_layers_again(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(32, 64, 3, padding="same", padding_mode="reflect"),
        nn.ConvTranspose2d(64, 32, 2, 2, bias=False),
        nn.Conv2d(32, 64, 1),
        nn.Flatten(2),
        nn.Linear(256, 128),
    )
    sparse = sp.sparsify(model, (noise(2, 32, 8, 8),), budget=0.5, include=["0", "1", "2", "4"])
    export_pt2(sparse, tmp_path / "m.pt2", (noise(2, 32, 8, 8),))
    loaded = sp.load(tmp_path / "m.pt2")
    assert fabrics(loaded) == fabrics(sparse)
    for path in fabrics(sparse):
        assert type(loaded.get_submodule(path)) is type(sparse.get_submodule(path))
    inputs = (noise(3, 32, 8, 8),)
    assert_equal(outputs(loaded, inputs), outputs(sparse, inputs))


def test_a_program_comes_back_as_one() -> None:
    shapes = ({0: Dim("rows", min=2, max=64), 2: 2 * Dim("half"), 3: Dim.AUTO},)
    program = exported(PROGRAMS["net"], dynamic_shapes=shapes)
    plan = sp.plan(program, budget=BUDGET)
    assert {site.name for site in plan.replaced} == {"features.4", "hidden"}
    with untouched(program.module()):
        sparse = sp.sparsify(program, plan=plan)
    assert isinstance(sparse, torch.export.ExportedProgram)
    assert "hidden.factors.0" in sparse.state_dict
    for size in ((5, 3, 8, 8), (2, 3, 12, 9), (64, 3, 10, 7)):
        assert sparse.module()(noise(*size)).shape == (size[0], 10)
    sizes = [str(size) for size in raised(sparse).interface.sizes["x"]]
    assert sizes == [str(size) for size in raised(program).interface.sizes["x"]]
    assert sizes[0] == "batch"
    assert sizes[2].startswith("2*")
    for size in ((65, 3, 8, 8), (2, 3, 7, 8), (2, 4, 8, 8)):
        with pytest.raises(sp.ConfigError, match="takes 'x' of shape"):
            raised(sparse)(noise(*size))
    with pytest.raises(sp.ConfigError, match="does not take these sizes"):
        raised(sparse)(noise(2, 3, 6, 8))


def test_calls_by_name_and_nested_outputs_stay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(64, 64)
            self.b = nn.Linear(64, 64)

        def forward(self, pair: tuple[Tensor, Tensor], *, scale: float = 1.0, z: Tensor) -> Any:
            y = self.a(pair[0]) + pair[1]
            return {"y": self.b(y) * scale, "more": (z + 1, None)}

    batched = {0: Dim("batch")}
    program = torch.export.export(
        Model(),
        ((noise(3, 64), noise(3, 64)),),
        {"z": noise(3, 2), "scale": 0.5},
        dynamic_shapes={"pair": (batched, batched), "z": batched, "scale": None},
    )
    sparse = sp.sparsify(program, budget=0.4)
    x, z = noise(5, 64), noise(5, 2)
    got = sparse.module()((x, x), z=z, scale=0.5)
    assert got["y"].shape == (5, 64)
    assert torch.equal(got["more"][0], z + 1)
    assert got["more"][1] is None
    module = raised(program)
    assert torch.equal(
        module((x, x), z=z, scale=0.5)["y"], program.module()((x, x), z=z, scale=0.5)["y"]
    )
    with pytest.raises(sp.ConfigError, match="batch = 5"):
        module((x, x), z=noise(4, 2), scale=0.5)


def test_weights_of_another_format_fit_a_program(file: Path, folder: Path, tmp_path: Path) -> None:
    sparse = sp.load(file).eval()
    sp.save(sparse, tmp_path / "w.safetensors")
    loaded = sp.load(tmp_path / "w.safetensors", model=sp.load(folder / "trained.pt2")).eval()
    inputs = PROGRAMS["net"].inputs()
    assert_equal(outputs(loaded, inputs), outputs(sparse, inputs))


def test_live_models_are_written_too(tmp_path: Path) -> None:
    model = sp.sparsify(PROGRAMS["attention"].make(), (noise(2, 7, 64),), budget=0.4).train()
    with untouched(model):
        report = export_pt2(
            model,
            tmp_path / "m.pt2",
            (noise(1, 7, 64),),
            dynamic={"x": {0: "batch", 1: "sequence"}},
        )
    assert report is not None
    assert report.passed
    loaded = sp.load(tmp_path / "m.pt2")
    assert not loaded.training
    inputs = (noise(4, 9, 64),)
    assert_equal(outputs(loaded, inputs), outputs(model.eval(), inputs))
    assert compare_pt2(model, tmp_path / "m.pt2").passed


def test_files_hold_no_path_of_this_machine(file: Path) -> None:
    data = file.read_bytes()
    assert str(Path(__file__).parent).encode() not in data
    assert b"site-packages" not in data


def test_equal_programs_give_equal_bytes(file: Path, tmp_path: Path) -> None:
    module = sp.load(file)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        sp.save(module, tmp_path / name / "m.pt2")
    assert (tmp_path / "a" / "m.pt2").read_bytes() == (tmp_path / "b" / "m.pt2").read_bytes()


def test_plain_torch_reads_the_file(file: Path) -> None:
    code = (
        "import sys, torch, sparsify.ops\n"
        "module = torch.export.load(sys.argv[1]).module()\n"
        "print(tuple(module(torch.zeros(5, 3, 8, 8)).shape))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "(5, 10)"


def test_onnx_of_a_program(file: Path, tmp_path: Path) -> None:
    report = sp.export_onnx(sp.load(file), tmp_path / "m.onnx", PROGRAMS["net"].inputs())
    assert report is not None
    assert report.passed


def test_programs_without_example_inputs_work(folder: Path, tmp_path: Path) -> None:
    program = torch.export.load(folder / "tied.pt2")
    program._example_inputs = None
    torch.export.save(program, tmp_path / "bare.pt2")
    module = sp.load(tmp_path / "bare.pt2")
    assert module.dummy_inputs["x"].shape == (3, 7)
    assert module.dummy_inputs["x"].dtype == torch.int64
    sparse = sp.sparsify(module, budget=BUDGET)
    sp.save(sparse, tmp_path / "sparse.pt2")
    inputs = PROGRAMS["tied"].inputs()
    assert_equal(outputs(sp.load(tmp_path / "sparse.pt2"), inputs), outputs(sparse, inputs))


def test_compiles(folder: Path) -> None:
    module = sp.sparsify(sp.load(folder / "net.pt2"), budget=BUDGET)
    compiled = torch.compile(module, backend="aot_eager", fullgraph=True)
    inputs = PROGRAMS["net"].inputs()
    assert_equal(outputs(compiled, inputs), outputs(module, inputs))


# --- the command line -----------------------------------------------------------------------------


def test_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dense, sparse, onnx = folder / "net.pt2", tmp_path / "s.pt2", tmp_path / "s.onnx"
    assert main(["plan", str(dense), "--budget", str(BUDGET)]) == 0
    assert "features.4" in capsys.readouterr().out
    assert main(["convert", str(dense), "-o", str(sparse), "--budget", str(BUDGET)]) == 0
    assert main(["verify", str(sparse), str(sparse)]) == 0
    assert main(["verify", str(dense), str(sparse)]) == 5
    assert main(["export", str(sparse), "-o", str(onnx)]) == 0
    assert main(["verify", str(onnx), str(sparse)]) == 0
    assert (
        main(
            [
                "export",
                "torch.nn:Identity",
                "-o",
                str(tmp_path / "i.pt2"),
                "--input",
                "f32[batch,4]",
            ]
        )
        == 0
    )
    capsys.readouterr()
    assert main(["inspect", str(sparse)]) == 0
    shown = capsys.readouterr().out
    assert "exported program" in shown
    assert "features.4" in shown
    weights = tmp_path / "s.safetensors"
    assert main(["convert", str(dense), "-o", str(weights), "--budget", str(BUDGET)]) == 0
    assert main(["verify", str(sparse), str(dense), "--weights", str(weights)]) == 0


# --- errors ---------------------------------------------------------------------------------------


def test_pickling_says_what_to_do(folder: Path) -> None:
    with pytest.raises(TypeError, match=r"sp\.save"):
        pickle.dumps(sp.load(folder / "mlp.pt2"))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ((noise(3, 3, 8, 9),), "size 9 on axis 3"),
        ((noise(3, 3, 8),), "3 axes"),
        ((), "missing a required argument"),
        ((noise(3, 3, 8, 8), 1), "too many"),
        (("x",), "needs a tensor"),
    ],
)
def test_inputs_of_other_sizes(folder: Path, inputs: tuple[Any, ...], message: str) -> None:
    module = sp.load(folder / "net.pt2")
    with pytest.raises(sp.ConfigError, match=message):
        module(*inputs)


def test_a_skeleton_cannot_go_with_a_program(folder: Path) -> None:
    with pytest.raises(sp.ConfigError, match="holds the whole model"):
        sp.load(folder / "mlp.pt2", model=nn.Identity())
    with pytest.raises(sp.ConfigError, match="cannot be used here"):
        sp.load(folder / "mlp.pt2", device="nonsense")


def test_a_model_without_inputs(tmp_path: Path) -> None:
    with pytest.raises(sp.ConfigError, match="needs example inputs"):
        sp.save(nn.Linear(2, 2), tmp_path / "m.pt2")
    assert not list(tmp_path.iterdir())


def test_a_model_that_no_graph_holds(tmp_path: Path) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(sp.ModelError, match="decides on values"):
        export_pt2(Branch(), tmp_path / "m.pt2", (noise(2, 2),))
    with pytest.raises(sp.ModelError, match="meta device"):
        export_pt2(nn.Linear(2, 2, device="meta"), tmp_path / "m.pt2", (noise(2, 2),))
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_published(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, path = sp.load(folder / "mlp.pt2"), tmp_path / "m.pt2"
    path.write_text("old")
    program = export_program(module)

    def wrong(*_: Any, **__: Any) -> torch.export.ExportedProgram:
        program.state_dict["0.weight"].data.mul_(2)
        return copy.deepcopy(program)

    monkeypatch.setattr(export, "export_program", lambda *_, **__: _other(module))
    with pytest.raises(sp.VerificationError, match="output"):
        sp.save(module, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def _other(module: nn.Module) -> torch.export.ExportedProgram:
    other = copy.deepcopy(module)
    with torch.no_grad():
        next(other.parameters()).mul_(2)
    return export_program(other)


# --- all models -----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, entry in ZOO.items() if entry.exports])
def test_zoo(name: str, tmp_path: Path) -> None:
    """Every model that torch.export takes: a file in, a file out, trained on in between."""
    model, inputs = make(name, ZOO)
    call(model.eval(), inputs)
    dense, sparse = tmp_path / "dense.pt2", tmp_path / "sparse.pt2"
    axes = {} if name == "LSTM" else ZOO[name].dynamic  # torch fixes the length of an LSTM's input
    dynamic: Any = {key: {0: "batch", **labels} for key, labels in axes.items()}
    export_pt2(model, dense, inputs, dynamic=dynamic or None)
    program, module = open_program(dense), sp.load(dense)
    example = module.interface.inputs()
    with torch.no_grad():
        expected = pytree.tree_leaves(program.module()(*example.args, **example.kwargs))
        assert_equal(pytree.tree_leaves(module(*example.args, **example.kwargs)), expected)
    with contextlib.suppress(sp.NothingToDoError):
        module = sp.sparsify(module, budget=0.4)
    sp.save(module, sparse)
    trained = sp.load(sparse)
    assert trained.interface.ranges == module.interface.ranges
    take_steps(trained, trained.dummy_inputs)
    sp.save(trained, sparse)
    inputs = trained.dummy_inputs
    assert_equal(outputs(sp.load(sparse), inputs), outputs(trained, inputs))
