"""Initial weights: isometries, variances, depth, and where the random numbers come from."""

from __future__ import annotations

import hashlib
import math
import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import sparsify as sp
from sparsify.fabric import Fabric, GraphStage, Shuffle, Stage
from sparsify.init import INITS, dense_gain, generator, initialise
from tests.support.fabrics import dense_matrix

FAMILIES = sp.topologies()
SCHEMES = tuple(INITS)


def _factors(
    fabric: Fabric, scheme: str = "orthogonal", seed: int = 0, **options: Any
) -> list[Tensor]:
    factors = [torch.full(stage.shape, torch.nan, dtype=torch.float64) for stage in fabric.stages]
    initialise(factors, fabric, scheme, random=generator(seed, "site"), **options)
    return factors


def _matrix(fabric: Fabric, scheme: str = "orthogonal", seed: int = 0, **options: Any) -> Tensor:
    return torch.from_numpy(dense_matrix(fabric, _factors(fabric, scheme, seed, **options)))


# --- isometries (THEORY.md 3b, and 10 of section 6) ------------------------------------------

ISOMETRIES = [
    sp.fabric("butterfly", 64, 64, radix=2),
    sp.fabric("butterfly", 64, 64, radix=4),
    sp.fabric("monarch", 64, 64, blocks=8),
    sp.fabric("clos", 64, 64, ingress=8, middle=8),
    sp.fabric("block_diagonal", 64, 64, blocks=8),
    sp.fabric("block_diagonal", 64, 32, blocks=8, strided=True),
    sp.fabric("monarch", 36, 24, blocks_in=4, blocks_out=6),  # through 24
    sp.fabric("monarch", 36, 24, blocks=6),  # through 36
    sp.fabric("monarch", 50, 60, blocks_in=5, blocks_out=10),  # through 50
    sp.fabric("low_rank", 64, 48, rank=48),
    sp.fabric("butterfly", 96, 24, radices=(2, 3, 4)),
    sp.fabric("butterfly", 24, 96, radices=(4, 3, 2)),
    Fabric(64, 64, ((Shuffle(64, seed=3), Stage(8, 8, 8, 1), Shuffle(64, stride=8)),)),
]


@pytest.mark.parametrize("fabric", ISOMETRIES, ids=str)
@pytest.mark.parametrize("gain", [1.0, 0.577])
def test_monotone_cascades_are_isometries(fabric: Fabric, gain: float) -> None:
    values = torch.linalg.svdvals(_matrix(fabric, gain=gain))
    # A cascade that widens keeps the variance per feature, so its singular values are larger.
    scale = gain * max(1.0, math.sqrt(fabric.out_features / fabric.in_features))
    torch.testing.assert_close(values, torch.full_like(values, scale), rtol=1e-6, atol=0)


def test_a_clos_that_expands_first_keeps_the_variance_only() -> None:
    values = torch.linalg.svdvals(_matrix(sp.fabric("clos", 64, 64, ingress=8, middle=16)))
    assert values.square().mean() == pytest.approx(1, rel=0.1)
    assert values.min() < 0.2
    assert values.max() > 1.3


def test_a_bottleneck_has_its_rank() -> None:
    values = torch.linalg.svdvals(_matrix(sp.fabric("clos", 64, 64, ingress=8, middle=4)))
    assert torch.allclose(values[:32], torch.tensor(math.sqrt(2), dtype=torch.float64))
    assert (values[32:] < 1e-9).all()


def test_the_sum_of_two_isometries() -> None:
    branch = (Stage(8, 8, 8, 1), Stage(1, 8, 8, 8))
    fabric = Fabric(64, 64, (branch, branch))
    values = torch.stack([torch.linalg.svdvals(_matrix(fabric, seed=seed)) for seed in range(20)])
    assert values.pow(2).mean() == pytest.approx(1, rel=0.05)
    assert values.pow(4).mean() == pytest.approx(1.5, rel=0.05)
    assert 1.38 < values.max() <= math.sqrt(2) + 1e-9


