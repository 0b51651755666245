"""The passes, over the table: promises, what they keep and why, and what they leave alone."""

from __future__ import annotations

import dataclasses
import random
import re
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, fx, nn

import sparsify as sp
from sparsify.config import Budget
from sparsify.errors import SparsifyError
from sparsify.frontend.capture import capture
from sparsify.frontend.record import record
from sparsify.nn import FabricLayer, unfolded_twin
from sparsify.passes import (
    PASSES,
    AnnotateWeights,
    AssignPlan,
    CheckAliases,
    FindSites,
    FollowPlan,
    Initialise,
    KeepDefaults,
    Pass,
    PassError,
    PassResult,
    Program,
    ReplaceDense,
    Verify,
    run_passes,
)
from sparsify.plan import Plan
from tests.support.tricky import CASES, Body, Branching, Inputs, Noting

X = (torch.zeros(2, 64),)
ANALYSE = (AnnotateWeights(), FindSites(), CheckAliases(), KeepDefaults())
BUDGET = Budget(parameters=0.4)


def _program(model: nn.Module | None = None, inputs: Any = X, *more: Pass) -> Program:
    """A plain model, captured and analysed, with more passes behind."""
    return run_passes(capture(Body() if model is None else model, inputs), (*ANALYSE, *more))


def _call(model: nn.Module, inputs: Inputs) -> Any:
    return model(**inputs) if isinstance(inputs, dict) else model(*inputs)


# --- what every pass is --------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(PASSES))
def test_every_pass_shows_its_contract(name: str) -> None:
    step = PASSES[name]
    text = step.__doc__ or ""
    assert step.name == name
    assert issubclass(step, Pass)
    assert step.__dataclass_params__.frozen
    assert re.search(r"Before: .+\n +After: |Before and after: ", text), "what becomes of the graph"
    assert re.search(r"Requires: .+Ensures: ", text, re.DOTALL)
    for option in step.options():
        assert f"        {option}: " in text, f"the option {option} is not documented"
    assert step.options() == tuple(field.name for field in dataclasses.fields(step))


def test_the_table_is_in_the_order_of_execution() -> None:
    order = (
        AnnotateWeights, FindSites, CheckAliases, KeepDefaults, AssignPlan, FollowPlan,
        ReplaceDense, Initialise, Verify,
    )  # fmt: skip
    assert [PASSES[name] for name in PASSES] == list(order)


# Passes that need what an earlier one provides -> how far the program has come.
UNREADY: dict[str, tuple[Pass, tuple[Pass, ...]]] = {
    "find-sites": (FindSites(), ()),
    "check-aliases": (CheckAliases(), ()),
    "keep-defaults": (KeepDefaults(), ()),
    "assign-plan": (AssignPlan(), ()),
    "follow-plan": (FollowPlan(Plan(())), ()),
    "replace-dense": (ReplaceDense(), ANALYSE),
    "initialise": (Initialise(), (*ANALYSE, AssignPlan(BUDGET))),
    "verify": (Verify(), (*ANALYSE, AssignPlan(BUDGET))),
}


@pytest.mark.parametrize("name", UNREADY)
def test_a_pass_says_what_it_requires(name: str) -> None:
    step, before = UNREADY[name]
    program = run_passes(capture(Body(), X), before)
    with pytest.raises(PassError, match=f"{name} needs"):
        step(program)


# Passes that have nothing to do -> on what.
IDLE: dict[str, tuple[Pass, Callable[[], Program]]] = {
    "annotate-weights": (AnnotateWeights(), lambda: capture(Body())),
    "check-aliases": (CheckAliases(), _program),
    "keep-defaults": (KeepDefaults(), lambda: _program(nn.Linear(64, 64))),
    "verify": (
        Verify(),
        lambda: _program(Body(), None, AssignPlan(BUDGET), ReplaceDense(), Initialise()),
    ),
}


@pytest.mark.parametrize("name", IDLE)
def test_a_pass_that_does_not_apply_changes_nothing_and_says_so(name: str) -> None:
    step, make = IDLE[name]
    program = make()
    graph, sites = str(program.graph), program.sites
    result = step(program)
    assert not result.modified
    assert result.program is program
    assert result.note
    assert (str(program.graph), program.sites) == (graph, sites)


