"""Small transformers models with random weights, by name, and folders of models of any size."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

SIZES: dict[str, int] = {"vocab_size": 96, "max_position_embeddings": 64}
TOKENS: dict[str, int] = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _bert(library: Any) -> Any:
    config = library.BertConfig(
        **SIZES,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
    )
    return library.BertForMaskedLM(config)


def _gpt2(library: Any) -> Any:
    config = library.GPT2Config(
        vocab_size=96, n_positions=64, n_embd=64, n_layer=2, n_head=4, **TOKENS
    )
    return library.GPT2LMHeadModel(config)


def _llama(library: Any) -> Any:
    config = library.LlamaConfig(
        **SIZES,
        **TOKENS,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=160,
    )
    return library.LlamaForCausalLM(config)


def _t5(library: Any) -> Any:
    config = library.T5Config(
        vocab_size=96,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=1,
        num_decoder_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    return library.T5ForConditionalGeneration(config)


def _mixtral(library: Any) -> Any:
    config = library.MixtralConfig(
        **SIZES,
        **TOKENS,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        num_local_experts=4,
        num_experts_per_tok=2,
    )
    return library.MixtralForCausalLM(config)


MODELS: dict[str, Callable[[Any], Any]] = {
    "BERT": _bert,
    "GPT-2": _gpt2,
    "Llama": _llama,
    "T5": _t5,
    "Mixtral": _mixtral,
}


def make(library: Any, name: str, dtype: torch.dtype = torch.float32) -> Any:
    """A model, the same at every call, the global RNG left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name](library).to(dtype).eval()


def saved(
    library: Any,
    folder: Path,
    name: str,
    dtype: torch.dtype = torch.float32,
    shard: str = "50GB",
) -> Any:
    """The folder of a model, as transformers writes it; gives the model that it loads."""
    make(library, name, dtype).save_pretrained(folder, max_shard_size=shard)
    model, report = type(make(library, name)).from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    return model.eval()


def write_llama(
    library: Any,
    folder: Path,
    sizes: dict[str, int],
    *,
    shard: int,
    dtype: torch.dtype = torch.float32,
    holes: bool = False,
) -> int:
    """A folder of shards of random weights, or of files that are one hole; gives its bytes.

    No more than one weight is in memory at a time.
    """
    config = library.LlamaConfig(**sizes, dtype=str(dtype).removeprefix("torch."))
    config.architectures = ["LlamaForCausalLM"]
    with torch.device("meta"):
        state = library.LlamaForCausalLM(config).state_dict()
    config.save_pretrained(folder)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    room = shard
    for name, tensor in state.items():
        size = tensor.numel() * dtype.itemsize
        if size > room:
            shards.append({})
            room = shard
        shards[-1][name] = tuple(tensor.shape)
        room -= size
    index = {}
    for number, shapes in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        index.update(dict.fromkeys(shapes, name))
        _write_shard(folder / name, shapes, dtype, None if holes else number)
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def _write_shard(
    path: Path, shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, seed: int | None
) -> None:
    kind = {torch.float32: "F32", torch.bfloat16: "BF16"}[dtype]
    header = {}
    end = 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        if seed is None:
            file.truncate(8 + len(text) + end)
            return
        random = torch.Generator().manual_seed(seed)
        for shape in shapes.values():
            values = torch.randn(shape, generator=random).mul_(0.02).to(dtype)
            file.write(values.view(torch.uint8).numpy().data)
