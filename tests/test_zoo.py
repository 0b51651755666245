"""Every model of the zoo: all of its weight FLOPs seen, converted, trained, saved, exported."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

import sparsify as sp
from tests.support.paths import ROOT
from tests.support.weight_flops import weight_flops
from tests.support.zoo import ZOO, Inputs, call, make
from tests.support.zoo.table import row

README = (ROOT / "README.md").read_text("utf-8").splitlines()
GENERATING = ["T5", "BART", "GPT-2", "GPT-NeoX", "Llama", "Mistral", "Qwen3", "Gemma2", "Mixtral"]
GENERATING += ["Bloom", "Mamba", "Whisper"]
EXPORTED = [name for name, entry in ZOO.items() if entry.exports]


def test_there_are_41_models() -> None:
    assert len(ZOO) == 41


def test_the_second_counter_counts() -> None:
    linear = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))
    assert weight_flops(linear, (torch.zeros(2, 8),)) == {
        "0.weight": 2 * 2 * 8 * 16,
        "2.weight": 2 * 2 * 16 * 4,
    }
    conv = nn.Conv2d(4, 6, 3, stride=2, groups=2)
    assert weight_flops(conv, (torch.zeros(1, 4, 9, 9),)) == {"weight": 2 * 16 * 6 * 2 * 9}
    up = nn.ConvTranspose2d(4, 6, 3, stride=2)
    assert weight_flops(up, (torch.zeros(1, 4, 5, 5),)) == {"weight": 2 * 25 * 4 * 6 * 9}
    lstm = nn.LSTM(5, 7)
    flops = 2 * 3 * 2 * 28  # a multiply-add, three steps, two rows, four gates of seven
    assert weight_flops(lstm, (torch.zeros(3, 2, 5),)) == {
        "weight_ih_l0": 5 * flops,
        "weight_hh_l0": 7 * flops,
    }
    assert not weight_flops(nn.Embedding(4, 8), (torch.zeros(2, 3, dtype=torch.long),))


@pytest.mark.parametrize("name", ZOO)
def test_everything_is_seen_and_the_model_converts(name: str) -> None:
    found, plan = row(name)
    assert found.seen == pytest.approx(1.0, abs=1e-3), str(plan)
    assert plan.unseen == 0.0
    told = next((line for line in README if line.startswith(f"| {name} |")), "")
    assert told == f"| {' | '.join(found.cells())} |", "run `python -m tests.support.zoo`"
    model, inputs = make(name, ZOO)
    sparse = sp.sparsify(model, inputs, plan=plan).eval()
    assert type(sparse) is type(model)
    with torch.no_grad():
        after = tensors(call(sparse, inputs))
        before = tensors(call(model.eval(), inputs))
    assert [tensor.shape for tensor in after] == [tensor.shape for tensor in before]


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_train_copy_save_load(name: str, tmp_path: Path) -> None:
    sparse, inputs = converted(name)
    losses = train(sparse, inputs, steps=10)
    assert losses[-1] < losses[0], losses
    sparse.eval()
    file = tmp_path / "model.safetensors"
    sp.save(sparse, file)
    skeleton, _ = make(name, ZOO)
    if any(nn.parameter.is_lazy(parameter) for parameter in skeleton.parameters()):
        call(skeleton, inputs)  # a skeleton has shapes
    for other in (sp.load(file, model=skeleton).eval(), copy.deepcopy(sparse)):
        assert other.state_dict().keys() == sparse.state_dict().keys()
        with torch.no_grad():
            found, expected = (tensors(call(m, inputs)) for m in (other, sparse))
        assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPORTED)
def test_export_at_an_unseen_batch_and_sequence(name: str, tmp_path: Path) -> None:
    sparse, inputs = converted(name)
    train(sparse, inputs, steps=3)
    names = list(inputs) if isinstance(inputs, dict) else [*ZOO[name].dynamic] or ["x"]
    dynamic = {key: {0: "batch", **axes} for key, axes in ZOO[name].dynamic.items()}
    sp.export_onnx(sparse, tmp_path / "model.onnx", inputs, dynamic=dynamic)
    runtime = sp.onnx.session(tmp_path / "model.onnx", native=False)
    for batch, longer in ((3, 0), (5, 7)):
        other = resized(inputs, names, ZOO[name].dynamic, batch, longer)
        values = list(other.values()) if isinstance(other, dict) else list(other)
        feed = {
            entry.name: value.numpy()
            for entry, value in zip(runtime.get_inputs(), values, strict=True)
        }
        with torch.no_grad():
            expected = tensors(call(sparse.eval(), other))
        for found, truth in zip(runtime.run(None, feed), expected, strict=True):
            assert found.shape == truth.shape
            largest = max(1.0, float(truth.abs().max()))
            np.testing.assert_allclose(found, truth.numpy(), rtol=0, atol=1e-4 * largest)


@pytest.mark.slow
@pytest.mark.parametrize("name", GENERATING)
def test_generate_with_and_without_a_cache(name: str) -> None:
    sparse, inputs = converted(name)
    prompt = {name: inputs[name] for name in ("input_ids", "input_features") if name in inputs}
    cached, plain = (
        sparse.eval().generate(**prompt, max_new_tokens=5, do_sample=False, use_cache=use)
        for use in (True, False)
    )
    assert len(cached) == 2
    assert torch.equal(cached, plain)


def converted(name: str) -> tuple[nn.Module, Inputs]:
    """A model with everything replaced that can be, and its inputs."""
    model, inputs = make(name, ZOO)
    plan = sp.plan(model, inputs, budget=0.5)
    plan = sp.plan(model, inputs, budget=0.5, include=[site.name for site in plan.sites])
    if not plan.replaced:
        pytest.skip(f"nothing in {name} can be replaced: {plan}")
    return sp.sparsify(model, inputs, plan=plan), inputs


def tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, as a file has them."""
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor)]


def train(model: nn.Module, inputs: Inputs, steps: int) -> list[float]:
    """Losses on noise as the target of every output."""
    model.train()
    optimizer = torch.optim.AdamW(sp.param_groups(model, lr=3e-3))
    losses, targets = [], []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for _ in range(steps):
            outputs = [t for t in tensors(call(model, copy.copy(inputs))) if t.requires_grad]
            targets = targets or [torch.randn(t.shape) for t in outputs]
            pairs = zip(outputs, targets, strict=True)
            loss = sum((y - target).square().mean() for y, target in pairs)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return losses


def resized(inputs: Inputs, names: list[str], dynamic: Any, batch: int, longer: int) -> Inputs:
    """The inputs with `batch` rows, and `longer` along the axes that may change."""

    def change(name: str, tensor: Tensor) -> Tensor:
        tensor = tensor[torch.arange(batch) % len(tensor)]
        for axis in dynamic.get(name, ()):
            size = tensor.shape[axis]
            tensor = tensor.index_select(axis, torch.arange(size + longer) % size)
        return tensor

    if isinstance(inputs, dict):
        return {name: change(name, tensor) for name, tensor in inputs.items()}
    return tuple(change(name, tensor) for name, tensor in zip(names, inputs, strict=True))