class Liar(Pass):
    """Says that it changed nothing."""

    name: ClassVar[str] = "liar"

    def run(self, program: Program) -> PassResult:
        return PassResult(dataclasses.replace(program), False)


class Thief(Pass):
    """Takes the user's model away."""

    name: ClassVar[str] = "thief"

    def run(self, program: Program) -> PassResult:
        return PassResult(dataclasses.replace(program, original=nn.Linear(1, 1)), True)


class Vandal(Pass):
    """Leaves a graph that uses a value before it is there."""

    name: ClassVar[str] = "vandal"

    def run(self, program: Program) -> PassResult:
        graph = fx.Graph()
        output = graph.output(None)
        with graph.inserting_after(output):
            late = graph.placeholder("late")
        output.args = (late,)
        return PassResult(dataclasses.replace(program, graph=graph), True)


class LazyReplace(ReplaceDense):
    """Replaces nothing."""

    def run(self, program: Program) -> PassResult:
        return PassResult(program, False)


class Blind(FindSites):
    """Finds all but one."""

    def run(self, program: Program) -> PassResult:
        result = super().run(program)
        sites = result.program.sites[1:]
        return PassResult(dataclasses.replace(result.program, sites=sites), True)


class Spoils(Initialise):
    """Leaves a factor as memory happened to be."""

    def run(self, program: Program) -> PassResult:
        result = super().run(program)
        with torch.no_grad():
            result.program.module.one.factors[0].fill_(torch.nan)
        return result


class Generous(AssignPlan):
    """Does not care about the budget."""

    def run(self, program: Program) -> PassResult:
        result = dataclasses.replace(AssignPlan(Budget(parameters=0.8))).run(program)
        plan = dataclasses.replace(result.program.plan, budget=self.budget)
        return PassResult(dataclasses.replace(result.program, plan=plan), True)


