"""What trainers do to models, done to converted ones: copies, casts, wrappers, checkpoints."""

from __future__ import annotations

import copy
import importlib.util
import io
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_, parameters_to_vector, vector_to_parameters
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import sparsify as sp
from sparsify.nn import FabricLayer
from tests.support.zoo import ZOO, call, first_tensor, make


class Everything(nn.Module):
    """Each kind of layer that a fabric can stand for, and each owner that unfolds."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv1d(64, 64, 3, padding=1)
        self.encoder = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.raw = nn.Parameter(torch.randn(64, 64) / 8)
        self.mlp = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64))
        self.head = nn.Linear(64, 9)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.transpose(1, 2)).transpose(1, 2)
        x = self.lstm(self.encoder(x))[0]
        x = x + functional.linear(x, self.raw)
        return self.head(self.mlp(x).mean(1))


TRANSFORMERS = ("Llama", "GPT-2", "T5", "Mixtral", "ViT", "Mamba")
MODELS = ("everything", *TRANSFORMERS)


@pytest.fixture(scope="module")
def converted() -> Callable[[str], tuple[nn.Module, Any]]:
    """A converted model and its inputs, by name; the caller gets a copy of his own."""
    made: dict[str, tuple[nn.Module, Any]] = {}

    def get(name: str) -> tuple[nn.Module, Any]:
        if name not in made:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                dense, inputs = (
                    make(name, ZOO) if name in ZOO else (Everything(), (torch.randn(2, 7, 64),))
                )
            made[name] = (sp.sparsify(dense, inputs, budget=0.5), inputs)
        model, inputs = made[name]
        assert any(isinstance(part, FabricLayer) for part in model.modules())
        return copy.deepcopy(model).eval(), inputs

    return get


def _loss(model: nn.Module, inputs: Any) -> Tensor:
    return first_tensor(call(model, inputs)).float().square().mean()


def _values(model: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in model.parameters()]


def _equal(one: Any, other: Any) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_a_copy_is_a_model_of_its_own(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    twin = copy.deepcopy(model)
    assert torch.equal(_loss(model, inputs), _loss(twin, inputs))
    before = _values(model)
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    _loss(twin, inputs).backward()
    optimizer.step()
    assert _equal(before, _values(model))
    assert not _equal(before, _values(twin))


@pytest.mark.parametrize("name", MODELS)
def test_a_state_dict_travels_without_pickles(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    optimizer = torch.optim.AdamW(sp.param_groups(model, lr=1e-3))
    _loss(model, inputs).backward()
    optimizer.step()
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    for assign in (True, False):  # assigning unties what was tied, in dense models too
        file.seek(0)
        saved = torch.load(file, weights_only=True)
        other, _ = converted(name)
        other.load_state_dict(saved["model"], assign=assign)
        assert torch.equal(_loss(model, inputs), _loss(other, inputs))
    rest = torch.optim.AdamW(sp.param_groups(other, lr=1e-3))
    rest.load_state_dict(saved["optimizer"])
    for subject, stepper in ((model, optimizer), (other, rest)):
        stepper.zero_grad()
        _loss(subject, inputs).backward()
        stepper.step()
    assert _equal(_values(model), _values(other))


@pytest.mark.parametrize("name", MODELS)
def test_a_whole_model_can_be_pickled(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(_loss(model, inputs), _loss(torch.load(file, weights_only=False), inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_casts(name: str, dtype: torch.dtype, converted: Any) -> None:
    model, inputs = converted(name)
    expected = _loss(model, inputs)
    model = {
        torch.bfloat16: model.bfloat16,
        torch.float16: model.half,
        torch.float64: model.double,
    }[dtype]()
    pairs = inputs.items() if isinstance(inputs, dict) else enumerate(inputs)
    cast = {k: v.to(dtype) if v.is_floating_point() else v for k, v in pairs}
    loss = _loss(model, cast if isinstance(inputs, dict) else tuple(cast.values()))
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.1)
    factors = [p for n, p in model.named_parameters() if ".factors." in n]
    assert factors
    assert {p.dtype for p in factors} == {dtype}


@pytest.mark.parametrize("name", MODELS)
def test_mixed_precision(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    expected = _loss(model, inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = _loss(model, inputs)
    loss.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=0.1)
    assert {p.grad.dtype for p in model.parameters() if p.grad is not None} == {torch.float32}


@pytest.mark.parametrize("name", MODELS)
def test_functional_call(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    halved = {n: p.detach() / 2 for n, p in model.named_parameters()}
    args, kwargs = ((), inputs) if isinstance(inputs, dict) else (inputs, {})
    before = _values(model)
    found = first_tensor(torch.func.functional_call(model, halved, args, kwargs))
    assert _equal(before, _values(model))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.div_(2)
    torch.testing.assert_close(found, first_tensor(call(model, inputs)))


def test_an_ensemble_runs_as_one() -> None:
    models = [
        sp.sparsify(nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 9)), budget=0.5, seed=seed)
        for seed in (0, 1)
    ]
    parameters, buffers = torch.func.stack_module_state(models)
    x = torch.randn(3, 64)

    def run(p: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        y: Tensor = torch.func.functional_call(models[0], (p, b), (x,))
        return y

    found = torch.vmap(run)(parameters, buffers)
    torch.testing.assert_close(found, torch.stack([model(x) for model in models]))


@pytest.mark.parametrize("name", MODELS)
def test_moving_average(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.75))
    start = _values(model)
    average.update_parameters(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    average.update_parameters(model)
    for before, now in zip(start, average.module.parameters(), strict=True):
        torch.testing.assert_close(now.detach(), before + 0.25)
    assert first_tensor(call(average, inputs)).isfinite().all()


@pytest.mark.parametrize("name", MODELS)
def test_vectors_and_clipping(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    vector = parameters_to_vector(model.parameters())
    assert vector.numel() == sum(p.numel() for p in model.parameters())
    expected = _loss(model, inputs)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        vector_to_parameters(torch.zeros_like(vector), twin.parameters())
        vector_to_parameters(vector, twin.parameters())
    assert torch.equal(_loss(twin, inputs), expected)
    expected.backward()
    clip_grad_norm_(model.parameters(), 1e-3)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert torch.stack([g.square().sum() for g in grads]).sum().sqrt() <= 1.001e-3


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing(reentrant: bool, converted: Any) -> None:
    model, (x,) = converted("everything")
    x = x.clone().requires_grad_()
    expected = torch.autograd.grad(_loss(model, (x,)), [x, *model.parameters()])
    y = checkpoint(model, x, use_reentrant=reentrant)
    y.square().mean().backward()
    torch.testing.assert_close(x.grad, expected[0])
    for parameter, grad in zip(model.parameters(), expected[1:], strict=True):
        torch.testing.assert_close(parameter.grad, grad)


@pytest.mark.filterwarnings("ignore:.*checkpointing.* is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["Llama", "GPT-2", "T5", "Mixtral", "ViT"])
def test_transformers_checkpointing(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    model.train()
    parameters = list(model.parameters())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = torch.autograd.grad(_loss(model, inputs), parameters, allow_unused=True)
        model.gradient_checkpointing_enable({"use_reentrant": False})
        assert model.is_gradient_checkpointing
        torch.manual_seed(0)
        _loss(model, inputs).backward()
    for parameter, grad in zip(parameters, expected, strict=True):
        torch.testing.assert_close(parameter.grad, grad)


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["everything", "GPT-2", *(pytest.param(n, marks=SLOW) for n in ("Llama", "T5", "ViT"))]
)
def test_compiled_models_agree(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    expected = first_tensor(call(model, inputs))
    torch.compiler.reset()
    compiled = torch.compile(model, backend="aot_eager")
    found = first_tensor(call(compiled, inputs))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.square().mean().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if ".factors." in n)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
@pytest.mark.parametrize("name", ["everything", "Llama"])
@pytest.mark.filterwarnings("ignore")
def test_inductor(name: str, converted: Any) -> None:
    model, inputs = converted(name)
    expected = _loss(model, inputs)
    wanted = torch.autograd.grad(expected, list(model.parameters()))
    torch.compiler.reset()
    found = _loss(torch.compile(model), inputs)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    found.backward()
    for parameter, grad in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(parameter.grad, grad, rtol=1e-3, atol=1e-5)


# --- adapters -----------------------------------------------------------------------------------


class Adapter(nn.Module):
    """What adapter libraries put around a linear layer: the layer, and a low-rank path."""

    def __init__(self, base: nn.Module, rank: int) -> None:
        super().__init__()
        self.base_layer = base
        weight = base.weight
        place = {"device": weight.device, "dtype": weight.dtype}
        self.down = nn.Linear(base.in_features, rank, bias=False, **place)
        self.up = nn.Linear(rank, base.out_features, bias=False, **place)
        nn.init.zeros_(self.up.weight)

    @property
    def weight(self) -> Tensor:
        """T5 asks its layers for the type of their weights."""
        weight: Tensor = self.base_layer.weight
        return weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.base_layer(x) + self.up(self.down(x))
        return y


def _adapt(model: nn.Module, suffixes: tuple[str, ...], rank: int = 4) -> list[str]:
    """Wrap every layer whose name ends so, as adapter libraries do; returns the names."""
    names = [n for n, _ in model.named_modules() if n.rpartition(".")[2] in suffixes]
    for name in names:
        owner, _, leaf = name.rpartition(".")
        parent = model.get_submodule(owner)
        setattr(parent, leaf, Adapter(getattr(parent, leaf), rank))
    return names


@pytest.mark.parametrize(
    ("name", "targets"),
    [("Llama", ("q_proj", "v_proj", "down_proj")), ("T5", ("q", "wo")), ("ViT", ("q_proj", "fc1"))],
)
def test_adapters_find_their_layers_by_name(
    name: str, targets: tuple[str, ...], converted: Any
) -> None:
    model, inputs = converted(name)
    dense, _ = make(name, ZOO)
    expected = first_tensor(call(model, inputs))
    model.requires_grad_(False)
    names = _adapt(model, targets)
    assert len(names) > 1
    assert names == _adapt(dense, targets)
    wrapped = [model.get_submodule(name) for name in names]
    assert any(isinstance(layer.base_layer, FabricLayer) for layer in wrapped)
    torch.testing.assert_close(first_tensor(call(model, inputs)), expected)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=1e-2)
    first = _loss(model, inputs)
    for _ in range(5):
        optimizer.zero_grad()
        _loss(model, inputs).backward()
        optimizer.step()
    assert _loss(model, inputs) < first
    assert all(p.grad is None for n, p in model.named_parameters() if ".factors." in n)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_paths_of_all_modules_stay(name: str, converted: Any) -> None:
    """Trainers, adapters and schedules choose parts of a model by these names."""
    model, _ = converted(name)
    dense, _ = make(name, ZOO)
    before, after = (dict(m.named_modules()) for m in (dense, model))
    inside = {path for path, part in after.items() if isinstance(part, FabricLayer)}
    gone = set(before) - set(after)
    if name != "Mixtral":  # whose stacked experts unfold into layers
        assert not gone
        assert set(after) - set(before) <= {f"{path}.factors" for path in inside}
    for path in inside & set(before):
        for size in ("in_features", "out_features", "nf", "nx", "kernel_size"):
            assert getattr(before[path], size, None) == getattr(after[path], size, None) or (
                size.endswith("features") and not hasattr(before[path], size)
            )


# --- transformers -------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [False, True])
def test_new_tokens_can_be_added(tied: bool) -> None:
    """The head stays dense, so embeddings and head can grow with the vocabulary."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=1,
        num_attention_heads=4,
        tie_word_embeddings=tied,
        pad_token_id=0,
    )
    tokens = {"input_ids": torch.randint(1, 100, (2, 8))}
    model = sp.sparsify(LlamaForCausalLM(config).eval(), tokens, budget=0.5)
    with torch.no_grad():
        before = model(**tokens).logits
    model.resize_token_embeddings(140, mean_resizing=False)
    after = model(**tokens).logits
    assert after.shape == (2, 8, 140)
    torch.testing.assert_close(after[..., :128], before)
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    model(input_ids=torch.full((2, 8), 139)).logits.sum().backward()


