"""Models of sound."""

from __future__ import annotations

from torch import nn

from .entry import Entry, Inputs, noise, tokens

Made = tuple[nn.Module, Inputs]


def whisper() -> Made:
    """Convolutions, an encoder and a decoder."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = WhisperConfig(
        vocab_size=256,
        num_mel_bins=16,
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        max_source_positions=32,
        max_target_positions=32,
        use_cache=False,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
    )
    inputs = {"input_features": noise(2, 16, 64), "decoder_input_ids": tokens(8)}
    return WhisperForConditionalGeneration(sizes), inputs


def whisper_encoder() -> Made:
    """The encoder alone, at a realistic width."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    sizes = WhisperConfig(
        num_mel_bins=80,
        d_model=256,
        encoder_layers=4,
        encoder_attention_heads=4,
        encoder_ffn_dim=1024,
        max_source_positions=32,
    )
    return WhisperEncoder(sizes), {"input_features": noise(2, 80, 64)}


def wav2vec2() -> Made:
    """Strided convolutions over samples, a weight-normed one over positions."""
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    sizes = Wav2Vec2Config(
        vocab_size=32,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        conv_dim=(32, 32, 32),
        conv_stride=(5, 2, 2),
        conv_kernel=(10, 3, 3),
        num_feat_extract_layers=3,
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        mask_time_prob=0.0,  # random masks of training, which are drawn on the CPU's own RNG
    )
    return Wav2Vec2ForCTC(sizes), {"input_values": noise(2, 2000)}


AUDIO = {
    "Whisper": Entry(whisper, {"decoder_input_ids": {1: "target"}}),
    "Wav2Vec2": Entry(wav2vec2, {"input_values": {1: "samples"}}),
}
