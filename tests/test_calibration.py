"""Projection in the flow: what layers read, errors before anything is written, one budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp
from sparsify.cli import main
from sparsify.errors import ConfigError, ModelError
from sparsify.frontend.calibrate import as_batches, calibrate, readers, trained_of
from sparsify.frontend.capture import capture
from sparsify.frontend.moments import Moment, Shelf
from sparsify.frontend.patches import vectors
from sparsify.passes import AnnotateWeights, CheckAliases, FindSites, run_passes
from sparsify.projection import variants
from sparsify.select import fitting
from sparsify.select.fitting import Fit, turns
from sparsify.topology import LowRank, Monarch
from tests.support.purity import untouched

ANALYSE = (AnnotateWeights(), FindSites(), CheckAliases())


def _random(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _coloured(rows: int, width: int, seed: int = 0) -> Tensor:
    """Inputs with unequal variances that are correlated, and with a mean."""
    mix = torch.randn(width, width, generator=_random(seed)) * torch.linspace(0.05, 1, width)
    return torch.randn(rows, width, generator=_random(seed + 1)) @ mix.T + 0.5


def _net(*widths: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.GELU()]
    return nn.Sequential(*layers[:-1])


def _relative(change: Tensor, whole: Tensor) -> float:
    parts = (part.detach().double().square().sum() for part in (change, whole))
    left, all_of_it = parts
    return float(left / all_of_it)


def _shrunk(rows: Tensor, *, centred: bool = False) -> Tensor:
    """The second moment of few rows, drawn to a multiple of the identity (Chen et al. 2010)."""
    x = rows.double()
    x = x - x.mean(0) if centred else x
    count, width = x.shape
    moment = x.T @ x / count
    level, norm = moment.trace() / width, (moment**2).sum()
    share = ((1 - 2 / width) * norm + moment.trace() ** 2) / (
        (count + 1 - 2 / width) * (norm - moment.trace() ** 2 / width)
    )
    share = min(1.0, float(share))
    return (1 - share) * moment + share * level * torch.eye(width, dtype=torch.float64)


def _expected_error(weight: Tensor, old: Tensor, moment: Tensor) -> float:
    missing, whole = (
        (p.detach().double() @ moment * p.detach().double()).sum() for p in (weight - old, old)
    )
    return float(missing / whole)


# --- what layers read -----------------------------------------------------------------------------


def test_covariance_is_that_of_an_explicit_computation() -> None:
    model, batches = _net(8, 16, 4).double(), [_coloured(5, 8, s).double() for s in (0, 5)]
    program = run_passes(capture(model, (batches[0],)), ANALYSE)
    found = calibrate(program, ["0", "2"], as_batches(batches))
    hidden = torch.cat([functional.gelu(model[0](batch)) for batch in batches])
    for name, rows in (("0", torch.cat(batches)), ("2", hidden)):
        wanted = sum(torch.outer(row, row) for row in rows) / len(rows)
        torch.testing.assert_close(found[name].mean()[0], wanted, rtol=1e-12, atol=1e-12)
        around = torch.from_numpy(np.cov(rows.detach().numpy().T, bias=True))
        torch.testing.assert_close(found[name].mean(centred=True)[0], around)


@pytest.mark.parametrize(
    ("conv", "shape"),
    [
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (2, 4, 9)),
        (nn.Conv2d(4, 6, (1, 3), dilation=(1, 2), padding="same"), (2, 4, 6, 7)),
        (nn.Conv2d(4, 6, 3, groups=2, padding=1, padding_mode="circular"), (2, 4, 5, 5)),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3)),
        (nn.Conv2d(3, 5, 1), (3, 4, 4)),
    ],
)
def test_patches_are_what_a_convolution_multiplies(conv: Any, shape: tuple[int, ...]) -> None:
    """The outputs come out again as one product per position."""
    x = torch.randn(shape, generator=_random())
    if conv.in_channels == 3:
        x = torch.randn(3, 4, 4, generator=_random())  # without a batch
    rows = vectors(conv, x)
    assert rows is not None
    weight = conv.weight.reshape(conv.groups, conv.out_channels // conv.groups, -1)
    outputs = torch.bmm(rows, weight.mT).transpose(0, 1).flatten(1) + conv.bias
    wanted = conv(x).movedim(0 if x.dim() == len(conv.kernel_size) + 1 else 1, -1)
    torch.testing.assert_close(outputs, wanted.reshape(-1, conv.out_channels))


def test_large_images_are_looked_at_here_and_there() -> None:
    rows = vectors(nn.Conv2d(1, 1, 1), torch.arange(128.0 * 128).reshape(1, 1, 128, 128))
    assert rows is not None
    assert rows.shape == (1, 4096, 1)
    assert rows.min() == 0
    assert rows.max() == 128 * 128 - 1


def test_a_small_variance_survives_beside_a_large_mean() -> None:
    rows = 1000 + 0.1 * torch.randn(1, 500, 4, generator=_random())
    moment = Moment(Shelf())
    for part in rows.split(100, dim=1):
        moment.add(part)
    wanted = torch.from_numpy(np.cov(rows[0].double().numpy().T, bias=True))
    torch.testing.assert_close(moment.mean(centred=True)[0], wanted, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(moment.means()[1][0], rows[0].double().mean(0))


def test_query_key_and_value_share_a_sum() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out((self.q(x) * self.k(x)).softmax(-1) * self.v(x))
            return y

    model, x = Attention(), torch.randn(2, 3, 32)
    program = run_passes(capture(model, (x,)), ANALYSE)
    assert readers(program, ["q", "k", "v", "out"]) == {"q": "q", "k": "q", "v": "q", "out": "out"}
    found = calibrate(program, ["q", "k", "v", "out"], as_batches([x]))
    assert found["v"] is found["q"]
    assert found["out"] is not found["q"]


def test_sums_beyond_the_limit_lie_in_files() -> None:
    rows = torch.randn(1, 10, 16, generator=_random())
    inside, outside = Moment(Shelf()), Moment(shelf := Shelf(limit=0))
    for moment in (inside, outside):
        moment.add(rows)
        moment.add(rows)
    assert torch.equal(inside.mean(), outside.mean())
    folder = shelf._folder
    assert folder is not None
    assert list(folder.iterdir())
    del outside, moment, shelf
    assert not folder.exists()


def test_the_model_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64), nn.Dropout(), nn.Linear(64, 64))
    model.train()
    batches = [_coloured(16, 64, seed) for seed in range(3)]
    with untouched(model):
        sp.plan(model, (batches[0],), budget=0.5, init="project", calibration=batches)
        sp.sparsify(model, (batches[0],), budget=0.5, init="project", calibration=batches)


# --- errors ---------------------------------------------------------------------------------------


def test_fit_is_the_sum_of_discarded_singular_values() -> None:
    weight = np.random.default_rng(0).standard_normal((24, 32))
    values = np.linalg.svd(weight, compute_uv=False) ** 2
    fit = Fit(lambda: (weight, None))
    assert fit.error(LowRank(5).build(32, 24)) == pytest.approx(values[5:].sum() / values.sum())
    blocks = weight.reshape(6, 4, 2, 16).transpose(1, 2, 0, 3)  # rows of an output block: 4 apart
    kept = np.linalg.svd(blocks, compute_uv=False)[..., :3] ** 2
    monarch = Monarch(blocks_in=2, blocks_out=4, links=3).build(32, 24)
    assert fit.error(monarch) == pytest.approx(1 - kept.sum() / values.sum())


def test_a_sample_of_the_blocks_speaks_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = np.random.default_rng(0).standard_normal((128, 256)) * np.linspace(2, 0, 256)
    monarch = Monarch(blocks_in=8, blocks_out=8, links=2).build(256, 128)
    exact = Fit(lambda: (weight, None)).error(monarch)
    monkeypatch.setattr(fitting, "_WORK", 1e5)
    monkeypatch.setattr(fitting, "_SINGLE", 1e3)
    estimate = Fit(lambda: (weight * 1e25, None)).error(monarch)
    assert estimate != exact
    assert estimate == pytest.approx(exact, rel=0.1)


def test_few_rows_give_a_covariance_that_rounding_makes_negative() -> None:
    """Sums of float32 products of fewer rows than features, one direction far above the others."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(192, 192))
    batch = torch.randn(8, 192) + 300 * torch.randn(8, 1)
    sparse = sp.sparsify(model, (batch,), budget=0.5, init="project", calibration=[batch])
    assert torch.isfinite(sparse(batch)).all()


