"""Plans are complete: every dense operation is a site, and what cannot be named is counted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import flop_registry

import sparsify as sp
from sparsify.cli import main
from sparsify.frontend.capture import capture
from sparsify.frontend.record import record
from sparsify.passes import AnnotateWeights, CheckAliases, FindSites, Program, run_passes
from sparsify.passes.annotate_weights import unseen_share, weight_uses
from sparsify.passes.dense_ops import _OPERATIONS, is_dense
from tests.support.dependence import weight_work
from tests.support.zoo import ZOO, make

# Values decide what runs, or the model cannot be copied for the experiment.
NO_EXPERIMENT = ("data-dependent", "lazy layers", "old weight norm")

# Higher-order operators and our own have parts that are recorded.
FORWARD = [p for p in flop_registry if str(p)[:5] == "aten." and "backward" not in str(p)]

# --- whole models, against an experiment --------------------------------------------------------


@pytest.mark.parametrize("name", ZOO)
def test_all_weight_flops_of_a_model_are_seen(name: str) -> None:
    model, inputs = make(name, ZOO)
    program = capture(model, inputs)
    program = run_passes(program, (AnnotateWeights(), FindSites(), CheckAliases()))
    seen = sum(use.flops for node in program.graph.nodes for use in weight_uses(node))
    sites = sum(site.dense_flops for site in program.sites)
    assert unseen_share(program) == (0.0, ())
    assert sites == pytest.approx(seen, rel=2e-3)  # rows are whole numbers, means of the calls
    if name in NO_EXPERIMENT:
        return
    work = weight_work(model, inputs)
    assert seen == work.moving + work.settled
    assert work.moving > 0


# --- single operations --------------------------------------------------------------------------


class Call(nn.Module):
    """A function of the inputs and of parameters."""

    def __init__(self, function: Callable[..., Any], *shapes: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.w = nn.ParameterList(nn.Parameter(torch.randn(shape)) for shape in shapes)

    def forward(self, *inputs: Any) -> Any:
        return self.function(*inputs, *self.w)


def _annotated(model: nn.Module, inputs: tuple[Any, ...]) -> Program:
    """Recorded as it is, without unfolding anything."""
    program = Program(model, model, record(model.eval(), (inputs, {})), recorded=True)
    return run_passes(program, (AnnotateWeights(), FindSites()))


def _sites(model: nn.Module, *shapes: tuple[int, ...]) -> list[tuple[str, int, int]]:
    """Name, weights and FLOPs of each site that is used."""
    inputs = tuple(torch.randn(shape) for shape in shapes)
    program = _annotated(model, inputs)
    assert unseen_share(program) == (0.0, ())
    return [(s.name, s.dense_parameters, s.dense_flops) for s in program.sites if s.calls]


FORMS: dict[str, tuple[Callable[..., Any], list[tuple[int, ...]], list[tuple[int, ...]], int]] = {
    # function, shapes of the inputs, shapes of the parameters, multiply-adds per row x rows
    "weight on the left": (lambda x, w: w @ x, [(3, 4, 7)], [(5, 4)], 21 * 20),
    "four dimensions": (lambda x, w: x @ w, [(2, 3, 7, 4)], [(4, 5)], 42 * 20),
    "matrix, vector": (lambda x, w: w @ x, [(4,)], [(5, 4)], 20),
    "vector, matrix": (lambda x, w: x @ w, [(4,)], [(4, 5)], 20),
    "vector, vector": (lambda x, w: x @ w, [(4,)], [(4,)], 4),
    "addmv": (lambda x, w: torch.addmv(x.new_zeros(5), w, x), [(4,)], [(5, 4)], 20),
    "addbmm": (lambda x, w: torch.addbmm(x.new_zeros(3, 5), x, w), [(2, 3, 4)], [(2, 4, 5)], 120),
    "baddbmm": (
        lambda x, w: torch.baddbmm(x.new_zeros(2, 3, 5), x, w),
        [(2, 3, 4)],
        [(2, 4, 5)],
        120,
    ),
    "fused activation": (
        lambda x, w: torch._addmm_activation(x.new_zeros(5), x, w),
        [(3, 4)],
        [(4, 5)],
        60,
    ),
    "einsum, one matrix": (
        lambda x, w: torch.einsum("btc,co->bto", x, w),
        [(2, 3, 4)],
        [(4, 5)],
        120,
    ),
    "einsum, experts": (
        lambda x, w: torch.einsum("bti,eio->bteo", x, w),
        [(2, 6, 4)],
        [(3, 4, 5)],
        12 * 60,
    ),
    "einsum, heads": (
        lambda x, w: torch.einsum("bthi,hio->btho", x, w),
        [(2, 6, 3, 4)],
        [(3, 4, 5)],
        12 * 60,
    ),
    "tensordot": (lambda x, w: torch.tensordot(x, w, dims=1), [(2, 6, 4)], [(4, 5)], 240),
    "multi_dot": (
        lambda x, w, v: torch.linalg.multi_dot([x, w, v]),
        [(3, 4)],
        [(4, 5), (5, 6)],
        3 * (20 + 30),
    ),
    "bilinear": (functional.bilinear, [(2, 3), (2, 4)], [(5, 3, 4)], 2 * 60),
    "grouped convolution": (
        lambda x, w: functional.conv1d(x, w, groups=2, stride=2),
        [(2, 4, 9)],
        [(6, 2, 3)],
        2 * 4 * 36,
    ),
    "transposed convolution": (
        lambda x, w: functional.conv_transpose2d(x, w, stride=2),
        [(2, 4, 5, 5)],
        [(4, 3, 2, 2)],
        2 * 25 * 48,
    ),
    "modulated convolution": (
        lambda x, w: functional.conv1d(x, w * x.mean((0, 2)).view(1, 4, 1)),
        [(2, 4, 9)],
        [(6, 4, 3)],
        2 * 7 * 72,
    ),
    "correlation of two signals": (
        lambda x, w: functional.conv1d(x, x[:, :, :3]) * w,
        [(2, 4, 9)],
        [(2, 2, 7)],
        0,
    ),
    "codebook": (torch.cdist, [(60, 4)], [(50, 4)], 60 * 200),
    "learned keys and values": (
        lambda x, k, v: functional.scaled_dot_product_attention(x, k, v),
        [(1, 2, 5, 8)],
        [(1, 2, 6, 8), (1, 2, 6, 8)],
        2 * 5 * 2 * 48,
    ),
    "slices": (
        lambda x, w: sum(functional.linear(x, part) for part in w.chunk(3)),
        [(3, 4)],
        [(12, 4)],
        3 * 48,
    ),
    "one of a stack": (lambda x, w: x @ w[1] + x @ w[0], [(3, 4)], [(2, 4, 4)], 3 * 32),
    "computed": (lambda x, w: x @ torch.tanh(w), [(3, 4)], [(4, 5)], 60),
    "a sum of products": (
        lambda x, w, a, b: x @ (w + a @ b),
        [(3, 4)],
        [(4, 4), (4, 1), (1, 4)],
        48,
    ),
    "factors": (lambda x, a, b: x @ a @ b, [(3, 4)], [(4, 2), (2, 4)], 48),
    "no weight": (lambda x, w: (x @ x.T) @ x + w, [(3, 4)], [(3, 4)], 0),
    "look-up": (lambda x, w: functional.embedding(x.long(), w), [(3, 4)], [(9, 4)], 0),
    "scale and position": (lambda x, w: x * w + w, [(3, 4)], [(3, 4)], 0),
}


@pytest.mark.parametrize("name", FORMS)
def test_an_operation_is_seen_and_counted(name: str) -> None:
    function, inputs, parameters, products = FORMS[name]
    sites = _sites(Call(function, *parameters), *inputs)
    assert sum(flops for *_, flops in sites) == 2 * products
    if products and name not in ("computed", "a sum of products"):
        assert sum(weights for _, weights, _ in sites) == sum(map(math.prod, parameters))


CELLS: dict[str, tuple[nn.Module, tuple[int, ...], int]] = {
    "LSTM": (nn.LSTM(4, 5, 2, bidirectional=True), (3, 2, 4), 6 * 20 * (4 + 5 + 10 + 5) * 2),
    "LSTM with a projection": (nn.LSTM(4, 5, proj_size=3), (3, 2, 4), 6 * (20 * (4 + 3) + 15)),
    "GRU": (nn.GRU(4, 5), (3, 2, 4), 6 * 15 * 9),
    "RNN": (nn.RNN(4, 5), (3, 2, 4), 6 * 5 * 9),
    "LSTM cell": (nn.LSTMCell(4, 5), (2, 4), 2 * 20 * 9),
    "GRU cell": (nn.GRUCell(4, 5), (2, 4), 2 * 15 * 9),
    "bilinear": (nn.Bilinear(4, 4, 5), (2, 4), 2 * 80),
    "one vector": (nn.Linear(4, 5), (4,), 20),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_recurrence_is_counted_in_every_step(name: str) -> None:
    module, shape, products = CELLS[name]
    inputs = (shape, shape) if name == "bilinear" else (shape,)
    assert sum(flops for *_, flops in _sites(module, *inputs)) == 2 * products


def test_experts_in_one_parameter() -> None:
    """Every row meets one expert, so the FLOPs are those of one."""
    grouped = torch._grouped_mm
    experts = Call(lambda x, w: grouped(x, w, offs=torch.tensor([3, 8], dtype=torch.int32)))
    experts.w.append(nn.Parameter(torch.randn(2, 16, 32, dtype=torch.bfloat16)))
    program = _annotated(experts, (torch.randn(8, 16, dtype=torch.bfloat16),))
    (site,) = program.sites
    assert (site.copies, site.dense_parameters, site.dense_flops) == (2, 1024, 2 * 8 * 512)


@pytest.mark.parametrize("packet", FORWARD, ids=str)
def test_what_torch_counts_is_known_or_suspected(packet: Any) -> None:
    """An operation with a FLOP formula of torch's own is never passed over in silence."""
    name = str(packet)
    node = torch.fx.Graph().call_function(packet.default)
    assert f"{name}.default" in _OPERATIONS or is_dense(node)


