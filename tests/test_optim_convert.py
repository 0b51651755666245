"""`convert_optimizer`: groups and state go along, factors start fresh, nothing is mixed up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

import sparsify as sp
from sparsify.optim import MOST
from tests.support.zoo import ZOO, call, first_tensor, make


def _net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(64, 64), nn.LayerNorm(64), nn.GELU(), nn.Linear(64, 64), nn.Linear(64, 9)
    )


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(steps):
        optimizer.zero_grad()

        def closure() -> Tensor:
            loss: Tensor = model(x).square().mean()
            if not torch.is_grad_enabled():
                return loss
            optimizer.zero_grad()
            loss.backward()
            return loss

        closure()
        optimizer.step(closure if isinstance(optimizer, torch.optim.LBFGS) else None)


def _pair(model: nn.Module) -> nn.Module:
    return sp.sparsify(model, budget=0.3)


def _of(optimizer: torch.optim.Optimizer, parameter: Tensor) -> dict[str, Any]:
    (group,) = [g for g in optimizer.param_groups if any(p is parameter for p in g["params"])]
    return group


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other) and one is not other
    return bool(one == other)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, betas=(0.8, 0.99), eps=1e-7),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.1, amsgrad=True),
    "fused": lambda p: torch.optim.AdamW(p, lr=1e-3, fused=True),
    "foreach": lambda p: torch.optim.AdamW(p, lr=1e-3, foreach=True),
    "tensor rate": lambda p: torch.optim.Adam(p, lr=torch.tensor(1e-3)),
    "NAdam": lambda p: torch.optim.NAdam(p),
    "RAdam": lambda p: torch.optim.RAdam(p),
    "Adamax": lambda p: torch.optim.Adamax(p),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-4, momentum=0.5, centered=True),
    "Adagrad": lambda p: torch.optim.Adagrad(p),
    "Adadelta": lambda p: torch.optim.Adadelta(p),
    "ASGD": lambda p: torch.optim.ASGD(p),
    "Rprop": lambda p: torch.optim.Rprop(p),
    "Adafactor": lambda p: torch.optim.Adafactor(p),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_and_settings_go_along(name: str) -> None:
    model = _net()
    old = OPTIMIZERS[name](model.parameters())
    _train(model, old)
    sparse = _pair(model)
    before = copy.deepcopy(old.state_dict())
    new = sp.convert_optimizer(old, model, sparse)
    assert type(new) is type(old)
    assert new.defaults == old.defaults
    stayed = {"1.weight", "1.bias", "4.weight", "4.bias", "0.bias", "3.bias"}
    dense = dict(model.named_parameters())
    for path, parameter in sparse.named_parameters():
        group = _of(new, parameter)
        same = {key: old.param_groups[0][key] for key in group if key != "params"}
        if path in stayed:
            assert all(_same(v, group[k]) or v is None for k, v in same.items())
            state, origin = new.state[parameter], old.state[dense[path]]
            assert state.keys() == origin.keys()
            assert all(_same(origin[key], state[key]) for key in origin), path
        else:
            assert ".factors." in path
            fresh = OPTIMIZERS[name]([nn.Parameter(torch.zeros_like(parameter))])
            assert set(new.state[parameter]) == set(fresh.state[fresh.param_groups[0]["params"][0]])
    assert {id(p) for g in new.param_groups for p in g["params"]} == {
        id(p) for p in sparse.parameters()
    }
    weights = [p.detach().clone() for p in sparse.parameters()]
    _train(sparse, new)
    assert all(not torch.equal(a, b) for a, b in zip(weights, sparse.parameters(), strict=True))
    _train(model, old, steps=0)
    after = old.state_dict()
    assert after["param_groups"] == before["param_groups"]
    assert all(
        _equal(after["state"][i][k], v) for i, s in before["state"].items() for k, v in s.items()
    )


def _equal(one: Any, other: Any) -> bool:
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)


def test_training_goes_on_as_if_nothing_had_happened_to_what_stayed() -> None:
    """With every fabric frozen out, converted and dense norms make the very same steps."""
    model = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    _train(model, optimizer)
    sparse = sp.sparsify(model, budget=0.3, include=["0"])
    new = sp.convert_optimizer(optimizer, model, sparse)
    gradients = [torch.randn_like(p) for p in model[1].parameters()]
    for step in range(3):
        for mine, theirs, g in zip(
            model[1].parameters(), sparse[1].parameters(), gradients, strict=True
        ):
            mine.grad, theirs.grad = g * step, g * step
        for part in (model[0], sparse[0]):
            part.zero_grad()
        optimizer.step()
        new.step()
    for mine, theirs in zip(model[1].parameters(), sparse[1].parameters(), strict=True):
        assert torch.equal(mine, theirs)


def _groups(model: nn.Sequential) -> list[dict[str, Any]]:
    return [
        {"params": [model[0].weight, model[3].weight], "lr": 1e-3, "name": "weights"},
        {"params": [model[0].bias, model[3].bias], "weight_decay": 0.0, "name": "biases"},
        {"params": [model[4].weight], "lr": 5e-3, "weight_decay": 0.5, "name": "head"},
    ]


def test_groups_stay_groups() -> None:
    """The norm and the head's bias were not trained before, and are not now."""
    model = _net()
    old = torch.optim.AdamW(_groups(model), lr=2e-3, weight_decay=0.1)
    sparse = _pair(model)
    new = sp.convert_optimizer(old, model, sparse, factor_rates=False)
    factors = [*sparse[0].factors, *sparse[3].factors]
    wanted = [factors, [sparse[0].bias, sparse[3].bias], [sparse[4].weight]]
    for group, before, members in zip(new.param_groups, old.param_groups, wanted, strict=True):
        assert [id(p) for p in group["params"]] == [id(p) for p in members]
        assert {**group, "params": 0} == {**before, "params": 0}