@pytest.mark.parametrize("has_covariance", [False, True])
def test_fit_knows_the_variants(has_covariance: bool) -> None:
    """A weight that a variant can have is told from the others, for inputs of any covariance."""
    rng = np.random.default_rng(0)
    fabric = Monarch(blocks_in=2, blocks_out=4, links=2).build(24, 32)
    covariance = np.cov(rng.standard_normal((24, 99)) * np.arange(1, 25)[:, None])
    for number, variant in enumerate(variants(fabric)):
        layer = sp.nn.FabricLinear(variant, bias=False, dtype=torch.float64)
        data = (layer.weight.detach().numpy(), covariance if has_covariance else None)
        fit = Fit(partial(tuple, data))
        errors = [fit.error(fabric, turned) for turned in turns(fabric)]
        assert errors[number] < 1e-12
        assert min(errors[:number] + errors[number + 1 :]) > 0.01


@pytest.mark.parametrize("bias", [True, False])
def test_error_of_the_plan_is_that_of_the_outputs(bias: bool) -> None:
    """With a bias, which takes over the mean, the error is relative to what varies."""
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(48, 64, bias=bias)), _coloured(400, 48)
    kwargs: dict[str, Any] = {"budget": 0.3, "init": "project", "calibration": list(x.split(100))}
    plan = sp.plan(model, (x[:2],), include=["0"], **kwargs)
    sparse = sp.sparsify(model, (x[:2],), include=["0"], **kwargs)
    moment = _shrunk(x, centred=bias)
    error = _expected_error(sparse[0].weight, model[0].weight, moment)
    assert plan.sites[0].error == pytest.approx(error, rel=1e-3)
    dense = functional.linear(x, model[0].weight)
    if bias:
        dense = dense - dense.mean(0)
    assert _relative(sparse(x) - model(x), dense) < plan.sites[0].error  # type: ignore[operator]
    plain = sp.plan(model, (x[:2],), include=["0"], budget=0.3, init="project")
    weight = sp.sparsify(model, (x[:2],), plan=plain, init="project")[0].weight
    error = _relative(weight - model[0].weight, model[0].weight)
    assert plain.sites[0].error == pytest.approx(error, rel=1e-4)
    assert plan.sites[0].error < plain.sites[0].error  # type: ignore[operator]