# --- what a weight is made of -------------------------------------------------------------------


@torch.library.custom_op("sparsify_tests::noise", mutates_args=())
def noise(rows: int, columns: int) -> Tensor:
    """Numbers that are others in every call."""
    return torch.randn(rows, columns)


@noise.register_fake
def _(rows: int, columns: int) -> Tensor:
    return torch.empty(rows, columns)


class Constants(nn.Module):
    """Weights made of parameters and of tensors that are no parameters."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.w = nn.Parameter(torch.randn(6, 6))
        self.register_buffer("held", torch.ones(6, 6))
        self.plain = torch.ones(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "buffer":
            return functional.linear(x, self.w * self.held)
        if self.how == "plain attribute":
            return functional.linear(x, self.w * self.plain)
        if self.how == "literal":
            return functional.linear(x, self.w * torch.tensor([1.0, 2, 3, 4, 5, 6]))
        if self.how == "generated":
            return functional.linear(x, self.w + torch.eye(6))
        if self.how == "written":
            weight = torch.zeros(6, 6)
            weight[torch.arange(6)] = self.w
            return functional.linear(x, weight)
        if self.how == "input in a constant":
            padded = self.held.clone()
            padded[:3] = x
            return functional.linear(padded, self.w)
        if self.how == "product with a plain attribute":
            return functional.linear(x, self.w @ self.plain)
        source = {
            "noise": lambda: torch.randn(3, 6),
            "noise of a library": lambda: torch.ops.sparsify_tests.noise(3, 6),
            "memory that others fill": lambda: torch.empty(3, 6),
        }[self.how]
        return x + functional.linear(torch.tanh(functional.linear(source(), self.w)), self.w)


@pytest.mark.parametrize(
    ("how", "rows"),
    [
        ("buffer", 3),
        ("plain attribute", 3),
        ("literal", 3),
        ("generated", 3),
        ("written", 3),
        ("input in a constant", 6),
        ("product with a plain attribute", 3),
        ("noise", 6),
        ("noise of a library", 6),
        ("memory that others fill", 6),
    ],
)
def test_constants_in_weights_and_inputs_in_constants(how: str, rows: int) -> None:
    """Twice three rows, where a generator of two layers makes its own inputs."""
    assert _sites(Constants(how), (3, 6)) == [("w", 36, 2 * rows * 36)]


class Wrapped:
    """An input that the recorder cannot look into."""

    def __init__(self, x: Tensor) -> None:
        self.x = x


def test_an_input_in_disguise_is_no_constant() -> None:
    """Attention has two products with weights, and one between activations."""

    def attend(batch: Wrapped, w: Tensor, v: Tensor) -> Tensor:
        return functional.linear(batch.x, w) @ functional.linear(batch.x, v).T

    program = _annotated(Call(attend, (6, 6), (6, 6)), (Wrapped(torch.randn(3, 6)),))
    assert [(s.name, s.dense_flops) for s in program.sites] == [("w.0", 216), ("w.1", 216)]


def _wrapped(wrap: Callable[[nn.Module], nn.Module]) -> nn.Module:
    return nn.Sequential(wrap(nn.Linear(6, 6)), nn.Linear(6, 6))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "wrap",
    [
        nn.utils.parametrizations.spectral_norm,
        nn.utils.parametrizations.weight_norm,
        lambda layer: nn.utils.parametrizations.orthogonal(layer, orthogonal_map="cayley"),
        lambda layer: nn.utils.parametrizations.orthogonal(layer, orthogonal_map="householder"),
        lambda layer: nn.utils.parametrizations.orthogonal(layer, orthogonal_map="matrix_exp"),
        nn.utils.spectral_norm,
        nn.utils.weight_norm,
    ],
    ids=["spectral", "weight", "cayley", "householder", "exp", "old spectral", "old weight"],
)
def test_a_parametrized_layer_is_one_site(wrap: Callable[[nn.Module], nn.Module]) -> None:
    """Its products with buffers are part of the weight, and the layer's own name stands for it."""
    program = _annotated(_wrapped(wrap), (torch.randn(3, 6),))
    assert [(s.name, s.calls, s.dense_flops) for s in program.sites] == [
        ("0", 1, 2 * 3 * 36),
        ("1", 1, 2 * 3 * 36),
    ]