@pytest.mark.parametrize("sizes", [(16, 16), (16, 32)])
def test_centred_convolutions_keep_the_norm(sizes: tuple[int, int]) -> None:
    layer = sp.nn.FabricConv2d(
        sp.fabric("monarch", *sizes, blocks=4), 3, padding=1, bias=False, dtype=torch.float64
    )
    initialise(layer.factors, layer.fabric, random=generator(0, "conv"), centred=True)
    x = torch.randn(2, 16, 9, 9, generator=generator(1, "x"), dtype=torch.float64)
    ratio = layer(x).norm() / x.norm()
    assert ratio.item() == pytest.approx(math.sqrt(sizes[1] / sizes[0]), rel=1e-9)


def test_blocks_are_haar_distributed() -> None:
    fabric = Fabric(2000, 2000, ((Stage(1000, 2, 2, 1),),))
    (blocks,) = _factors(fabric)
    angles = torch.atan2(blocks[:, 0, 1, 0], blocks[:, 0, 0, 0])
    counts = torch.histc(angles, bins=8, min=-math.pi, max=math.pi)
    assert (counts - 125).abs().max() < 45, "rotations should be uniform"
    signs = torch.linalg.det(blocks[:, 0])
    assert abs(signs.sum()) < 120, "as many reflections as rotations"


# --- variances ---------------------------------------------------------------------------------

