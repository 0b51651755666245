"""Models of text: encoders, decoders, both, experts, state spaces."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .entry import Entry, Inputs, tokens

Made = tuple[nn.Module, Inputs]
SEQUENCE = {"input_ids": {1: "sequence"}}
MASKED = {**SEQUENCE, "attention_mask": {1: "sequence"}}
TRANSLATION = {**SEQUENCE, "decoder_input_ids": {1: "target"}}


def config(width: int, layers: int) -> dict[str, Any]:
    """The names that most configurations of transformers share."""
    return {
        "vocab_size": 256,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 4 * width if width > 64 else 2 * width,
        "max_position_embeddings": 64,
        "use_cache": False,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }


def _masked() -> Inputs:
    return {"input_ids": tokens(), "attention_mask": torch.ones(2, 16, dtype=torch.long)}


def _translated() -> Inputs:
    return {"input_ids": tokens(), "decoder_input_ids": tokens(8)}


def bert(width: int = 64, layers: int = 2) -> Made:
    """Masked words."""
    from transformers import BertConfig, BertForMaskedLM

    return BertForMaskedLM(BertConfig(**config(width, layers))), _masked()


def distilbert(width: int = 64, layers: int = 2) -> Made:
    """Classes, with layers of other names."""
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    sizes = config(width, layers)
    model = DistilBertForSequenceClassification(
        DistilBertConfig(
            vocab_size=256,
            dim=width,
            n_layers=layers,
            n_heads=4,
            hidden_dim=sizes["intermediate_size"],
            max_position_embeddings=64,
        )
    )
    return model, _masked()


def roberta() -> Made:
    """Classes, positions counted from the padding."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    return RobertaForSequenceClassification(RobertaConfig(**config(64, 2))), _masked()


def albert() -> Made:
    """One block, run four times."""
    from transformers import AlbertConfig, AlbertForMaskedLM

    return AlbertForMaskedLM(AlbertConfig(**config(64, 4), embedding_size=32)), _masked()


def deberta() -> Made:
    """Attention to a table of positions that goes through the layers of the words."""
    from transformers import DebertaV2Config, DebertaV2ForMaskedLM

    sizes = DebertaV2Config(
        **config(64, 2), relative_attention=True, pos_att_type=["p2c", "c2p"], type_vocab_size=0
    )
    return DebertaV2ForMaskedLM(sizes), _masked()


def t5() -> Made:
    """Reads `wo.weight.dtype`; embedding and head are one tensor."""
    from transformers import T5Config, T5ForConditionalGeneration

    sizes = T5Config(
        vocab_size=256,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        use_cache=False,
        decoder_start_token_id=0,
    )
    return T5ForConditionalGeneration(sizes), _translated()


def bart() -> Made:
    """An encoder and a decoder."""
    from transformers import BartConfig, BartForConditionalGeneration

    sizes = BartConfig(
        vocab_size=256,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_position_embeddings=64,
        use_cache=False,
    )
    return BartForConditionalGeneration(sizes), _translated()


def gpt2(width: int = 64, layers: int = 2) -> Made:
    """Layers whose weights are stored the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = GPT2Config(
        vocab_size=256,
        n_embd=width,
        n_layer=layers,
        n_head=4,
        n_positions=64,
        use_cache=False,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(sizes), {"input_ids": tokens()}


def _decoder(name: str, width: int = 64, layers: int = 2, **options: Any) -> Made:
    """A causal language model of transformers, by the name of its family."""
    import transformers

    sizes = getattr(transformers, f"{name}Config")(**config(width, layers), **options)
    return getattr(transformers, f"{name}ForCausalLM")(sizes), {"input_ids": tokens()}


def neox() -> Made:
    """One layer for query, key and value."""
    return _decoder("GPTNeoX")


def llama(width: int = 64, layers: int = 2) -> Made:
    """Two heads share keys and values; gated feed-forward."""
    return _decoder("Llama", width, layers, num_key_value_heads=2)


def mistral() -> Made:
    """Attention to a window."""
    return _decoder("Mistral", num_key_value_heads=2)


def qwen3(width: int = 64, layers: int = 2) -> Made:
    """Norms of queries and keys."""
    return _decoder("Qwen3", width, layers, num_key_value_heads=2, head_dim=width // 4)


def gemma2() -> Made:
    """Soft caps; every other layer attends to a window."""
    return _decoder("Gemma2", num_key_value_heads=2, head_dim=16)


def mixtral() -> Made:
    """Four experts in one tensor, two of them for each token."""
    return _decoder("Mixtral", num_key_value_heads=2, num_local_experts=4)


def bloom() -> Made:
    """Positions by a slope."""
    from transformers import BloomConfig, BloomForCausalLM

    sizes = BloomConfig(vocab_size=256, hidden_size=64, n_layer=2, n_head=4, use_cache=False)
    return BloomForCausalLM(sizes), {"input_ids": tokens()}


def mamba() -> Made:
    """Reads the weights of layers that it never calls."""
    from transformers import MambaConfig, MambaForCausalLM

    sizes = MambaConfig(
        vocab_size=256, hidden_size=64, num_hidden_layers=2, state_size=8, use_cache=False
    )
    return MambaForCausalLM(sizes), {"input_ids": tokens(8)}


TEXT = {
    "BERT": Entry(bert, MASKED),
    "DistilBERT": Entry(distilbert, MASKED),
    "RoBERTa": Entry(roberta, MASKED),
    "ALBERT": Entry(albert, MASKED),
    "DeBERTa-v2": Entry(deberta, MASKED),
    "T5": Entry(t5, TRANSLATION),
    "BART": Entry(bart, TRANSLATION),
    "GPT-2": Entry(gpt2, SEQUENCE),
    "GPT-NeoX": Entry(neox, SEQUENCE),
    "Llama": Entry(llama, SEQUENCE),
    "Mistral": Entry(mistral, SEQUENCE),
    "Qwen3": Entry(qwen3, SEQUENCE),
    "Gemma2": Entry(gemma2, SEQUENCE),
    "Mixtral": Entry(mixtral, SEQUENCE),
    "Bloom": Entry(bloom, SEQUENCE),
    "Mamba": Entry(mamba),  # its loop over the sequence is Python's
}