def test_factors_get_the_rates_of_param_groups() -> None:
    model = _net()
    old = torch.optim.AdamW(_groups(model), lr=2e-3, weight_decay=0.1)
    lr_scheduler.LambdaLR(old, lambda step: 0.5)
    sparse = _pair(model)
    new = sp.convert_optimizer(old, model, sparse)
    for layer in (sparse[0], sparse[3]):
        for stage, factor in zip(layer.fabric.stages, layer.factors, strict=True):
            rate = min(64 / (stage.fan_in * len(layer.factors)), MOST)
            group = _of(new, factor)
            assert group["lr"] == pytest.approx(0.5e-3 * rate)
            assert group["initial_lr"] == pytest.approx(1e-3 * rate)
            assert group["weight_decay"] == pytest.approx(0.1 / rate / len(layer.factors))
            assert group["name"].startswith("weights, lr x")
    assert _of(new, sparse[4].weight)["lr"] == 2.5e-3
    assert all(group["params"] for group in new.param_groups)


@pytest.mark.parametrize(("name", "divided"), [("Adam", True), ("momentum", False)])
def test_the_rule_is_for_adam_and_its_kin(name: str, divided: bool) -> None:
    model = _net()
    sparse = _pair(model)
    old = OPTIMIZERS[name](model.parameters())
    assert (len(sp.convert_optimizer(old, model, sparse).param_groups) > 1) == divided
    for wish in (True, False):
        new = sp.convert_optimizer(old, model, sparse, factor_rates=wish)
        assert (len(new.param_groups) > 1) == wish


SCHEDULES: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=10),
    "steps": lambda o: lr_scheduler.StepLR(o, 2, gamma=0.5),
    "lambda": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "linear": lambda o: lr_scheduler.LinearLR(o, 1.0, 0.1, total_iters=10),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_scheduler_goes_on_over_the_new_optimizer(name: str) -> None:
    model = _net()
    old = torch.optim.AdamW(model.parameters(), lr=0.1)
    schedule = SCHEDULES[name](old)
    for _ in range(4):
        old.step()
        schedule.step()
    new = sp.convert_optimizer(old, model, _pair(model), factor_rates=False)
    further = SCHEDULES[name](new)
    further.load_state_dict(schedule.state_dict())
    for _ in range(3):
        for optimizer, rates in ((old, schedule), (new, further)):
            optimizer.step()
            rates.step()
        assert new.param_groups[0]["lr"] == pytest.approx(old.param_groups[0]["lr"])