def test_a_convolution_is_fitted_to_its_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(32, 48, 3, padding=1, bias=False))
    x = torch.randn(6, 32, 8, 8, generator=_random()).cumsum(1) / 8
    kwargs: dict[str, Any] = {"budget": 0.3, "include": ["0"], "init": "project"}
    aware = sp.plan(model, (x[:2],), calibration=[x], **kwargs)
    sparse = sp.sparsify(model, (x[:2],), plan=aware, init="project", calibration=[x])
    plain = sp.sparsify(model, (x[:2],), **kwargs)
    patches = functional.unfold(x, 3, padding=1).transpose(1, 2).flatten(0, 1)
    weights = (part[0].weight.flatten(1) for part in (sparse, model))
    expected = _expected_error(*weights, _shrunk(patches))
    assert aware.sites[0].error == pytest.approx(expected, rel=1e-3)
    wanted = model(x)
    error = _relative(sparse(x) - wanted, wanted)
    assert error < 0.7 * _relative(plain(x) - wanted, wanted)


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(32, 32, 3, stride=2),
        nn.ConvTranspose1d(64, 64, 3, groups=2),
        nn.Conv1d(64, 64, 3, groups=2),
    ],
    ids=["transposed", "transposed, grouped", "grouped"],
)
def test_weights_of_every_kind_come_back(layer: Any) -> None:
    """A weight that a fabric can have is found again, in the layer's own order of axes."""
    model = nn.Sequential(layer)
    x = torch.randn(2, layer.in_channels, *[6] * len(layer.kernel_size))
    plan = sp.plan(model, (x,), include=["0"], budget=0.4, init="project")
    first = sp.sparsify(model, (x,), plan=plan, init="project")
    with torch.no_grad():
        layer.weight.copy_(first[0].weight)
    sparse = sp.sparsify(model, (x,), plan=plan, init="project", calibration=[x])
    assert _relative(sparse[0].weight - layer.weight, layer.weight) < 1e-8
    torch.testing.assert_close(sparse(x), model(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("rows", [64, 96, 128, 192, 256])
def test_calibration_helps_rows_that_it_has_not_seen(rows: int) -> None:
    """As many rows as features are the worst: what is fitted to them alone fits nothing else."""
    model = _net(96, 128, 96, 8)
    x = torch.randn(1500, 96, generator=_random(7))
    kwargs: dict[str, Any] = {"budget": 0.4, "init": "project"}
    plain = sp.sparsify(model, (x[:4],), **kwargs)
    seen = torch.randn(rows, 96, generator=_random(8))
    aware = sp.sparsify(model, (x[:4],), calibration=[seen], **kwargs)
    wanted = model(x)
    assert _relative(aware(x) - wanted, wanted) < _relative(plain(x) - wanted, wanted)


# --- the budget -----------------------------------------------------------------------------------


def test_budget_goes_where_the_error_falls_most() -> None:
    """One weight is nearly of rank 4, the other of full rank: equal shares would waste a half."""
    model = _net(64, 64, 64)
    with torch.no_grad():
        low = torch.randn(64, 4, generator=_random()) @ torch.randn(4, 64, generator=_random(1))
        model[0].weight.copy_(low / 8 + 1e-3 * torch.randn(64, 64, generator=_random(2)))
    plan = sp.plan(model, (torch.zeros(2, 64),), include=["0", "2"], budget=0.3, init="project")
    easy, hard = plan.sites
    assert easy.parameters < 0.5 * hard.parameters
    assert plan.density <= 0.3
    shares = [
        sp.plan(model, (torch.zeros(2, 64),), include=[name], budget=0.3, init="project")
        for name in ("0", "2")
    ]
    equal = sum(alone.replaced[0].error or 0.0 for alone in shares)
    assert (easy.error or 0.0) + (hard.error or 0.0) < 0.9 * equal


@pytest.mark.parametrize("budget", [0.15, 0.5, sp.Budget(flops=0.3), sp.Budget(0.4, 0.2)])
@pytest.mark.parametrize("topology", ["auto", "monarch", "clos"])
def test_no_budget_is_exceeded(budget: Any, topology: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(32, 64, 3, stride=2), nn.Flatten(), nn.Linear(64 * 9, 96), nn.Linear(96, 61)
    )
    names = ["0", "2", "3"]
    x = torch.randn(2, 32, 8, 8)
    plan = sp.plan(model, (x,), include=names, budget=budget, topology=topology, init="project")
    limit = sp.Budget(budget) if isinstance(budget, float) else budget
    assert plan.density <= (limit.parameters or 1)
    dense, kept = (sum(getattr(s, f) for s in plan.replaced) for f in ("dense_flops", "flops"))
    assert kept <= (limit.flops or 1) * dense
    assert all(0 < (site.error or 0) < 1 for site in plan.replaced)


def test_without_projection_a_plan_has_no_errors() -> None:
    plan = sp.plan(_net(64, 64, 64), budget=0.3)
    assert all(site.error is None for site in plan.sites)
    assert "error" not in str(plan)


def test_plan_shows_the_errors_and_keeps_them_in_json() -> None:
    model = _net(64, 64, 64)
    plan = sp.plan(model, budget=0.3, init="project")
    assert sp.Plan.from_json(plan.to_json()) == plan
    head, _, first = str(plan).splitlines()[:3]
    assert head.split()[5:] == ["error", "fabric", "or", "reason"]
    assert f"{plan.sites[0].error:.3g}" in first
    assert f"mean error {plan.sites[0].error:.3g}" in plan.summary()
    edited = plan.edit("0", fabric=sp.fabric("low_rank", 64, 64, rank=2))
    assert edited.sites[0].error is None
    with pytest.raises(ConfigError, match="error of site"):
        sp.Plan.from_json(plan.to_json().replace('"error": 0', '"error": -0', 1))


def test_a_rule_with_options_gets_its_error_too() -> None:
    rule = sp.Rule("0", topology="low_rank", options={"rank": 8})
    model = _net(64, 64, 64)
    plan = sp.plan(model, include=["0"], rules=[rule], init="project")
    values = torch.linalg.svdvals(model[0].weight.detach().double()).square()
    assert plan.sites[0].error == pytest.approx(float(values[8:].sum() / values.sum()))


# --- the flow -------------------------------------------------------------------------------------


def test_later_layers_make_up_for_earlier_ones() -> None:
    """Fitted to the inputs that they meet, they come nearer than fitted to the dense ones."""
    model, x = _net(64, 128, 128, 64), _coloured(512, 64)
    batches = list(x.split(128))
    plan = sp.plan(
        model, (x[:2],), budget=0.25, include=["0", "2", "4"], init="project", calibration=batches
    )
    program = run_passes(capture(model, (x[:2],)), ANALYSE)
    trained = trained_of(program, ["0", "2", "4"], as_batches(batches))
    alone = sp.sparsify(model, (x[:2],), plan=plan, init="project")
    with torch.no_grad():
        for name in ("0", "2", "4"):
            layer = alone.get_submodule(name)
            fabric: Any = layer.fabric
            for factor, value in zip(
                layer.factors,
                trained.project(name, fabric).factors,
                strict=True,  # type: ignore[arg-type]
            ):
                factor.copy_(torch.from_numpy(value))
    together = sp.sparsify(model, (x[:2],), plan=plan, init="project", calibration=batches)
    fresh = _coloured(512, 64)[256:]
    errors = [_relative(net(fresh) - model(fresh), model(fresh)) for net in (alone, together)]
    assert errors[1] < 0.8 * errors[0]


def test_composites_are_projected() -> None:
    torch.manual_seed(0)
    model = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0).eval()
    x = torch.randn(4, 8, 64)
    plan = sp.plan(model, (x,), budget=0.5, init="project", calibration=[(x,)])
    assert {site.name for site in plan.replaced} >= {"linear1", "linear2"}
    assert any("self_attn" in site.name for site in plan.replaced)
    sparse = sp.sparsify(model, (x,), budget=0.5, init="project", calibration=[{"src": x}])
    drawn = sp.sparsify(model, (x,), budget=0.5)
    wanted = model(x)
    near, far = (_relative(net.eval()(x) - wanted, wanted) for net in (sparse, drawn))
    assert near < 0.5 * far


def test_seeds_do_not_matter() -> None:
    model = _net(64, 64, 64)
    one, other = (sp.sparsify(model, init="project", budget=0.3, seed=seed) for seed in (0, 1))
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name])