SIZES = [
    (32, 32), (64, 64), (64, 256), (256, 64), (96, 48), (48, 96), (61, 61), (61, 67), (67, 61),
    (127, 127), (131, 64), (64, 131), (33, 255), (255, 33), (100, 100), (81, 243), (40, 37),
    (128, 384), (384, 128), (113, 229),
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", FAMILIES)
def test_variance_is_that_of_the_dense_layer(family: str, scheme: str) -> None:
    for inputs, outputs in SIZES:
        fabric = sp.fabric(family, inputs, outputs, budget=0.45)
        draws = torch.stack([_matrix(fabric, scheme, seed, gain=0.6) for seed in range(16)])
        power = draws.square()
        if scheme == "orthogonal":
            assert power[0].sum() / outputs == pytest.approx(0.36, rel=0.1), fabric
        assert power.sum() / len(draws) / outputs == pytest.approx(0.36, rel=0.1), fabric
        # Each output has the variance, folded or not; each input gets the gradient of a dense one.
        rows, columns = power.sum(2).mean(0), power.sum(1).mean(0)
        folded = max(branch[-1].out_features for branch in fabric.branches) - outputs
        if 8 <= folded <= outputs - 8:
            assert rows[:folded].mean() / rows[folded:].mean() == pytest.approx(1, abs=0.3), fabric
        assert columns.mean() == pytest.approx(0.36 * outputs / inputs, rel=0.1), fabric
        assert columns.min() > 0, fabric


@pytest.mark.parametrize("scheme", SCHEMES)
def test_branches_and_shuffles_share_the_variance(scheme: str) -> None:
    wide = Fabric(
        61,
        67,
        (
            (Stage(8, 8, 8, 1), Shuffle(64, seed=1), Stage(1, 9, 8, 8), Shuffle(72, seed=2)),
            (GraphStage("random", 64, 72, 8), Shuffle(72, seed=3)),
            (Shuffle(66, stride=11), Stage(6, 12, 11, 1)),
            (Stage(1, 16, 61, 1), Stage(1, 67, 16, 1)),
        ),
    )
    power = torch.stack([_matrix(wide, scheme, seed, gain=2.0) for seed in range(200)]).square()
    rows = power.sum(2).mean(0)
    assert rows.mean() == pytest.approx(4, rel=0.05)
    assert rows.min() > 3
    assert rows.max() < 5


GRAPHS = {
    "random": GraphStage("random", 64, 64, 8, seed=1),
    "of two": GraphStage("random", 64, 64, 2, seed=1),
    "permutation": GraphStage("random", 64, 64, 1, seed=1),
    "full": GraphStage("random", 64, 64, 64, seed=1),
    "wider": GraphStage("random", 64, 256, 8, seed=1),
    "narrower": GraphStage("random", 256, 64, 16, seed=1),
    "hypercube": GraphStage("hypercube", 64, 128, 6),
    "large": GraphStage("random", 2048, 1024, 32, seed=1),
    "spatial": GraphStage("random", 64, 48, 16, seed=1, kernel=(3, 3)),
}


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_rows_of_graphs_have_unit_length(name: str, centred: bool) -> None:
    stage = GRAPHS[name]
    fabric = Fabric(stage.in_features, stage.out_features, ((stage,),))
    (weight,) = _factors(fabric, gain=0.6, centred=centred)
    assert weight.isfinite().all()
    power = weight.square().flatten(1).sum(1)
    torch.testing.assert_close(power, torch.full_like(power, 0.36))
    dense = torch.from_numpy(dense_matrix(fabric, [weight])).square().sum(-2)
    columns = dense / 0.36 * stage.in_features / stage.out_features
    if stage.kernel and centred:
        assert columns[[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, 2, 0, 2, 0, 1, 2]].abs().max() == 0
        columns = columns[1, 1]
    elif stage.kernel:
        columns = columns * stage.taps
    if stage.degree > 2:
        assert columns.min() > 0.8
        assert columns.max() < 1.2


@pytest.mark.parametrize("name", [name for name in GRAPHS if GRAPHS[name].degree < 32])
def test_graphs_are_more_orthogonal_than_at_random(name: str) -> None:
    """Singular values differ less; those of a permutation not at all."""
    stage = GRAPHS[name]
    fabric = Fabric(stage.in_features, stage.out_features, ((stage,),))

    def spread(scheme: str) -> float:
        matrix = dense_matrix(fabric, _factors(fabric, scheme, centred=False))
        values = torch.linalg.svdvals(torch.from_numpy(matrix).movedim(-2, 0).flatten(1))
        return (values.std() / values.square().mean().sqrt()).item()

    assert spread("orthogonal") < (1e-6 if stage.degree == 1 else 0.75 * spread("variance"))


CONVOLUTIONS: dict[str, Any] = {
    "1d": lambda: (nn.Conv1d(48, 64, 5), (48, 400)),
    "2d": lambda: (nn.Conv2d(48, 64, 3), (48, 20, 20)),
    "2d strided": lambda: (nn.Conv2d(48, 64, 3, stride=2), (48, 41, 41)),
    "2d even": lambda: (nn.Conv2d(48, 64, 2, stride=2), (48, 40, 40)),
    "2d patches": lambda: (nn.Conv2d(48, 64, 4, stride=4), (48, 80, 80)),
    "2d grouped": lambda: (nn.Conv2d(128, 128, 3, groups=4), (128, 20, 20)),
    "2d of odd channels": lambda: (nn.Conv2d(47, 67, 3, dilation=2), (47, 20, 20)),
    "1x1": lambda: (nn.Conv2d(48, 64, 1, stride=2), (48, 40, 40)),
    "3d": lambda: (nn.Conv3d(48, 64, 3), (48, 9, 9, 9)),
}


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_variance(name: str, scheme: str) -> None:
    torch.manual_seed(0)
    module, shape = CONVOLUTIONS[name]()
    x = torch.randn(4, *shape)
    with torch.no_grad():
        module.bias.zero_()
        dense = module(x).var()
        shares = []
        for seed in range(3):
            sparse = sp.sparsify(module, (x,), budget=0.45, init=scheme, seed=seed)
            shares.append((sparse(x).var() / dense).item())
    assert sum(shares) / len(shares) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("scale", [0.02, 1.0, 5.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_scale_of_the_dense_weight_is_kept(scale: float, scheme: str) -> None:
    torch.manual_seed(0)
    model = nn.Linear(256, 256)
    with torch.no_grad():
        model.weight.normal_(0, scale)
        model.bias.zero_()
    x = torch.randn(500, 256)
    sparse = sp.sparsify(model, (x,), budget=0.2, init=scheme)
    assert (sparse(x).var() / model(x).var()).item() == pytest.approx(1, abs=0.1)
    assert torch.equal(sparse.bias, model.bias)


@pytest.mark.parametrize(
    ("weight", "fan_in", "gain"),
    [
        (None, 64, 1 / math.sqrt(3)),
        (torch.empty(3, 4, device="meta"), 4, 1 / math.sqrt(3)),
        (torch.zeros(3, 4), 4, 0.0),
        (torch.ones(3, 4), 4, 2.0),
        (torch.ones(3, 2, 5, 5, dtype=torch.bfloat16), 50, math.sqrt(50)),
    ],
)
def test_dense_gain(weight: Tensor | None, fan_in: int, gain: float) -> None:
    assert dense_gain(weight, fan_in) == pytest.approx(gain)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_broken_dense_weight_gives_the_default_scale(value: float) -> None:
    model = nn.Linear(64, 64)
    with torch.no_grad():
        model.weight[0, 0] = value
    weight = sp.sparsify(model, budget=0.4).weight
    assert weight.square().sum().item() == pytest.approx(64 / 3, rel=1e-4)


# --- depth (THEORY.md 3a, 3c; 10 of section 6) ------------------------------------------------


def _signal(weights: Sequence[Tensor], seed: int = 0) -> float:
    """What is left of the mean square of a white input behind these layers, tanh after each."""
    x = torch.randn(500, 64, generator=generator(seed, "x"), dtype=torch.float64)
    y = x
    for weight in weights:
        y = torch.tanh(y @ weight.T)
    return (y.square().mean() / x.square().mean()).item()


def test_torchs_default_per_factor_kills_the_signal() -> None:
    fabric = sp.fabric("monarch", 64, 64, blocks=8)
    random = generator(0, "default")
    layers = []
    for _ in range(32):
        factors = [torch.empty(stage.shape, dtype=torch.float64) for stage in fabric.stages]
        for factor in factors:
            bound = 1 / math.sqrt(factor.shape[3])
            factor.uniform_(-bound, bound, generator=random)
        layers.append(torch.from_numpy(dense_matrix(fabric, factors)))
    assert 9.0**-32 / 30 < _signal(layers) < 9.0**-32 * 30
    ours = [_matrix(fabric, seed=seed) for seed in range(32)]
    assert 0.01 < _signal(ours) < 0.03, "0.0184 in THEORY.md"


@pytest.mark.parametrize("depth", [4, 32, 256])
def test_linear_nets_of_any_depth_are_isometries_both_ways(depth: int) -> None:
    fabric = sp.fabric("monarch", 64, 64, blocks=8)
    x = torch.randn(7, 64, generator=generator(0, "x"), dtype=torch.float64, requires_grad=True)
    y = x
    for seed in range(depth):
        y = y @ _matrix(fabric, seed=seed).T
    (gradient,) = torch.autograd.grad(y, x, x.detach())
    torch.testing.assert_close(y.norm(dim=1), x.norm(dim=1))
    torch.testing.assert_close(gradient.norm(dim=1), x.norm(dim=1))


# --- randomness ---------------------------------------------------------------------------------


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def _model(order: Sequence[str] = ("a", "b", "c")) -> nn.Module:
    """Layers of constant weights, defined in any order."""
    sizes = {"a": (96, 64), "b": (64, 61), "c": (61, 320)}
    model = nn.Module()
    for name in order:
        layer = nn.Linear(*sizes[name])
        nn.init.constant_(layer.weight, 0.1)
        nn.init.zeros_(layer.bias)
        model.add_module(name, layer)
    return model


SCRIPT = """
import torch
torch.set_num_threads({threads})
import sparsify as sp
from tests.test_init import _digest, _model
for init in {schemes}:
    print(_digest(sp.sparsify(_model(), init=init, budget=0.3, seed=3, include=["a", "b", "c"])))
torch.manual_seed(0)
large = torch.nn.Linear(1024, 1024)
print(_digest(sp.sparsify(large, topology="low_rank", budget=0.5, seed=3)))
"""


def test_the_same_bits_in_other_processes() -> None:
    outputs = set()
    for threads, hash_seed in ((1, "0"), (2, "4711")):
        script = SCRIPT.format(threads=threads, schemes=SCHEMES)
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        environment.pop("OMP_NUM_THREADS", None)
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        outputs.add(run.stdout)
    assert len(outputs) == 1
    here = [
        _digest(sp.sparsify(_model(), init=init, budget=0.3, seed=3, include=["a", "b", "c"]))
        for init in SCHEMES
    ]
    assert outputs.pop().split()[: len(here)] == here


def test_the_same_bits_with_more_threads() -> None:
    fabric = sp.fabric("low_rank", 512, 512, rank=128)
    alone = _factors(fabric)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        together = _factors(fabric)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))


def test_numbers_depend_on_seed_and_name_alone() -> None:
    plan = sp.plan(_model(), budget=0.3, include=["a", "b", "c"])
    first = sp.sparsify(_model(), plan=plan)
    torch.rand(7)
    _assert_equal(sp.sparsify(_model("cab"), plan=plan).state_dict(), first.state_dict())
    without = sp.sparsify(_model(), plan=plan.edit("b", fabric=None))
    for name in "ac":
        theirs = without.get_submodule(name).state_dict()
        _assert_equal(theirs, first.get_submodule(name).state_dict())
    other_seed = sp.sparsify(_model(), plan=plan, seed=1)
    assert not torch.equal(first.a.factors[0], other_seed.a.factors[0])
    twins = sp.sparsify(nn.Sequential(*[nn.Linear(64, 64) for _ in range(3)]), budget=0.3)
    assert not torch.equal(twins[0].factors[0], twins[1].factors[0])


def _assert_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize(
    ("seed", "name"), [(0, ""), (-1, "a"), (2**70, "a.b"), (0, "ä"), (1, "0:a")]
)
def test_generators_are_pinned_by_seed_and_name(seed: int, name: str) -> None:
    expected = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    number = int.from_bytes(expected[:8], "little") >> 1
    assert generator(seed, name).initial_seed() == number
    assert generator(seed, name).device.type == "cpu"


def test_global_randomness_is_not_used(untouched: Any) -> None:
    model = _model()
    with untouched(model):
        for scheme in SCHEMES:
            sp.sparsify(model, budget=0.3, init=scheme)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_other_dtypes_get_the_same_numbers_rounded(dtype: torch.dtype) -> None:
    fabric = sp.fabric("monarch", 64, 64, blocks=8)
    rounded = [torch.empty(stage.shape, dtype=dtype) for stage in fabric.stages]
    initialise(rounded, fabric, random=generator(0, "site"))
    for factor, exact in zip(rounded, _factors(fabric), strict=True):
        assert torch.equal(factor, exact.to(dtype))


def test_unknown_scheme() -> None:
    with pytest.raises(sp.ConfigError, match=r"no init 'ortogonal'.*Did you mean 'orthogonal'"):
        sp.sparsify(nn.Linear(64, 64), init="ortogonal")
    with pytest.raises(sp.ConfigError, match="Did you mean 'variance'"):
        _factors(sp.fabric("low_rank", 4, 4, rank=1), "varianc")


@pytest.mark.parametrize("seed", [0.5, "1", None, True])
def test_bad_seeds(seed: Any) -> None:
    with pytest.raises(sp.ConfigError, match="seed must be a whole number"):
        sp.sparsify(nn.Linear(64, 64), seed=seed)