PLANNED = (*ANALYSE, AssignPlan(BUDGET))
BROKEN: dict[str, tuple[Pass, tuple[Pass, ...], str]] = {
    "liar": (Liar(), (), "liar says that it changed nothing"),
    "thief": (Thief(), (), "thief replaced the user's own model"),
    "vandal": (Vandal(), (), "vandal"),
    "replaces nothing": (LazyReplace(), PLANNED, "replace-dense left one as it was"),
    "overlooks a site": (Blind(), ANALYSE[:1], "find-sites left .* without a site"),
    "leaves NaN": (Spoils(), (*PLANNED, ReplaceDense()), "initialise left factors of 'one'"),
    "exceeds the budget": (Generous(BUDGET), ANALYSE, "assign-plan exceeded the budget of 0.4"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_pass_is_caught_and_named(name: str) -> None:
    step, before, message = BROKEN[name]
    done = ", ".join(earlier.name for earlier in before) or "none"
    with pytest.raises(PassError, match=message) as caught:
        run_passes(capture(Body(), X), (*before, step))
    assert str(caught.value).endswith(f"(after the passes: {done})")
    assert caught.value.exit_code == 1, "a bug of ours, never of the model"


# --- the graph -----------------------------------------------------------------------------------

BEFORE = """\
graph():
    %input_0 : [num_users=1] = placeholder[target=input_0]
    %_0_weight : [num_users=1] = get_attr[target=0.weight]
    %t_default : [num_users=1] = call_function[target=torch.ops.aten.t.default](args = (%_0_weight,), kwargs = {})
    %_0_bias : [num_users=1] = get_attr[target=0.bias]
    %addmm_default : [num_users=1] = call_function[target=torch.ops.aten.addmm.default](args = (%_0_bias, %input_0, %t_default), kwargs = {})
    %relu_default : [num_users=1] = call_function[target=torch.ops.aten.relu.default](args = (%addmm_default,), kwargs = {})
    %_2_weight : [num_users=1] = get_attr[target=2.weight]
    %t_default_1 : [num_users=1] = call_function[target=torch.ops.aten.t.default](args = (%_2_weight,), kwargs = {})
    %_2_bias : [num_users=1] = get_attr[target=2.bias]
    %addmm_default_1 : [num_users=1] = call_function[target=torch.ops.aten.addmm.default](args = (%_2_bias, %relu_default, %t_default_1), kwargs = {})
    return (addmm_default_1,)"""  # noqa: E501

AFTER = """\
graph():
    %input_0 : [num_users=1] = placeholder[target=input_0]
    %_0 : [num_users=1] = call_module[target=0](args = (%input_0,), kwargs = {})
    %relu_default : [num_users=1] = call_function[target=torch.ops.aten.relu.default](args = (%_0,), kwargs = {})
    %_2_weight : [num_users=1] = get_attr[target=2.weight]
    %t_default_1 : [num_users=1] = call_function[target=torch.ops.aten.t.default](args = (%_2_weight,), kwargs = {})
    %_2_bias : [num_users=1] = get_attr[target=2.bias]
    %addmm_default_1 : [num_users=1] = call_function[target=torch.ops.aten.addmm.default](args = (%_2_bias, %relu_default, %t_default_1), kwargs = {})
    return (addmm_default_1,)"""  # noqa: E501


def test_the_graph_before_and_after_replacing() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    program = _program(model, X, AssignPlan(BUDGET))
    before = str(program.graph).strip()
    assert _normal(before) == _normal(BEFORE)
    after = ReplaceDense()(program).program
    assert str(program.graph).strip() == before, "the pass before is left as it was"
    assert _normal(str(after.graph)) == _normal(AFTER)
    (call,) = [node for node in after.graph.nodes if node.op == "call_module"]
    assert call.meta["shape"] == (2, 64)
    assert call.meta["site"] == "0"


def _normal(graph: str) -> list[str]:
    return [line.strip() for line in graph.strip().splitlines()]


def test_a_walked_graph_has_the_layers_in_order() -> None:
    program = capture(Body())
    assert not program.recorded
    assert [n.target for n in program.graph.nodes if n.op == "call_module"] == [
        "one",
        "two",
        "head",
    ]


# --- what is replaced, what is kept and why ----------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_decisions_and_reasons(name: str, untouched: Any) -> None:
    model, inputs, expected = CASES[name]()
    with untouched(model):
        plan = sp.plan(model, inputs, budget=0.4)
    decisions = {site.name: site for site in plan.sites}
    wanted = {site for site, reason in expected.items() if reason != "<absent>"}
    assert set(decisions) == wanted, str(plan)
    for site in wanted:
        reason = expected[site]
        assert (decisions[site].fabric is None) == (reason is not None), f"{site}\n{plan}"
        assert reason is None or reason in decisions[site].reason, f"{site}\n{plan}"


@pytest.mark.parametrize("name", CASES)
def test_the_users_class_comes_back_and_runs(name: str, untouched: Any) -> None:
    model, inputs, expected = CASES[name]()
    model.train()
    with untouched(model):
        if None not in expected.values():
            with pytest.raises(sp.NothingToDoError):
                sp.sparsify(model, inputs, budget=0.4)
            return
        sparse = sp.sparsify(model, inputs, budget=0.4)
    layers = {n: m for n, m in sparse.named_modules() if isinstance(m, FabricLayer)}
    fabrics = set(layers)
    assert fabrics == {site for site, reason in expected.items() if reason is None}
    assert type(sparse) is type(model) or "" in fabrics
    assert all(part.training for part in sparse.modules())
    outputs = [_call(each.eval(), inputs) for each in (model, sparse)]
    assert _shapes(outputs[0]) == _shapes(outputs[1])
    factors = {id(f) for layer in layers.values() for f in layer.factors}
    dense = unfolded_twin(model)
    original = dict(dense.named_parameters()) | dict(dense.named_buffers())
    for key, value in (*sparse.named_parameters(), *sparse.named_buffers()):
        assert id(value) in factors or torch.equal(value, original[key]), key
    ours = {id(p) for p in model.parameters()}
    assert not ours & {id(p) for p in sparse.parameters()}


def _shapes(output: Any) -> Any:
    if isinstance(output, Tensor):
        return output.shape
    values = output if isinstance(output, dict) else vars(output)
    return {key: _shapes(value) for key, value in values.items() if value is not None}


@pytest.mark.parametrize("name", CASES)
def test_a_walk_keeps_what_a_recording_keeps_for_safety(name: str, untouched: Any) -> None:
    """Without inputs no calls are seen; ties, hooks and odd weights still are."""
    model, _, expected = CASES[name]()
    safe = {
        site
        for site, reason in expected.items()
        if reason is not None
        and reason.startswith(("tied", "held by", "pruned", "of type", "more than"))
    }
    with untouched(model):
        plan = sp.plan(model, budget=0.4)
    assert safe <= {site.name for site in plan.sites if site.fabric is None}, str(plan)


def test_a_module_at_two_paths_stays_one() -> None:
    model, inputs, _ = CASES["at two paths"]()
    plan = sp.plan(model, inputs, budget=0.4)
    assert plan.sites[0].paths == ("one", "alias.of")
    sparse = sp.sparsify(model, inputs, budget=0.4)
    assert isinstance(sparse.one, FabricLayer)
    assert sparse.alias["of"] is sparse.one


def test_calls_are_counted() -> None:
    model, inputs, _ = CASES["called twice"]()
    calls = {site.name: site.calls for site in sp.plan(model, inputs, budget=0.4).sites}
    assert calls == {"one": 3, "two": 1, "head": 1}


def test_ties_come_along() -> None:
    model, inputs, _ = CASES["tied to an embedding"]()
    sparse = sp.sparsify(model, inputs, budget=0.4)
    assert sparse.head.weight is sparse.embed.weight
    model, inputs, _ = CASES["one bias for two"]()
    sparse = sp.sparsify(model, inputs, budget=0.4)
    assert sparse.one.bias is sparse.two.bias
    assert sparse.one.bias is not model.one.bias
    assert len(list(sparse.parameters())) == len({id(p) for p in sparse.parameters()})


def test_hooks_are_kept_and_fire_in_the_copy() -> None:
    model = Noting()
    sparse = sp.sparsify(model, X, budget=0.4)
    assert model.seen == sparse.seen == [], "recording leaves no trace"
    y = sparse(X[0])
    assert sparse.seen == ["FabricLinear"]
    assert model.seen == []
    sparse.two._forward_pre_hooks.clear()
    assert not torch.allclose(sparse(X[0]), y), "the second hook had changed the input"


def test_frozen_layers_stay_frozen() -> None:
    model, inputs, _ = CASES["frozen"]()
    assert not any(p.requires_grad for p in sp.sparsify(model, inputs, budget=0.4).parameters())


@pytest.mark.parametrize("case", ["old spectral norm", "pruned"])
def test_computed_weights_still_follow_their_parameters(case: str) -> None:
    model, inputs, _ = CASES[case]()
    sparse = sp.sparsify(model, inputs, budget=0.4).eval()
    x = torch.ones(2, 64)
    model.eval()
    assert torch.allclose(sparse.one(x), model.one(x))
    sparse(x).sum().backward()
    own = [p for n, p in sparse.one.named_parameters() if n != "bias"]
    assert all(p.grad is not None for p in own)


def test_lazy_layers() -> None:
    model = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 3))
    reasons = {site.name: site.reason for site in sp.plan(model, budget=0.4).sites}
    assert reasons.pop("2").startswith("best of ")
    assert reasons == {"0": "lazy and not initialised; run the model once first", "3": "final head"}
    assert sp.plan(model, X, budget=0.4).sites[0].fabric is not None
    assert model[0].has_uninitialized_params()


