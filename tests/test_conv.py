"""Convolutions in models: any geometry, groups, and weights that a layer computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils import spectral_norm as old_spectral_norm

import sparsify as sp
from sparsify.nn import FabricLayer, effective_weight, held_to, norm_parameters

TABLE: dict[str, tuple[type[nn.Module], int, int, int | tuple[int, ...], dict[str, Any]]] = {
    "3 x 3": (nn.Conv2d, 64, 64, 3, {"padding": 1}),
    "1 x 1": (nn.Conv2d, 64, 128, 1, {}),
    "1 x 1, strided": (nn.Conv2d, 128, 64, 1, {"stride": 2, "bias": False}),
    "strided": (nn.Conv2d, 64, 128, 3, {"stride": 2, "padding": 1}),
    "patches": (nn.Conv2d, 64, 96, 4, {"stride": 4}),
    "dilated": (nn.Conv2d, 64, 64, 3, {"padding": 2, "dilation": 2}),
    "dilated and strided": (nn.Conv2d, 96, 64, 3, {"stride": 2, "dilation": (2, 3)}),
    "same": (nn.Conv2d, 64, 64, 5, {"padding": "same"}),
    "same, even": (nn.Conv2d, 64, 64, 4, {"padding": "same", "dilation": 2}),
    "valid": (nn.Conv2d, 61, 67, 3, {"padding": "valid"}),
    "grouped": (nn.Conv2d, 128, 128, 3, {"groups": 4, "padding": 1}),
    "grouped, wider": (nn.Conv2d, 64, 256, 3, {"groups": 2, "stride": 2}),
    "grouped, dilated, 1 x 1": (nn.Conv2d, 128, 64, 1, {"groups": 2, "dilation": 3}),
    "reflected": (nn.Conv2d, 64, 64, 3, {"padding": 2, "padding_mode": "reflect"}),
    "replicated": (nn.Conv2d, 64, 64, 3, {"padding": "same", "padding_mode": "replicate"}),
    "circular": (nn.Conv2d, 64, 64, (3, 5), {"padding": (1, 2), "padding_mode": "circular"}),
    "1d": (nn.Conv1d, 96, 64, 7, {"padding": 3, "stride": 2}),
    "1d, long and grouped": (nn.Conv1d, 128, 128, 16, {"padding": 8, "groups": 2}),
    "3d": (nn.Conv3d, 64, 64, (1, 3, 3), {"padding": (0, 1, 1), "stride": (1, 2, 2)}),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("name", TABLE)
def test_it_is_the_dense_one_with_its_weight(name: str) -> None:
    cls, inputs, outputs, kernel, geometry = TABLE[name]
    rank = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[cls]
    torch.manual_seed(0)
    module = cls(inputs, outputs, kernel, **geometry).double()
    x = torch.randn(3, inputs, *(14, 15, 6)[:rank], dtype=torch.float64)
    sparse: Any = sp.sparsify(module, x, budget=0.4, include=["*"])
    assert isinstance(sparse, FabricLayer)
    assert sparse.fabric.parameters <= 0.4 * module.weight.numel()
    assert sparse.weight.shape == module.weight.shape
    twin = copy.deepcopy(module)
    twin.load_state_dict(
        {
            "weight": sparse.weight.detach(),
            **({"bias": sparse.bias} if geometry.get("bias", 1) else {}),
        }
    )
    y, expected = sparse(x), twin(x)
    assert torch.allclose(y, expected, rtol=1e-9, atol=1e-9)
    upstream = torch.randn_like(y)
    (wanted,) = torch.autograd.grad(expected, twin.weight, upstream)
    direct = torch.autograd.grad(y, list(sparse.factors), upstream)
    through = torch.autograd.grad(sparse.weight, list(sparse.factors), wanted)
    for one, other in zip(direct, through, strict=True):
        assert torch.allclose(one, other, rtol=1e-8, atol=1e-8)


def test_depthwise_convolutions_are_left_alone() -> None:
    body = [
        nn.Conv2d(64, 64, 3, groups=64),
        nn.Conv2d(64, 128, 3, groups=64),
        nn.Conv2d(128, 64, 1),
    ]
    up = nn.ConvTranspose2d(64, 64, 2, 2, groups=64)
    model = nn.Sequential(*body, up, nn.Conv2d(64, 3, 1))
    reasons = {s.name: s.reason for s in sp.plan(model, torch.zeros(2, 64, 9, 9)).sites}
    assert [reasons[name] for name in ("0", "1", "3")] == ["depthwise"] * 3


# --- weights that a layer computes --------------------------------------------------------------


class Doubled(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


def _old(norm: Callable[..., nn.Module], module: nn.Module, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return norm(module, **options)


def _conv(**options: Any) -> nn.Conv1d:
    return nn.Conv1d(64, 64, 3, **options)


def _twice_normed() -> nn.Module:
    module = parametrizations.weight_norm(_conv())
    parametrize.register_parametrization(module, "weight", Doubled())
    return module


NORMED: dict[str, Callable[[], nn.Module]] = {
    "new": lambda: parametrizations.weight_norm(_conv()),
    "new, over the last axis": lambda: parametrizations.weight_norm(_conv(bias=False), dim=2),
    "old": lambda: _old(nn.utils.weight_norm, _conv()),
    "linear": lambda: parametrizations.weight_norm(nn.Linear(64, 64)),
    "transposed": lambda: parametrizations.weight_norm(nn.ConvTranspose1d(64, 64, 2, 2), dim=1),
}
HELD: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "spectral": (
        lambda: parametrizations.spectral_norm(_conv()),
        "its weight is held by spectral_norm, which bounds its gain; to convert it: "
        "torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')",
    ),
    "orthogonal": (
        lambda: parametrizations.orthogonal(nn.Conv1d(64, 64, 1)),
        "its weight is held by orthogonal, which keeps its columns at right angles; to convert "
        "it: torch.nn.utils.parametrize.remove_parametrizations(layer, 'weight')",
    ),
    "unknown": (_twice_normed, "its weight is held by the parametrization"),
    "of the bias": (
        lambda: parametrize.register_parametrization(_conv(), "bias", Doubled()),
        "its bias is held by the parametrization Doubled; to convert it: "
        "torch.nn.utils.parametrize.remove_parametrizations(layer, 'bias')",
    ),
    "old spectral": (
        lambda: old_spectral_norm(_conv()),
        "its weight is held by spectral_norm, which bounds its gain; to convert it: "
        "torch.nn.utils.remove_spectral_norm(layer)",
    ),
    "pruned": (
        lambda: prune.l1_unstructured(_conv(), "weight", amount=0.5),
        "its weight is pruned; to convert it: torch.nn.utils.prune.remove(layer, 'weight')",
    ),
    "pruned bias": (
        lambda: prune.l1_unstructured(_conv(), "bias", amount=0.5),
        "its bias is pruned; to convert it: torch.nn.utils.prune.remove(layer, 'bias')",
    ),
    "two old norms": (
        lambda: _old(nn.utils.weight_norm, _old(nn.utils.weight_norm, _conv()), name="bias"),
        "it holds more than one weight norm",
    ),
}


def _model(layer: nn.Module) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(1)
    if isinstance(layer, nn.Linear):
        return nn.Sequential(layer, nn.ReLU(), nn.Linear(64, 5)), torch.randn(40, 64)
    return nn.Sequential(layer, nn.ReLU(), nn.Conv1d(64, 5, 1)), torch.randn(4, 64, 20)


@pytest.mark.parametrize("name", NORMED)
@pytest.mark.parametrize("recorded", [True, False])
def test_weight_norm_goes_and_the_gain_stays(name: str, recorded: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = NORMED[name]()
    length, direction = norm_parameters(layer)
    with torch.no_grad():
        layer.get_parameter(length).mul_(3)  # what an old hook left in `weight` does not know it
    layer.get_parameter(direction).requires_grad_(False)
    model, x = _model(layer)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    plan = sp.plan(model, x if recorded else None, budget=0.4)
    site = plan.sites[0]
    assert [s.name for s in plan.sites] == ["0", "2"]
    assert site.decision == "replace"
    assert site.reason.startswith("its weight_norm goes; best of ")
    sparse: Any = sp.sparsify(model, x if recorded else None, budget=0.4)
    assert isinstance(sparse[0], FabricLayer)
    assert not sparse[0]._forward_pre_hooks
    assert {key.split(".")[1] for key in sparse.state_dict() if key[0] == "0"} <= {
        "factors",
        "bias",
    }
    assert not any(factor.requires_grad for factor in sparse[0].factors)
    wide = torch.randn(256, *x.shape[1:])
    with torch.no_grad():
        weights = [(effective_weight(model[0]), model[0]), (sparse[0].weight, sparse[0])]
        outputs = []
        for weight, module in weights:
            assert weight.shape == sparse[0].weight.shape
            outputs.append(module(wide) - module(torch.zeros_like(wide)))
    assert outputs[1].var().item() == pytest.approx(outputs[0].var().item(), rel=0.1)
    after = model.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    sp.save(sparse, tmp_path / "m.safetensors")
    for skeleton in (_model(NORMED[name]())[0], _model(NORMED[name]().to("meta"))[0]):
        loaded = sp.load(tmp_path / "m.safetensors", model=skeleton, device="cpu")
        assert torch.equal(loaded(x), sparse(x))


@pytest.mark.parametrize("name", HELD)
@pytest.mark.parametrize("recorded", [True, False])
def test_other_computed_weights_stay(name: str, recorded: bool) -> None:
    make, reason = HELD[name]
    layer = make()
    assert held_to(layer).startswith(reason)
    assert norm_parameters(layer) == ()
    model, x = _model(layer)
    (site, _) = sp.plan(model, x if recorded else None, budget=0.4).sites
    assert (site.name, site.decision) == ("0", "keep")
    assert site.reason.startswith(reason)


def test_following_the_advice_converts_it() -> None:
    layer = parametrizations.spectral_norm(_conv())
    parametrize.remove_parametrizations(layer, "weight")
    model, x = _model(layer)
    assert isinstance(sp.sparsify(model, x, budget=0.4)[0], FabricLayer)  # type: ignore[index]


def test_a_normed_weight_that_others_read_stays() -> None:
    class Reads(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.layer, self.name = parametrizations.weight_norm(nn.Linear(64, 64)), name
            self.head = nn.Linear(64, 3)

        def forward(self, x: Tensor) -> Tensor:
            other: Any = self.layer
            for part in self.name.split("."):
                other = getattr(other, part)
            y: Tensor = self.head(self.layer(x) * other.sum())
            return y

    for name in ("weight", "parametrizations.weight.original1"):
        site = sp.plan(Reads(name), torch.zeros(2, 64), budget=0.4).sites[0]
        assert (site.name, site.decision) == ("layer", "keep")
        assert "also read by" in site.reason


def test_a_normed_direction_that_is_tied_stays() -> None:
    first, second = (parametrizations.weight_norm(nn.Linear(64, 64)) for _ in range(2))
    second.parametrizations.weight.original1 = first.parametrizations.weight.original1  # type: ignore
    model = nn.Sequential(first, second, nn.Linear(64, 3))
    sites = {site.name: site for site in sp.plan(model, torch.zeros(2, 64), budget=0.4).sites}
    assert sites["0"].reason.startswith("tied to 1.parametrizations.weight.original1")
    assert sites["1"].decision == "keep"


def test_positional_convolution_of_wav2vec2() -> None:
    """Grouped, 128 taps, weight-normed over the taps."""
    transformers = pytest.importorskip("transformers")
    from transformers.models.wav2vec2 import modeling_wav2vec2 as wav2vec2

    config = transformers.Wav2Vec2Config(hidden_size=256, num_conv_pos_embedding_groups=4)
    model = wav2vec2.Wav2Vec2PositionalConvEmbedding(config).eval()
    x = torch.randn(2, 50, 256)
    (site,) = sp.plan(model, x, budget=0.25).sites
    assert (site.kernel, site.groups) == ((128,), 4)
    sparse = sp.sparsify(model, x, budget=0.25).eval()
    assert isinstance(sparse.conv, sp.nn.FabricConv1d)
    assert sparse(x).shape == model(x).shape
    sparse(x).sum().backward()
    assert all(p.grad is not None for p in sparse.parameters())
