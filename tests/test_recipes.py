"""Recipes for deep networks, against torch, sampling and the networks themselves."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

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
    ("depth", "similarity"), [(0, 0.9), (2.0, 0.9), (True, 0.9), (3, 0), (3, 1.0)]
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


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.Linear(64, 63), "splits pairs"),
        (sp.nn.FabricLinear(sp.fabric("random_regular", 64, 64, degree=4)), "not one cascade"),
        (
            sp.nn.FabricLinear(sp.fabric("block_diagonal", 64, 64, blocks=8, strided=True)),
            "in none of its stages",
        ),
        (nn.Conv2d(2, 2, 1), "takes Linear and FabricLinear"),
    ],
)
def test_mirror_says_what_cannot_hold_pairs(layer: nn.Linear, reason: str) -> None:
    good = nn.Linear(64, 64)
    before = good.weight.clone()
    with pytest.raises(ConfigError, match=reason):
        mirror_([good, layer])
    assert torch.equal(good.weight, before)  # nothing half done