def test_a_plan_with_errors_can_be_followed() -> None:
    model = _net(64, 64, 64)
    plan = sp.plan(model, budget=0.3, init="project")
    direct = sp.sparsify(model, budget=0.3, init="project")
    followed = sp.sparsify(model, plan=sp.Plan.from_json(plan.to_json()), init="project")
    for name, value in direct.state_dict().items():
        torch.testing.assert_close(value, followed.state_dict()[name])
    assert sp.sparsify(model, plan=plan)[0].fabric == plan.sites[0].fabric


class _Branch(nn.Module):
    """Looks at its data; one layer is for negative ones."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(32, 32), nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(x) if x.sum() > 0 else self.down(x)


def test_a_layer_that_is_never_called_is_projected_by_its_weight() -> None:
    model, x = _Branch(), torch.ones(2, 32)
    plan = sp.plan(
        model, (x,), include=["up", "down"], budget=0.5, init="project",
        calibration=[_coloured(64, 32).abs()],
    )  # fmt: skip
    reasons = {site.name: site.reason for site in plan.sites}
    assert "output" in reasons["up"]
    assert "weight" in reasons.get("down", "weight")


def test_mixed_precision() -> None:
    model = _net(64, 64, 64).bfloat16()
    model[2].float()

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = model

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.body[2](self.body[1](self.body[0](x)).float())
            return y

    x = torch.randn(8, 64).bfloat16()
    sparse = sp.sparsify(
        Mixed(), (x,), include=["body.0", "body.2"], budget=0.5, init="project", calibration=[x]
    )
    assert sparse.body[0].factors[0].dtype == torch.bfloat16
    assert sparse.body[2].factors[0].dtype == torch.float32
    assert torch.isfinite(sparse(x)).all()


# --- bad input ------------------------------------------------------------------------------------


def _bad_calls() -> Iterator[Any]:
    x = torch.randn(4, 64)
    for name, calibration, error, words in (
        ("a tensor", x, ConfigError, "into a list"),
        ("a dict", {"input": x}, ConfigError, "into a list"),
        ("a number", 3, ConfigError, "iterable of batches"),
        ("none at all", [], ConfigError, "no batch"),
        ("a spent generator", iter(()), ConfigError, "no batch"),
        ("a batch of text", [x, "x"], ConfigError, "Batch 1"),
        ("another width", [x, x[:, :5]], ConfigError, "batch 1"),
        ("another type", [x.long()], ConfigError, "batch 0"),
        ("another name", [{"nonsense": x}], ConfigError, "batch 0"),
        ("NaN", [x, x / 0 * 0], ModelError, "'0' has NaN or infinity in batch 1"),
        ("no rows", [x[:0]], ConfigError, "have no rows"),
        ("too large", [x * 1e30], ModelError, "'0' are so large that their squares overflow"),
    ):
        yield pytest.param(calibration, error, words, id=name)


@pytest.mark.parametrize(("calibration", "error", "words"), list(_bad_calls()))
def test_bad_calibration(calibration: Any, error: type[Exception], words: str) -> None:
    model = _net(64, 64, 64)
    with untouched(model), pytest.raises(error, match=words):
        sp.sparsify(
            model, (torch.zeros(2, 64),), budget=0.3, init="project", calibration=calibration
        )


def test_calibration_goes_with_projection() -> None:
    with pytest.raises(ConfigError, match="init"):
        sp.plan(_net(64, 64, 64), calibration=[torch.randn(2, 64)])


def test_weights_that_are_no_numbers() -> None:
    model = _net(64, 64, 64)
    plan = sp.plan(model, budget=0.3)
    with torch.no_grad():
        model[0].weight[3, 5] = float("nan")
    with pytest.raises(ModelError, match=r"'0' has NaN .*1 of 4096"):
        sp.plan(model, budget=0.3, init="project")
    with pytest.raises(ModelError, match="'0' has NaN"):
        sp.sparsify(model, plan=plan, init="project")
    with pytest.raises(ModelError, match="weight of '0' has NaN"):
        sp.sparsify(model, plan=plan, init="project", calibration=[torch.randn(2, 64)])


def test_a_model_without_values() -> None:
    with torch.device("meta"):
        model = _net(64, 64, 64)
    for call in (sp.plan, sp.sparsify):
        with pytest.raises(ModelError, match="meta device"):
            call(model, budget=0.3, init="project")  # type: ignore[operator]


# --- the command line -----------------------------------------------------------------------------

MODULE = """
import torch
from torch import nn