def test_generation(converted: Any) -> None:
    model, inputs = converted("Llama")
    tokens = model.generate(
        inputs["input_ids"], max_new_tokens=5, do_sample=False, min_new_tokens=5
    )
    assert tokens.shape == (2, 21)
    again = model.generate(
        inputs["input_ids"], max_new_tokens=5, do_sample=False, min_new_tokens=5, use_cache=False
    )
    assert torch.equal(tokens, again)


@pytest.mark.skipif(
    importlib.util.find_spec("accelerate") is None, reason="transformers.Trainer needs accelerate"
)
def test_the_trainer_of_transformers(tmp_path: Path, converted: Any) -> None:
    from transformers import Trainer, TrainingArguments

    model, inputs = converted("Llama")
    data = [{"input_ids": row, "labels": row} for row in inputs["input_ids"]] * 4
    arguments = TrainingArguments(
        str(tmp_path), max_steps=4, report_to=[], use_cpu=True, save_strategy="no"
    )
    optimizer = torch.optim.AdamW(sp.param_groups(model, lr=1e-3))
    before = _values(model)
    trainer = Trainer(model, arguments, train_dataset=data, optimizers=(optimizer, None))
    result = trainer.train()
    assert result.training_loss > 0
    assert not _equal(before, _values(model))
