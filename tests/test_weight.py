"""Modules that stand for raw parameters: products call the layer, all else sees dense values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import sparsify as sp
from sparsify.nn import DenseWeight, FabricWeight

FABRIC = sp.fabric("monarch", 8, 12, blocks=2)
KINDS = [(kind, flipped) for kind in ("dense", "fabric") for flipped in (False, True)]


def _weight(kind: str, flipped: bool) -> Any:
    torch.manual_seed(0)
    if kind == "fabric":
        return FabricWeight(FABRIC, flipped)
    return DenseWeight(nn.Parameter(torch.randn((8, 12) if flipped else (12, 8))), flipped)


@pytest.mark.parametrize(("kind", "flipped"), KINDS)
def test_products_call_the_layer(kind: str, flipped: bool) -> None:
    weight = _weight(kind, flipped)
    calls: list[int] = []
    weight.register_forward_hook(lambda *_: calls.append(1))
    values = weight.weight.detach()
    x, bias = torch.randn(3, 5, 8), torch.randn(12)
    across, along = (weight, weight.T) if flipped else (weight.t(), weight)
    dense = values if flipped else values.T
    found = [
        functional.linear(x, along, bias),
        functional.linear(x, along),
        x @ across,
        torch.matmul(x, across),
        torch.einsum("bti,io->bto", x, across),
        torch.einsum("oi, bti -> bto", along, x),
        torch.einsum("bti,io->bto", [x, across]),
        torch.einsum("bti,io->otb", x, across).permute(2, 1, 0),
    ]
    flat = [x[0].mm(across), torch.addmm(bias, x[0], across) - bias, x[0].matmul(across)]
    assert len(calls) == len(found) + len(flat)
    torch.testing.assert_close(found[0], x @ dense + bias)
    for y in found[1:]:
        torch.testing.assert_close(y, x @ dense)
    for y in flat:
        torch.testing.assert_close(y, x[0] @ dense)


@pytest.mark.parametrize(("kind", "flipped"), KINDS)
def test_everything_else_sees_dense_values(kind: str, flipped: bool) -> None:
    weight = _weight(kind, flipped)
    values = weight.weight.detach()
    assert weight.shape == values.shape
    assert weight.dtype == values.dtype
    assert len(weight) == len(values)
    vector = torch.randn(values.shape[1])
    pairs = [
        (weight * 2, values * 2),
        (2 * weight, values * 2),
        (weight + values, values * 2),
        (weight[1], values[1]),
        (weight @ vector, values @ vector),
        (weight.T @ torch.ones(len(values)), values.T @ torch.ones(len(values))),
        (weight.to(torch.float64), values.double()),
        (weight.sum(), values.sum()),
        (torch.cat([weight, values]), torch.cat([values, values])),
        (functional.normalize(weight), functional.normalize(values)),
        (functional.embedding(torch.tensor([1]), weight), values[1:2]),
        (torch.einsum("ij->ji", weight), values.T),
        (torch.einsum("ij,ij->ij", weight, values), values**2),
        (torch.einsum("ij,bj->i", weight, values[:2]), (values @ values[:2].T).sum(1)),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, expected)
    assert weight.factors[0].dtype == torch.float32 if kind == "fabric" else weight.weight.is_leaf
    with pytest.raises(AttributeError):
        weight.no_such_thing  # noqa: B018


class Raw(nn.Module):
    """Raw parameters in the ways that people use them."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.randn(64, 32) * 0.1)
        self.matmul = nn.Parameter(torch.randn(64, 64) * 0.1)
        self.einsum = nn.Parameter(torch.randn(64, 64) * 0.1)
        self.normed = nn.Parameter(torch.randn(64, 64) * 0.1)
        self.left = nn.Parameter(torch.randn(64, 64) * 0.1)
        self.twice = nn.Parameter(torch.randn(64, 64) * 0.1)
        self.kernel = nn.Parameter(torch.randn(8, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(functional.linear(x, self.linear))
        x = functional.relu(functional.conv1d(x[:, None], self.kernel, padding=1)).mean(1)
        x = torch.einsum("bi,io->bo", x @ self.matmul, self.einsum).relu()
        x = functional.linear(x, functional.normalize(self.normed))
        x = (self.left @ x.T).T
        return x @ self.twice @ self.twice.T


X = (torch.randn(4, 32),)
REPLACED = ["linear", "matmul", "einsum"]


def test_a_model_of_raw_parameters(tmp_path: Path, untouched: Any) -> None:
    torch.manual_seed(0)
    model = Raw()
    with untouched(model):
        plan = sp.plan(model, X, budget=0.5)
        sparse = sp.sparsify(model, X, budget=0.5)
    assert [site.name for site in plan.replaced] == REPLACED
    kept = {site.name: site.reason for site in plan.sites if site.decision == "keep"}
    assert {name.partition(".")[0] for name in kept} == {"normed", "left", "twice", "kernel"}
    assert type(sparse) is Raw
    assert isinstance(sparse.twice, nn.Parameter)
    sparse(*X).square().mean().backward()
    assert all(p.grad is not None for p in sparse.parameters())
    sp.save(sparse, tmp_path / "raw.safetensors")
    for skeleton in (model, sparse):
        loaded = sp.load(tmp_path / "raw.safetensors", model=skeleton)
        assert torch.equal(loaded(*X), sparse(*X))
    assert loaded.linear.flipped is False
    assert loaded.matmul.flipped is True
    sp.export_onnx(sparse, tmp_path / "raw.onnx", X)
    assert torch.compile(sparse, backend="aot_eager")(*X).shape == (4, 64)


def test_a_parameter_that_two_modules_share_stays() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.randn(64, 64))
            self.inner = nn.Module()
            self.inner.a = self.a

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(x @ self.a) @ self.inner.a.T

    with pytest.raises(sp.NothingToDoError):
        sp.sparsify(Tied(), (torch.randn(2, 64),), budget=0.5)