def test_a_layer_called_on_a_constant_is_called() -> None:
    """DeBERTa projects its learned positions with the layer that projects its states."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(5, 64))
            self.layer = nn.Linear(64, 64)
            self.out = nn.Linear(5, 64)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.layer(x) @ self.layer(self.table).T)

    model = Positions()
    plan = sp.plan(model, (torch.randn(3, 64),), budget=0.5, include=["layer"])
    site = next(site for site in plan.sites if site.name == "layer")
    assert (site.decision, site.calls, site.dense_flops) == ("replace", 2, 2 * (3 + 5) * 64 * 64)
    sparse = sp.sparsify(model, (torch.randn(3, 64),), plan=plan)
    assert sparse(torch.randn(4, 64)).shape == (4, 64)


# --- what cannot be named -----------------------------------------------------------------------


@torch.library.custom_op("sparsify_tests::secret_product", mutates_args=())
def secret_product(x: Tensor, weight: Tensor) -> Tensor:
    """A product under a name that nobody knows."""
    return x @ weight


@secret_product.register_fake
def _(x: Tensor, weight: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], weight.shape[-1] if weight.dim() > 1 else x.shape[-1])


class Secret(nn.Module):
    """A Linear of 64 x 64, and three times as much work that nobody sees."""

    def __init__(self) -> None:
        super().__init__()
        self.known = nn.Linear(64, 64)
        self.weight = nn.Parameter(torch.randn(64, 192))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.ops.sparsify_tests.secret_product(self.known(x), self.weight)
        return y.view(-1, 3, 64).sum(1) + self.known(x)


X = (torch.randn(4, 64),)
OPERATION = "sparsify_tests.secret_product.default(weight)"


def _secret_plan() -> sp.Plan:
    return sp.plan(Secret(), X, budget=0.5, include=["known"])


def test_unseen_work_is_counted_and_named() -> None:
    plan = _secret_plan()
    # The layer is called twice (2 x 64 x 64 per row), the other product has 64 x 192.
    assert plan.unseen == pytest.approx(3 / 5)
    assert plan.unseen_operations == (OPERATION,)
    assert plan.flop_share == pytest.approx(2 / 5)
    assert f"about 60.0% unseen ({OPERATION})" in plan.summary()
    assert plan.summary() in str(plan)


def test_unseen_work_travels_as_json() -> None:
    plan = _secret_plan()
    assert sp.Plan.from_json(plan.to_json()) == plan
    old = re.sub(r' "unseen.*?(?= "sites")', "", plan.to_json(), flags=re.DOTALL)
    assert "unseen" not in old
    read = sp.Plan.from_json(old)
    assert (read.unseen, read.unseen_operations) == (None, ())
    assert "unseen" not in read.summary()


def test_unseen_work_in_an_onnx_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    onnx = pytest.importorskip("onnx")
    h, value = onnx.helper, onnx.TensorProto.FLOAT
    weight = torch.randn(64, 64).numpy()
    graph = h.make_graph(
        [
            h.make_node("MatMul", ["x", "w"], ["y"]),
            h.make_node("Secret", ["y", "v"], ["z"], domain="some.body"),
        ],
        "net",
        [h.make_tensor_value_info("x", value, [4, 64])],
        [h.make_tensor_value_info("z", value, [4, 64])],
        [onnx.numpy_helper.from_array(weight, name) for name in "wv"],
    )
    domains = [h.make_opsetid("", 18), h.make_opsetid("some.body", 1)]
    path = tmp_path / "net.onnx"
    onnx.save(h.make_model(graph, opset_imports=domains, ir_version=9), path)
    assert main(["plan", str(path), "--budget", "0.5", "--include", "w"]) == 0
    assert "about 50.0% unseen (some.body.Secret(v))" in capsys.readouterr().out
    assert main(["plan", str(path), "--budget", "0.5", "--include", "w", "--strict"]) == 3


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_a_share(share: float) -> None:
    with pytest.raises(sp.ConfigError, match="share between 0 and 1"):
        replace(_secret_plan(), unseen=share)


def test_a_vector_is_no_matrix() -> None:
    """Norms of other libraries read vectors, and so does nothing that is worth a fabric."""
    model = Call(lambda x, w: torch.ops.sparsify_tests.secret_product(x, w), (64,))
    assert unseen_share(_annotated(model, X)) == (0.0, ())


def test_a_plan_without_a_run_says_nothing() -> None:
    plan = sp.plan(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), budget=0.5)
    assert plan.unseen is None
    assert "unseen" not in plan.summary()


def test_all_seen() -> None:
    plan = sp.plan(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), X, budget=0.5)
    assert plan.unseen == 0
    assert plan.summary().endswith("% of the weight FLOPs, 0% unseen")


# --- strict -------------------------------------------------------------------------------------


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 9)
    )


def test_strict_names_what_stays_dense() -> None:
    for call in (sp.plan, sp.sparsify):
        with pytest.raises(
            sp.IncompleteError, match=r"1 of 3 dense sites.*'4' \(final head\)"
        ) as e:
            call(_net(), X, budget=0.5, strict=True)
        assert e.value.exit_code == 3


@pytest.mark.parametrize(
    "wish",
    [
        {"exclude": ["4"]},
        {"include": ["0", "2"]},
        {"rules": [sp.Rule("4", keep=True)]},
    ],
    ids=["exclude", "include", "rule"],
)
def test_strict_lets_the_user_keep_layers(wish: dict[str, Any]) -> None:
    plan = sp.plan(_net(), X, budget=0.5, strict=True, **wish)
    assert [site.by_user for site in plan.sites] == [False, False, True]
    assert sp.Plan.from_json(plan.to_json()) == plan
    sp.sparsify(_net(), X, plan=plan, strict=True)


def test_strict_takes_an_edited_plan() -> None:
    plan = sp.plan(_net(), X, budget=0.5)
    with pytest.raises(sp.IncompleteError):
        sp.sparsify(_net(), X, plan=plan, strict=True)
    plan = plan.edit("4", fabric=None)
    plan.check_complete()
    fabric = plan.sites[0].fabric
    plan = plan.edit("0", fabric=None).edit("0", fabric=fabric)
    assert not plan.sites[0].by_user
    sp.sparsify(_net(), X, plan=plan, strict=True)


def test_strict_refuses_unseen_work() -> None:
    model = Secret()
    sp.plan(model, X, budget=0.5, include=["known"])
    with pytest.raises(sp.IncompleteError, match=r"60\.0% of the weight FLOPs.*secret_product"):
        sp.plan(model, X, budget=0.5, include=["known"], strict=True)


def net_with_inputs() -> tuple[nn.Module, tuple[Tensor]]:
    """A factory for the command line."""
    return _net(), X


SOURCE = "tests.test_complete:net_with_inputs"


@pytest.mark.parametrize("verb", ["plan", "convert"])
def test_strict_ends_with_three_and_writes_nothing(
    verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / ("plan.json" if verb == "plan" else "net.safetensors")
    command = [verb, SOURCE, "--budget", "0.5", "--strict", "-o", str(output)]
    assert main(command) == 3
    assert list(tmp_path.iterdir()) == []
    out, err = capsys.readouterr()
    assert (out, "'4' (final head)" in err) == ("", True)
    assert main([*command, "--exclude", "4"]) == 0
    assert output.is_file()


def test_strict_with_a_plan_from_a_file(tmp_path: Path) -> None:
    plan, output = tmp_path / "plan.json", tmp_path / "net.safetensors"
    assert main(["plan", SOURCE, "--budget", "0.5", "-o", str(plan)]) == 0
    command = ["convert", SOURCE, "--plan", str(plan), "-o", str(output)]
    assert main([*command, "--strict"]) == 3
    assert not output.exists()
    assert main(command) == 0