def test_named_parameters_stay_named() -> None:
    model = _net()
    old = torch.optim.AdamW(model.named_parameters(), lr=1e-3)
    sparse = _pair(model)
    new = sp.convert_optimizer(old, model, sparse)
    names = {id(p): name for name, p in sparse.named_parameters()}
    for group in new.param_groups:
        assert group["param_names"] == [names[id(p)] for p in group["params"]]


class Composite(nn.Module):
    """Owners that unfold, a parameter of its own, and a norm that goes."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, 4, batch_first=True)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.raw = nn.Parameter(torch.randn(64, 64) / 8)
        self.normed = nn.utils.parametrizations.weight_norm(nn.Linear(64, 64))
        self.head = nn.Linear(64, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = self.normed(self.lstm(x)[0] @ self.raw)
        return self.head(x)


def test_slices_of_unfolded_owners_keep_their_part_of_the_state() -> None:
    model = Composite()
    x = torch.randn(2, 5, 64)
    old = torch.optim.Adam(model.parameters())
    model(x).square().sum().backward()
    old.step()
    sparse = sp.sparsify(model, (x,), budget=0.4, exclude=["attention.k_proj", "lstm.input_l0"])
    new = sp.convert_optimizer(old, model, sparse, factor_rates=False)
    moments = old.state[model.attention.in_proj_weight]["exp_avg"]
    kept = new.state[sparse.attention.k_proj.weight]["exp_avg"]
    assert torch.equal(kept, moments[64:128])
    moments = old.state[model.attention.in_proj_bias]["exp_avg_sq"]
    assert torch.equal(new.state[sparse.attention.v_proj.bias]["exp_avg_sq"], moments[128:])
    moments = old.state[model.lstm.weight_ih_l0]["exp_avg"]
    assert torch.equal(new.state[sparse.lstm.input_l0.weight]["exp_avg"], moments)
    (group,) = new.param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in sparse.parameters()}
    fresh = [p for p in sparse.parameters() if p not in new.state]
    factors = [p for name, p in sparse.named_parameters() if "factors" in name]
    assert [id(p) for p in fresh] == [id(p) for p in factors]
    sparse(x).square().sum().backward()
    new.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        *("GPT-2", "T5", "Mixtral", "Mamba", "SAM", "ALBERT", "LSTM", "raw parameters"),
        *("TransformerEncoder", "tied head", "weight used twice", "UNet"),
    ],
)
def test_nothing_gets_lost_in_real_models(name: str) -> None:
    model, inputs = make(name, ZOO)
    old = torch.optim.AdamW(model.parameters(), lr=1e-3)
    first_tensor(call(model, inputs)).square().mean().backward()
    old.step()
    sparse = sp.sparsify(model, inputs, budget=0.7, include=["*"])
    new = sp.convert_optimizer(old, model, sparse)
    held = [id(p) for g in new.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert set(held) == {id(p) for p in sparse.parameters()}
    dense = dict(model.named_parameters())
    for path, parameter in sparse.named_parameters():
        if path in dense and dense[path] in old.state:
            moments = new.state[parameter]["exp_avg"]
            assert torch.equal(moments, old.state[dense[path]]["exp_avg"])
    first_tensor(call(sparse, inputs)).square().mean().backward()
    new.step()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "norm", [nn.utils.weight_norm, nn.utils.parametrizations.weight_norm], ids=["old", "new"]
)
def test_length_and_direction_become_factors(norm: Callable[[nn.Module], nn.Module]) -> None:
    model = nn.Sequential(norm(nn.Linear(64, 64)), nn.Linear(64, 9))
    length, direction, *_ = (p for n, p in model[0].named_parameters() if n != "bias")
    old = torch.optim.SGD([{"params": [length]}, {"params": [direction], "lr": 0.5}], lr=0.1)
    sparse = sp.sparsify(model, (torch.randn(2, 64),), budget=0.5)
    new = sp.convert_optimizer(old, model, sparse)
    assert [(len(g["params"]), g["lr"]) for g in new.param_groups] == [(0, 0.1), (2, 0.5)]


def test_what_was_frozen_stays_out() -> None:
    model = _net()
    model[0].requires_grad_(False)
    old = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    sparse = _pair(model)
    new = sp.convert_optimizer(old, model, sparse)
    held = {id(p) for g in new.param_groups for p in g["params"]}
    assert held == {id(p) for p in sparse.parameters() if p.requires_grad}


def test_lbfgs_starts_anew() -> None:
    model = _net()
    old = torch.optim.LBFGS(model.parameters(), max_iter=2)
    _train(model, old, steps=2)
    sparse = sp.sparsify(model, budget=0.3, exclude=["0"])  # it keeps its state with the first
    new = sp.convert_optimizer(old, model, sparse)
    assert not new.state
    _train(sparse, new, steps=2)


def test_step_hooks_come_along() -> None:
    model, calls = _net(), []
    old = torch.optim.SGD(model.parameters(), lr=0.1)
    old.register_step_post_hook(lambda *_: calls.append(1))
    sparse = _pair(model)
    _train(sparse, sp.convert_optimizer(old, model, sparse), steps=2)
    assert calls == [1, 1]


def test_the_state_dict_of_the_new_one_round_trips() -> None:
    model = _net()
    old = torch.optim.AdamW(model.parameters())
    _train(model, old)
    sparse = _pair(model)
    new = sp.convert_optimizer(old, model, sparse)
    _train(sparse, new)
    again = sp.convert_optimizer(old, model, sparse)
    again.load_state_dict(new.state_dict())
    for parameter in sparse.parameters():
        assert torch.equal(again.state[parameter]["exp_avg"], new.state[parameter]["exp_avg"])


class Odd(torch.optim.Optimizer):
    """A constructor that tells nothing to `defaults`."""

    def __init__(self, params: Any, secret: float) -> None:
        self.secret = secret
        super().__init__(params, {})


MODEL = _net()
SPARSE = _pair(MODEL)
OTHER = nn.Sequential(nn.Linear(64, 32))
BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "already converted": (
        lambda: (torch.optim.SGD(SPARSE.parameters()), MODEL, SPARSE),
        "of the converted model already",
    ),
    "of another model": (
        lambda: (torch.optim.SGD(OTHER.parameters()), MODEL, SPARSE),
        r"2 of the 2 parameters .*\(32, 64\), are not in the dense model",
    ),
    "partly of another model": (
        lambda: (torch.optim.SGD([*MODEL.parameters(), *OTHER.parameters()]), MODEL, SPARSE),
        "2 of the 10 parameters",
    ),
    "models in the wrong order": (
        lambda: (torch.optim.SGD(MODEL.parameters()), SPARSE, MODEL),
        "of the converted model already",
    ),
    "one model twice": (
        lambda: (torch.optim.SGD(MODEL.parameters()), MODEL, MODEL),
        "share parameters; give the dense model first",
    ),
    "models that are no pair": (
        lambda: (torch.optim.SGD(OTHER.parameters()), OTHER, SPARSE),
        "do not belong together: the converted one has '",
    ),
    "no optimizer": (lambda: (MODEL, MODEL, SPARSE), r"must be a torch\.optim\.Optimizer; got Seq"),
    "no model": (
        lambda: (torch.optim.SGD(MODEL.parameters()), [], SPARSE),
        r"model must be a torch\.nn\.Module; got list",
    ),
    "a constructor of its own": (
        lambda: (Odd(MODEL.parameters(), 1.0), MODEL, SPARSE),
        r"Odd cannot be made anew.*secret.*sp\.param_groups",
    ),
    "for matrices only": (
        lambda: (torch.optim.Muon([MODEL[0].weight]), MODEL, SPARSE),
        r"Muon cannot be made anew",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_does_not_fit_is_refused(name: str) -> None:
    make, message = BAD[name]
    with pytest.raises(sp.ConfigError, match=message):
        sp.convert_optimizer(*make())