REFUSED: dict[str, tuple[Callable[[], Any], type[SparsifyError], str]] = {
    "no module": (lambda: sp.plan("model.pt"), sp.ModelError, "got str"),
    "a class": (lambda: sp.plan(Body), sp.ModelError, "got type"),
    "no layers": (lambda: sp.plan(nn.ReLU()), sp.NothingToDoError, "no dense Linear or Conv"),
    "no layers run": (
        lambda: sp.plan(nn.ReLU(), X),
        sp.NothingToDoError,
        "no dense Linear or Conv",
    ),
    "only a tiny layer": (
        lambda: sp.sparsify(nn.Linear(8, 8)),
        sp.NothingToDoError,
        "only 8 inputs",
    ),
    "wrong shapes": (
        lambda: sp.plan(Body(), (torch.zeros(2, 63),)),
        sp.ModelError,
        "does not run on the example inputs",
    ),
    "too many inputs": (lambda: sp.plan(Body(), (*X, *X)), sp.ModelError, "does not run"),
    "a text for inputs": (lambda: sp.plan(Body(), "x"), sp.ConfigError, "got str"),
    "compiled": (
        lambda: sp.plan(torch.compile(Body(), backend="eager")),
        sp.ModelError,
        "compiled model",
    ),
    "a lock in the model": (
        lambda: sp.sparsify(_with_a_lock(), X, budget=0.4),
        sp.ModelError,
        "cannot be copied by copy.deepcopy",
    ),
}