def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)), (torch.zeros(2, 64),)

def batches():
    yield from torch.randn(3, 16, 64, generator=torch.Generator().manual_seed(0)).split(1)

def nothing():
    return 1 / 0
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "calibrated_net.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    np.save("inputs.npy", np.random.default_rng(0).standard_normal((40, 64)))
    np.savez("named.npz", input=np.zeros((3, 64)) + np.arange(64))
    np.savez("uneven.npz", a=np.zeros((3, 64)), b=np.zeros((4, 64)))
    return tmp_path


def _run(*arguments: str) -> int:
    return main([*arguments, "--include", "0", "--include", "2", "--budget", "0.3", "-q"])


@pytest.mark.parametrize("spec", ["inputs.npy", "named.npz", "calibrated_net:batches"])
def test_convert_with_calibration(
    project: Path, capsys: pytest.CaptureFixture[str], spec: str
) -> None:
    options = ("--init", "project", "--calibration", spec)
    assert _run("convert", "calibrated_net:net", "--dry-run", *options) == 0
    dry = capsys.readouterr().out
    assert "output" in dry
    assert "mean error" in dry
    assert not list(project.glob("*.safetensors"))
    assert _run("convert", "calibrated_net:net", "-o", "m.safetensors", *options) == 0
    assert capsys.readouterr().out == dry
    assert (project / "m.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (("--calibration", "inputs.npy"), 2, "--init project"),
        (("--init", "project", "--calibration", "inputs.txt"), 2, ".npy"),
        (("--init", "project", "--calibration", "missing.npy"), 6, "missing.npy"),
        (("--init", "project", "--calibration", "uneven.npz"), 2, "a: 3, b: 4"),
        (("--init", "project", "--calibration", "calibrated_net:nothing"), 4, "ZeroDivision"),
        (("--init", "project", "--calibration", "calibrated_net:nowhere"), 2, "nowhere"),
        (
            (
                "--init",
                "projection",
            ),
            2,
            "project",
        ),
    ],
)
def test_bad_command_lines(
    project: Path, capsys: pytest.CaptureFixture[str], options: Any, code: int, words: str
) -> None:
    assert _run("convert", "calibrated_net:net", "-o", "m.safetensors", *options) == code
    assert words in capsys.readouterr().err
    assert not list(project.glob("*.safetensors"))
