"""Composite owners: unfolded they compute the same, and their layers become fabrics."""

from __future__ import annotations

import itertools
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils._pytree import tree_leaves

import sparsify as sp
from sparsify.nn import FabricLayer, unfold, unfolded_twin
from sparsify.nn.unfold import COMPOSITES

WAYS = list(itertools.product((False, True), repeat=5))


def _same(found: Any, expected: Any) -> None:
    """All tensors of two results agree, NaN where a row sees nothing included."""
    pairs = list(zip(tree_leaves(found), tree_leaves(expected), strict=True))
    for one, other in pairs:
        if isinstance(one, Tensor):
            torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5, equal_nan=True)
        else:
            assert one == other


def _unfolded(module: nn.Module) -> nn.Module:
    other = unfold(module)
    assert other is not None
    own = {tensor.untyped_storage().data_ptr() for tensor in module.parameters()}
    assert all(t.untyped_storage().data_ptr() in own for t in other.parameters())
    return other


@pytest.mark.parametrize(("batch_first", "bias", "bias_kv", "zero", "other_widths"), WAYS)
def test_attention(
    batch_first: bool, bias: bool, bias_kv: bool, zero: bool, other_widths: bool
) -> None:
    torch.manual_seed(0)
    widths = {"kdim": 8, "vdim": 12} if other_widths else {}
    module = nn.MultiheadAttention(
        16, 4, 0.0, bias, bias_kv, zero, batch_first=batch_first, **widths
    ).eval()
    other = _unfolded(module)
    q, k, v = torch.randn(3, 5, 16), torch.randn(3, 7, 16), torch.randn(3, 7, 16)
    k, v = (k[..., :8], v[..., :12]) if other_widths else (k, v)
    if not batch_first:
        q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    padding = (torch.arange(7) > 4).repeat(3, 1)
    masks = (None, torch.rand(5, 7) > 0.7, torch.randn(5, 7), torch.randn(12, 5, 7))
    for mask, pad, weights, mean in itertools.product(masks, (None, padding), (0, 1), (0, 1)):
        if mask is not None and mask.is_floating_point() and pad is not None:
            pad = torch.zeros(3, 7).masked_fill(pad, -1e4)
        arguments = (q, k, v, pad, bool(weights), mask, bool(mean))
        _same(other(*arguments), module(*arguments))
    single = [x.select(0 if batch_first else 1, 0) for x in (q, k, v)]
    _same(other(*single), module(*single))


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("cls", [nn.RNN, nn.LSTM, nn.GRU])
@pytest.mark.parametrize(("batch_first", "bias", "both_ways", "two", "projected"), WAYS)
def test_recurrent(
    cls: Any, batch_first: bool, bias: bool, both_ways: bool, two: bool, projected: bool
) -> None:
    if projected and cls is not nn.LSTM:
        pytest.skip("only an LSTM projects its state")
    torch.manual_seed(0)
    module = cls(
        6,
        5,
        1 + two,
        bias=bias,
        batch_first=batch_first,
        bidirectional=both_ways,
        **({"proj_size": 3} if projected else {}),
    )
    other = _unfolded(module)
    x = torch.randn(4, 7, 6)
    batch, count = (4 if batch_first else 7), (1 + two) * (1 + both_ways)
    h = torch.randn(count, batch, 3 if projected else 5)
    hx = (h, torch.randn(count, batch, 5)) if cls is nn.LSTM else h
    for arguments in ((x,), (x[0],), (x, hx)):
        _same(other(*arguments), module(*arguments))
    packed = pack_sequence([torch.randn(t, 6) for t in (3, 7, 2)], enforce_sorted=False)
    _same(tuple(other(packed)[0]), tuple(module(packed)[0]))
    _same(other(packed)[1], module(packed)[1])


@pytest.mark.parametrize(
    "module",
    [
        nn.RNNCell(4, 5),
        nn.RNNCell(4, 5, nonlinearity="relu"),
        nn.LSTMCell(4, 5),
        nn.GRUCell(4, 5, bias=False),
    ],
    ids=repr,
)
def test_cells(module: nn.Module) -> None:
    other = _unfolded(module)
    x, h = torch.randn(3, 4), torch.randn(3, 5)
    hx = (h, torch.randn(3, 5)) if isinstance(module, nn.LSTMCell) else h
    for arguments in ((x,), (x[0],), (x, hx)):
        _same(other(*arguments), module(*arguments))