def _with_a_lock() -> nn.Module:
    import threading

    model = Body()
    model.lock = threading.Lock()
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_refused_models(name: str) -> None:
    call, error, fragment = REFUSED[name]
    with pytest.raises(error) as caught:
        call()
    assert fragment in str(caught.value)


class Reads(Body):
    """Never calls `one`, but reads its weight where only the conversion shows it."""

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.two, FabricLayer):
            return self.head(torch.nn.functional.linear(x, self.two.weight))
        return super().forward(x)


def test_verify_catches_a_layer_that_is_not_called() -> None:
    with pytest.raises(sp.VerificationError, match=r"'(one|two)' was called 1 times as a dense"):
        sp.sparsify(Reads(), X, budget=0.4)


# --- recording -----------------------------------------------------------------------------------


class Stateful(nn.Module):
    """Writes buffers, attributes, lists and random generators whenever it runs."""

    def __init__(self, look: bool) -> None:
        super().__init__()
        self.look = look
        self.layer = nn.Linear(64, 64)
        self.norm = nn.BatchNorm1d(64)
        self.register_buffer("count", torch.zeros(()))
        self.last: Any = None
        self.history: list[Any] = []
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.count += 1
        self.norm.running_mean.add_(1)
        self.register_buffer("made", x)
        y = self.norm(self.layer(x)) + torch.rand(64) + random.random()
        self.last = y
        self.history.append(y)
        if self.look and y.sum() > 0:
            return y * 2
        return y


@pytest.mark.parametrize("look", [False, True], ids=["fake run", "real run"])
@pytest.mark.parametrize("fails", [False, True])
def test_recording_leaves_no_trace(look: bool, fails: bool, untouched: Any) -> None:
    model = Stateful(look).train()
    x = torch.ones(2, 63 if fails else 64)
    kept = x.clone()
    with untouched(model):
        if fails:
            with pytest.raises(sp.ModelError):
                record(model, ((x,), {}))
        else:
            graph = record(model, ((x,), {}))
            dependent = graph.output_node().meta.get("data_dependent", False)
            assert dependent == look
    assert (model.last, model.history, model.calls) == (None, [], 0)
    assert torch.equal(x, kept)
    assert not torch.is_inference_mode_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_recording_works_on_the_meta_device_and_under_no_grad(untouched: Any) -> None:
    with torch.device("meta"):
        model = Body()
    with untouched(model):
        plan = sp.plan(model, (torch.zeros(2, 64, device="meta"),), budget=0.4)
    assert len(plan.replaced) == 2
    with torch.no_grad():
        assert sp.plan(Body(), X, budget=0.4) == plan
    with pytest.raises(sp.ModelError, match="does not run"), torch.device("meta"):
        record(Branching(), ((torch.zeros(2, 64),), {}))


def test_a_plan_does_not_depend_on_weights_or_batch() -> None:
    plans = [sp.plan(Body(), (torch.zeros(2, 64),), budget=0.4) for _ in range(2)]
    assert plans[0] == plans[1]
    other = sp.plan(Body(), (torch.zeros(7, 64),), budget=0.4)
    assert [s.fabric for s in other.sites] == [s.fabric for s in plans[0].sites]


def test_without_inputs_the_models_own_are_used() -> None:
    model = Body()
    model.example_input_array = torch.zeros(3, 64)
    assert sp.plan(model, budget=0.4).sites[0].rows == 3
    model.example_input_array = torch.zeros(3, 63)  # does not run: the walk serves
    assert sp.plan(model, budget=0.4).sites[0].rows is None
