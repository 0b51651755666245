"""Real architectures all the way through: plan, convert, train, save, load, export, verify."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import sparsify as sp
from tests.support.zoo import MODELS, call, first_tensor, make

EXCEPTED = ("final head", "depthwise", "tied to")


def _share_without_excepted(plan: sp.Plan) -> float:
    """The share replaced, of all weight FLOPs but heads, first convolutions and depthwise ones."""
    sites = [s for s in plan.sites if s.fabric is not None or not s.reason.startswith(EXCEPTED)]
    sites = [s for s in sites if not (s.kind.startswith("conv") and s.in_features == 3)]
    return sum(s.dense_flops for s in plan.replaced) / sum(s.dense_flops for s in sites)


@pytest.mark.parametrize("name", MODELS)
def test_plan_covers_the_model(name: str) -> None:
    model, inputs = make(name)
    plan = sp.plan(model, inputs, budget=0.25)
    assert _share_without_excepted(plan) >= 0.90, str(plan)
    assert plan.flop_share >= 0.90, str(plan)
    assert 0.2 < plan.density <= 0.25
    assert all(site.reason for site in plan.sites if site.decision == "keep")


@pytest.mark.parametrize("name", ["BERT", "ConvNeXt", "MLP-Mixer"])
def test_conversion_keeps_the_users_class(name: str, untouched: Any) -> None:
    model, inputs = make(name)
    with untouched(model):
        sparse = sp.sparsify(model, inputs, budget=0.25)
    assert type(sparse) is type(model)
    assert {k for k in dir(model) if not k.startswith("_")} == {
        k for k in dir(sparse) if not k.startswith("_")
    }
    assert sparse.training == model.training
    assert first_tensor(call(sparse, inputs)).shape == first_tensor(call(model, inputs)).shape
    sparse.eval()
    assert not any(module.training for module in sparse.modules())
    sparse.train()
    assert all(module.training for module in sparse.modules())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_main_job(name: str, tmp_path: Path) -> None:
    model, inputs = make(name)
    sparse = sp.sparsify(model, inputs, budget=0.25, seed=1)
    losses = _train(sparse, inputs, steps=20)
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5]), losses

    sparse.eval()
    file = tmp_path / "model.safetensors"
    sp.save(sparse, file)
    loaded = sp.load(file, model=model).eval()
    assert loaded.state_dict().keys() == sparse.state_dict().keys()
    with torch.no_grad():
        before, after = (first_tensor(call(m, inputs)) for m in (sparse, loaded))
    assert torch.equal(before, after)

    onnx_file = tmp_path / "model.onnx"
    sp.export_onnx(sparse, onnx_file, inputs)
    session = sp.onnx.session(onnx_file)
    for batch in (1, 2, 7):
        _assert_agrees(session, sparse, _batched(inputs, batch))


@pytest.mark.parametrize("name", ["GPT-2", "Llama"])
def test_generate_still_works(name: str) -> None:
    model, inputs = make(name)
    sparse = sp.sparsify(model, inputs, budget=0.25).eval()
    prompt = inputs["input_ids"] if isinstance(inputs, dict) else inputs[0]
    cached, plain = (
        sparse.generate(prompt, max_new_tokens=5, do_sample=False, use_cache=use)
        for use in (True, False)
    )
    assert cached.shape == (2, 21)
    assert torch.equal(cached, plain)


def test_seven_billion_parameters_are_planned_without_weights() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig())
    plan = sp.plan(model, {"input_ids": torch.ones(1, 512, dtype=torch.long)})
    assert len(plan.replaced) == 224
    assert plan.flop_share > 0.97
    assert all(parameter.is_meta for parameter in model.parameters())


def _train(model: nn.Module, inputs: Any, steps: int) -> list[float]:
    model.train()
    optimizer = torch.optim.AdamW(sp.param_groups(model, lr=3e-4))
    generator = torch.Generator().manual_seed(0)
    target: torch.Tensor | None = None
    losses = []
    for _ in range(steps):
        output = first_tensor(call(model, copy.copy(inputs)))
        if target is None:
            target = torch.randn(output.shape, generator=generator)
        loss = functional.mse_loss(output, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _batched(inputs: Any, batch: int) -> Any:
    def rows(tensor: torch.Tensor) -> torch.Tensor:
        return tensor[torch.arange(batch) % tensor.shape[0]]

    if isinstance(inputs, dict):
        return {name: rows(tensor) for name, tensor in inputs.items()}
    return tuple(rows(tensor) for tensor in inputs)


def _assert_agrees(session: Any, model: nn.Module, inputs: Any) -> None:
    tensors = list(inputs.values()) if isinstance(inputs, dict) else list(inputs)
    names = [entry.name for entry in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}
    with torch.no_grad():
        expected = first_tensor(call(model, inputs))
    found = torch.from_numpy(session.run(None, feed)[0])
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= 1e-4
