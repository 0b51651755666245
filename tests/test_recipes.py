"""Recipes for deep networks, against torch, sampling and the networks themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune

import sparsify as sp
from sparsify.errors import ConfigError
from sparsify.recipes import gain, mirror_, scale_residual_, tailored_slope


@pytest.mark.parametrize(
    ("activation", "name", "slope"),
    [
        (nn.Identity(), "linear", None),
        (torch.relu, "relu", None),
        (nn.LeakyReLU(0.2), "leaky_relu", 0.2),
        (nn.LeakyReLU(0.7), "leaky_relu", 0.7),
    ],
)
def test_gain_is_torchs_where_torch_has_one(
    activation: nn.Module, name: str, slope: float | None
) -> None:
    expected = nn.init.calculate_gain(name, slope)  # type: ignore[arg-type]
    assert gain(activation) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    "activation",
    [torch.tanh, functional.gelu, functional.silu, torch.sigmoid, functional.selu, torch.abs],
)
def test_gain_gives_unit_variance(activation: nn.Module) -> None:
    sample = torch.randn(2_000_000, generator=torch.Generator().manual_seed(0))
    assert (gain(activation) * activation(sample)).square().mean() == pytest.approx(1, rel=5e-3)


@pytest.mark.parametrize("activation", [lambda x: 0 * x, lambda x: x / 0])
def test_no_gain_of_nothing(activation: nn.Module) -> None:
    with pytest.raises(ConfigError, match="no gain makes that 1"):
        gain(activation)


@pytest.mark.parametrize("activation", ["tanh", None, nn.GELU, 3])
def test_gain_is_of_a_function(activation: object) -> None:
    with pytest.raises(ConfigError, match=r"must be a function of each number alone.*; got"):
        gain(activation)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "activation",
    [
        lambda z: z.sum(),
        lambda z: z - z.mean(),
        lambda z: z - z.min(),
        lambda z: z.cumsum(0),
        lambda z: z.flip(0),
        lambda z: functional.softmax(z, 0),
        lambda z: z[:10],
        lambda z: z.tolist(),
        nn.RReLU(),
        nn.Dropout(),
    ],
)
def test_gain_is_of_each_number_alone(activation: nn.Module) -> None:
    with pytest.raises(ConfigError, match="mixes numbers, changes their shape or draws at random"):
        gain(activation)


@pytest.mark.parametrize("activation", [math.tanh, nn.Linear(3, 5), nn.PReLU(7)])
def test_gain_says_why_an_activation_fails(activation: nn.Module) -> None:
    with pytest.raises(ConfigError, match="fails there: "):
        gain(activation)


@pytest.mark.parametrize("activation", [nn.PReLU(), nn.ReLU(inplace=True), nn.RReLU().eval()])
def test_gain_leaves_modules_as_they_are(activation: nn.Module) -> None:
    before = [(p.dtype, p.clone()) for p in activation.parameters()]
    slope = {"PReLU": 0.25, "ReLU": 0.0, "RReLU": (1 / 8 + 1 / 3) / 2}[type(activation).__name__]
    assert gain(activation) == pytest.approx(math.sqrt(2 / (1 + slope**2)), rel=1e-6)
    for parameter, (dtype, value) in zip(activation.parameters(), before, strict=True):
        assert parameter.dtype == dtype
        assert torch.equal(parameter, value)


def cosine_after(depth: int, slope: float) -> float:
    """What a wide network makes of two orthogonal inputs, a leaky ReLU taken as k x + m |x|."""
    linear, bend = ((1 + slope) / 2) ** 2, ((1 - slope) / 2) ** 2
    cosine = 0.0
    for _ in range(depth):
        moduli = 2 / math.pi * (math.sqrt(1 - cosine**2) + cosine * math.asin(cosine))
        cosine = (linear * cosine + bend * moduli) / (linear + bend)
    return cosine


@pytest.mark.parametrize(("depth", "similarity"), [(20, 0.9), (300, 0.9), (30, 0.6)])
def test_tailored_slope_keeps_inputs_apart(depth: int, similarity: float) -> None:
    assert cosine_after(depth, tailored_slope(depth, similarity)) == pytest.approx(similarity)


def test_wide_networks_do_what_the_slope_is_for() -> None:
    slope, width = tailored_slope(20), 1024
    random = torch.Generator().manual_seed(0)
    pair = torch.eye(2, width)
    for _ in range(20):
        weight = torch.randn(width, width, generator=random)
        pair = functional.leaky_relu(functional.normalize(pair, dim=1) @ weight.T, slope)
    assert functional.cosine_similarity(pair[0], pair[1], 0) == pytest.approx(0.9, abs=0.05)


def test_tailored_slope_grows_with_the_depth() -> None:
    slopes = [tailored_slope(depth) for depth in (1, 4, 16, 64, 256, 1024)]
    assert slopes == sorted(slopes)
    assert slopes[0] == 0
    assert 0.8 < slopes[-1] < 1


@pytest.mark.parametrize(
    ("depth", "similarity"),
    [(0, 0.9), (2.0, 0.9), (True, 0.9), (3, 0), (3, 1.0), (128, "x"), (3, None), (3, math.nan)],
)
def test_tailored_slope_is_told_what_makes_sense(depth: int, similarity: float) -> None:
    with pytest.raises(ConfigError, match="must"):
        tailored_slope(depth, similarity)


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


@pytest.mark.parametrize("topology", [None, "monarch", "parallel_butterfly"])
def test_scale_residual_shrinks_the_ends_alone(topology: str | None) -> None:
    model = nn.Sequential(*(Residual(64) for _ in range(9)))
    if topology:
        model = sp.sparsify(model, topology=topology, budget=0.75)
    x = torch.randn(5, 64)
    before = [(block.up(x), block.down(block.up(x))) for block in model]
    scale_residual_(model, "*.down")
    for block, (up, down) in zip(model, before, strict=True):
        assert torch.equal(block.up(x), up)
        assert torch.allclose(block.down(up), down / 3, atol=1e-6)


def test_scale_residual_takes_no_typo() -> None:
    model = nn.Sequential(Residual(4))
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ConfigError, match=r"ends='\*.dwon' takes no dense layer"):
        scale_residual_(model, "*.dwon")
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def conv1d(inputs: int, outputs: int) -> nn.Module:
    kind: type[nn.Module] = pytest.importorskip("transformers.pytorch_utils").Conv1D
    return kind(outputs, inputs)


class OwnForward(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


@pytest.mark.parametrize(
    ("make", "x"),
    [
        (lambda: conv1d(4, 6), torch.ones(2, 4)),
        (lambda: nn.Conv2d(4, 6, 3), torch.ones(2, 4, 5, 5)),
        (lambda: nn.ConvTranspose1d(4, 6, 3), torch.ones(2, 4, 5)),
        (lambda: nn.ConvTranspose3d(4, 6, 1), torch.ones(2, 4, 1, 1, 1)),
        (lambda: OwnForward(4, 6), torch.ones(2, 4)),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)), torch.ones(2, 4)),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Conv1d(4, 6, 3)), torch.ones(2, 4, 5)),
    ],
)
def test_scale_residual_scales_every_kind(make: Callable[[], nn.Module], x: Tensor) -> None:
    model = nn.ModuleList([make() for _ in range(4)])
    before = [layer(x) for layer in model]
    scale_residual_(model, "*")
    for layer, y in zip(model, before, strict=True):
        assert torch.allclose(layer(x), y / 2, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
def test_scale_residual_scales_through_the_old_weight_norm() -> None:
    model = nn.ModuleList([nn.utils.weight_norm(nn.Linear(4, 6)) for _ in range(4)])
    x = torch.randn(2, 4)
    before = [layer(x) for layer in model]
    scale_residual_(model, "*")
    for layer, y in zip(model, before, strict=True):
        assert torch.allclose(layer(x), y / 2, atol=1e-6)


def test_scale_residual_scales_each_tensor_once() -> None:
    layers = nn.ModuleList([nn.Linear(3, 3) for _ in range(4)])
    layers[1].weight = layers[0].weight
    layers[3].bias = layers[2].bias
    before = {name: p.clone() for name, p in layers.named_parameters()}
    scale_residual_(layers, nn.Linear)
    for name, parameter in layers.named_parameters():
        assert torch.allclose(parameter, before[name] / 2)


def test_scale_residual_counts_places() -> None:
    shared = nn.Linear(3, 3)
    before = shared.weight.clone()
    scale_residual_(nn.ModuleList([shared] * 4), "*")
    assert torch.allclose(shared.weight, before / 2)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.utils.parametrizations.spectral_norm(nn.Linear(3, 3)), "computed anew in each call"),
        (prune.identity(nn.Linear(3, 3), "bias"), "The bias of '1', a Linear, is computed"),
        (nn.LazyLinear(3), "has no shape yet; run the model once first"),
        (nn.Linear(3, 3, device="meta"), "is on the meta device"),
    ],
)
def test_scale_residual_scales_all_or_nothing(layer: nn.Module, reason: str) -> None:
    model = nn.ModuleList([nn.Linear(3, 3), layer])
    before = model[0].weight.clone()
    with pytest.raises(ConfigError, match=reason):
        scale_residual_(model, "*")
    assert torch.equal(model[0].weight, before)


@pytest.mark.parametrize("ends", [lambda name: True, lambda a, b, c: True])
def test_scale_residual_says_what_a_predicate_takes(ends: Callable[..., bool]) -> None:
    with pytest.raises(ConfigError, match=r"a function of \(name, module\); got <lambda>"):
        scale_residual_(nn.Sequential(nn.Linear(3, 3)), ends)


def test_scale_residual_takes_predicates() -> None:
    model = nn.Sequential(Residual(4), Residual(4))
    before = model[0].down.weight.clone()
    scale_residual_(model, lambda name, module: name.endswith("down") and module.bias is not None)
    assert torch.allclose(model[0].down.weight, before * 0.5**0.5)


FABRICS = {
    "monarch": sp.fabric("monarch", 64, 64, blocks=8),
    "monarch, uneven": sp.fabric("monarch", 64, 64, blocks_in=4, blocks_out=8),
    "clos": sp.fabric("clos", 64, 64, ingress=8, middle=8),
    "butterfly": sp.fabric("butterfly", 64, 64, radix=4),
    "radix 2": sp.fabric("butterfly", 64, 64, radix=2),
    "blocks": sp.fabric("block_diagonal", 64, 64, blocks=8),
}


def differences(net: nn.Module, x: Tensor) -> Tensor:
    features = net(x)
    return features[:, ::2] - features[:, 1::2]  # type: ignore[no-any-return]


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.GELU(), nn.SiLU()])
@pytest.mark.parametrize("name", [*FABRICS, "dense"])
def test_mirrored_networks_start_linear(name: str, activation: nn.Module) -> None:
    if name == "dense":
        layers: list[nn.Module] = [nn.Linear(64, 64) for _ in range(30)]
    else:
        layers = [sp.nn.FabricLinear(FABRICS[name]) for _ in range(30)]
    mirror_(layers, seed=1)  # type: ignore[arg-type]
    net = nn.Sequential(*(m for layer in layers for m in (layer, activation)))
    x, y = torch.randn(2, 5, 64)
    both = differences(net, x + 2 * y)
    assert torch.allclose(differences(net, x) + 2 * differences(net, y), both, atol=1e-4)
    if name != "monarch, uneven":  # its waist of 32 is half as wide once more
        after_one = differences(net[:2], x).norm(dim=1)
        assert torch.allclose(differences(net, x).norm(dim=1), after_one, rtol=1e-4)


def test_mirrored_weights_follow_from_the_seed() -> None:
    def factors(seed: int) -> list[Tensor]:
        layers = [sp.nn.FabricLinear(FABRICS["monarch"]) for _ in range(2)]
        mirror_(layers, seed)
        return [factor.detach() for layer in layers for factor in layer.factors]

    first, again, other = factors(0), factors(0), factors(1)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, other, strict=True))
    layers = [sp.nn.FabricLinear(FABRICS["monarch"])]
    state = torch.get_rng_state()
    mirror_(layers)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: nn.Linear(64, 63), "Layer 1, a Linear,.* splits pairs"),
        (
            lambda: sp.nn.FabricLinear(sp.fabric("random_regular", 64, 64, degree=4)),
            "Layer 1, a FabricLinear,.* not one cascade",
        ),
        (
            lambda: sp.nn.FabricLinear(sp.fabric("block_diagonal", 64, 64, blocks=8, strided=True)),
            "in none of its stages",
        ),
        (lambda: nn.Linear(32, 64), "Layer 1, a Linear, takes 32 features.* before gives 64"),
        (
            lambda: nn.utils.parametrizations.weight_norm(nn.Linear(64, 64)),
            "The weight of layer 1, a ParametrizedLinear, is computed anew in each call",
        ),
        (lambda: nn.utils.weight_norm(nn.Linear(64, 64)), "computed anew in each call"),
        (lambda: nn.Linear(64, 64, device="meta"), "meta device"),
        (lambda: nn.Conv2d(2, 2, 1), r"such as \[m for m in .*; got a Conv2d at index 1\."),
        (lambda: nn.ReLU(), "got a ReLU at index 1"),
    ],
)
def test_mirror_says_what_cannot_hold_pairs(make: Callable[[], nn.Linear], reason: str) -> None:
    good = nn.Linear(64, 64)
    before = good.weight.clone()
    with pytest.raises(ConfigError, match=reason):
        mirror_([good, make()])
    assert torch.equal(good.weight, before)  # nothing half done


@pytest.mark.parametrize(
    ("layers", "got"),
    [
        ([], "none"),
        (None, "a NoneType"),
        (sp.nn.FabricLinear, "a type"),
        (sp.nn.FabricLinear(FABRICS["monarch"]), "a FabricLinear"),
        (nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "a ReLU at index 1"),
    ],
)
def test_mirror_says_how_to_get_layers(layers: Any, got: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"such as \[m for m in .* without the head; got {got}\."
    ):
        mirror_(layers)


def test_mirror_takes_a_first_layer_of_its_own() -> None:
    first, shared = nn.Linear(64, 64), nn.Linear(64, 64)
    with pytest.raises(ConfigError, match="Layer 3, a Linear, shares its weight with the first"):
        mirror_([first, shared, shared, first])
    mirror_([first, shared, shared])
    net = nn.Sequential(first, nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU())
    x = torch.randn(5, 64)
    assert torch.allclose(differences(net, x), -differences(net, -x), atol=1e-5)


@pytest.mark.parametrize("seed", ["x", 1.5, None, True])
def test_mirror_takes_whole_seeds(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed must be a whole number; got"):
        mirror_([nn.Linear(4, 4)], seed)