def _experts(kind: str) -> nn.Module:
    import transformers
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssExperts
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_local_experts": 4}
    cls, config = {
        "mixtral": (MixtralExperts, transformers.MixtralConfig(**sizes)),
        "gpt_oss": (GptOssExperts, transformers.GptOssConfig(**sizes)),
    }[kind]
    config._experts_implementation = "eager"
    torch.manual_seed(0)
    module: nn.Module = cls(config)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.1)
    return module


@pytest.mark.parametrize("used", [4, 2], ids=["all used", "some without tokens"])
@pytest.mark.parametrize("kind", ["mixtral", "gpt_oss"])
def test_experts(kind: str, used: int) -> None:
    module = _experts(kind)
    arguments = (torch.randn(9, 16), torch.randint(0, used, (9, 2)), torch.rand(9, 2))
    _same(_unfolded(module)(*arguments), module(*arguments))


class Net(nn.Module):
    """Two attentions, an LSTM and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.MultiheadAttention(64, 4, batch_first=True)
        self.second = nn.MultiheadAttention(64, 4, batch_first=True)
        self.lstm = nn.LSTM(64, 64, batch_first=True)
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x, x, x, need_weights=False)[0]
        x = self.second(x, x, x)[0]
        y: Tensor = self.head(self.lstm(x)[0][:, -1])
        return y


X = (torch.randn(2, 6, 64),)


def test_a_model_becomes_fabrics_and_back(tmp_path: Path, untouched: Any) -> None:
    model = Net()
    with untouched(model):
        sparse = sp.sparsify(model, X, budget=0.5)
    names = [name for name, part in sparse.named_modules() if isinstance(part, FabricLayer)]
    parts = [f"{a}.{p}_proj" for a in ("first", "second") for p in ("q", "k", "v", "out")]
    assert names == [*parts, "lstm.input_l0", "lstm.hidden_l0"]
    sp.save(sparse, tmp_path / "m.safetensors")
    loaded = sp.load(tmp_path / "m.safetensors", model=model)
    assert torch.equal(loaded(*X), sparse(*X))
    sparse(*X).sum().backward()
    assert all(p.grad is not None for p in sparse.parameters())


def test_owners_in_which_nothing_is_replaced_stay_as_they_are() -> None:
    model = Net()
    sparse = sp.sparsify(model, X, budget=0.5, include=["first.q_proj"])
    assert type(sparse.second) is nn.MultiheadAttention
    assert type(sparse.lstm) is nn.LSTM
    assert torch.equal(sparse.second.in_proj_weight, model.second.in_proj_weight)
    assert sparse.second.in_proj_weight is not model.second.in_proj_weight
    assert isinstance(sparse.first, nn.MultiheadAttention)
    assert torch.equal(sparse.first.k_proj.weight, model.first.in_proj_weight[64:128])


def test_dense_twins_share_and_compute_the_same() -> None:
    model = Net().eval()
    twin = unfolded_twin(model).eval()
    assert twin is not model
    torch.testing.assert_close(twin(*X), model(*X))
    before = model.first.in_proj_weight[0, 0].item()
    with torch.no_grad():
        twin.first.q_proj.weight[0, 0] += 1
    assert model.first.in_proj_weight[0, 0].item() == pytest.approx(before + 1)
    plain = nn.Sequential(nn.Linear(2, 2))
    assert unfolded_twin(plain) is plain


@pytest.mark.parametrize("cls", [nn.MultiheadAttention, nn.LSTM])
def test_patterns_of_an_owners_class_take_its_layers(cls: type) -> None:
    plan = sp.plan(Net(), X, budget=0.5, exclude=[cls])
    kept = {site.name.split(".")[0] for site in plan.sites if "excluded" in site.reason}
    assert kept == ({"lstm"} if cls is nn.LSTM else {"first", "second"})


def test_hooks_of_an_owner_come_along() -> None:
    model = Net()
    seen: list[str] = []
    model.first.register_forward_hook(lambda *_: seen.append("first"))
    sp.sparsify(model, X, budget=0.5, include=["first.*"])(*X)
    assert "first" in seen


@pytest.mark.parametrize("batch_first", [False, True])
def test_encoder_and_decoder_layers_take_no_shortcut(batch_first: bool) -> None:
    """The fused path of an encoder in eval mode would run dense weights in silence."""
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=batch_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=batch_first)
    sparse = sp.sparsify(encoder, X, budget=0.5).eval()
    calls = []
    for part in sparse.modules():
        if isinstance(part, FabricLayer):
            part.register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        padding = torch.zeros(*((2, 6) if batch_first else (6, 2)), dtype=torch.bool)
        sparse(*X, src_key_padding_mask=padding)
    assert len(calls) == 12
    decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(64, 4, 128), 1)
    plan = sp.plan(decoder, (X[0], X[0]), budget=0.5)
    assert len(plan.replaced) == 10


def test_a_subclass_with_its_own_forward_is_left_alone() -> None:
    class Own(nn.LSTM):
        def forward(self, x: Tensor, hx: Any = None) -> Any:  # type: ignore[override]
            return super().forward(x, hx)

    assert unfold(Own(2, 2)) is None


def test_users_add_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    class Pair(nn.Module):
        """Two layers in one matrix."""

        def __init__(self) -> None:
            super().__init__()
            self.both = nn.Parameter(torch.randn(2, 64, 64))

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = x @ self.both[0].T @ self.both[1].T
            return y

    class Apart(nn.Module):
        def __init__(self, owner: Pair) -> None:
            super().__init__()
            self.one, self.two = (nn.Linear(64, 64, bias=False) for _ in range(2))
            self.one.weight, self.two.weight = (nn.Parameter(w.detach()) for w in owner.both)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two(self.one(x))
            return y

    model = nn.Sequential(Pair())
    monkeypatch.setitem(COMPOSITES, f"{__name__}.{Pair.__qualname__}", Apart)
    plan = sp.plan(model, (torch.randn(3, 64),), budget=0.5, include=["0.one", "0.two"])
    assert [site.name for site in plan.replaced] == ["0.one", "0.two"]
    torch.testing.assert_close(unfolded_twin(model)(X[0]), model(X[0]))


def test_lazy_layers_learn_their_sizes_in_the_copy() -> None:
    model = nn.Sequential(nn.LazyLinear(64), nn.ReLU(), nn.LazyLinear(64))
    x = torch.randn(3, 64)
    state = torch.get_rng_state()
    sparse = sp.sparsify(model, (x,), budget=0.5)
    assert torch.equal(torch.get_rng_state(), state)
    assert model[0].has_uninitialized_params()
    assert isinstance(sparse[0], FabricLayer)


@pytest.mark.parametrize("cls", [nn.LSTM, nn.GRU])
def test_an_exported_recurrence_runs_on_any_length(cls: Any, tmp_path: Path) -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = cls(32, 64, batch_first=True, bidirectional=True)
            self.head = nn.Linear(128, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.head(self.rnn(x)[0])
            return y

    sparse = sp.sparsify(Tagger(), (torch.randn(2, 6, 32),), budget=0.5).eval()
    path = tmp_path / "rnn.onnx"
    axes = {"x": {0: "batch", 1: "time"}}
    sp.export_onnx(sparse, path, (torch.randn(2, 6, 32),), dynamic=axes)
    x = torch.randn(5, 9, 32)
    found = sp.onnx.session(path, native=False).run(None, {"x": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(found), sparse(x), atol=1e-5, rtol=1e-4)


class Odd(nn.Module):
    """An owner without an entry of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(2, 64, 64))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x @ self.weight[0] @ self.weight[1]
        return y


def _half(owner: Odd) -> nn.Module:
    layer = nn.Linear(64, 64, bias=False)
    layer.weight = nn.Parameter(owner.weight[0].detach().T)
    return layer


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (_half, "gives a module with 4096 parameters; the owner has 8192"),
        (lambda owner: 1 / 0, "failed: ZeroDivisionError"),
        (lambda: None, "failed: TypeError"),
        (lambda owner: owner.weight, "must give a torch.nn.Module; got Parameter"),
    ],
    ids=["forgets a matrix", "raises", "takes no owner", "gives no module"],
)
def test_wrong_entries_are_named(entry: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMPOSITES, f"{__name__}.Odd", entry)
    with pytest.raises(sp.ModelError, match=f"The entry of Odd in COMPOSITES {words}"):
        sp.plan(nn.Sequential(Odd()), (torch.randn(2, 64),), budget=0.5)


def test_other_threads_may_run_and_convert_models_meanwhile() -> None:
    models = [Net().eval() for _ in range(3)]
    failed: list[BaseException] = []
    is_done = threading.Event()

    def serve() -> None:
        with torch.no_grad():
            while not is_done.is_set():
                models[0](*X)

    def convert(model: nn.Module) -> None:
        try:
            sp.sparsify(model, X, budget=0.5)
        except BaseException as error:
            failed.append(error)

    server = threading.Thread(target=serve)
    workers = [threading.Thread(target=convert, args=(model,)) for model in models[1:]]
    for thread in (server, *workers):
        thread.start()
    for thread in workers:
        thread.join()
    is_done.set()
    server.join()
    assert not failed
