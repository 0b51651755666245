"""Models of images."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .entry import Entry, Inputs, image, noise, tokens

Made = tuple[nn.Module, Inputs]


def _pixels(size: int) -> dict[str, Any]:
    return {"pixel_values": image(size)}


def _widths(width: int, layers: int) -> dict[str, Any]:
    return {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 4 * width if width > 64 else 2 * width,
    }


def _settled(model: nn.Module, inputs: dict[str, Any]) -> Made:
    """The model with running statistics of its own: with those of a new one the signal dies out."""
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the mean over the calls: of this one
    with torch.no_grad():
        model.train()(**inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model, inputs


def vit(width: int = 64, layers: int = 2) -> Made:
    """Patches through an encoder."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = ViTConfig(**_widths(width, layers), image_size=32, patch_size=8, num_labels=10)
    return ViTForImageClassification(sizes), _pixels(32)


def swin() -> Made:
    """Attention in shifted windows."""
    from transformers import SwinConfig, SwinForImageClassification

    sizes = SwinConfig(
        image_size=32,
        patch_size=2,
        embed_dim=32,
        depths=[2, 2],
        num_heads=[2, 4],
        window_size=4,
        num_labels=10,
    )
    return SwinForImageClassification(sizes), _pixels(32)


def convnext(widths: tuple[int, ...] = (16, 32, 64, 64), depth: int = 2) -> Made:
    """Depthwise convolutions and linear layers."""
    from transformers import ConvNextConfig, ConvNextForImageClassification

    sizes = ConvNextConfig(hidden_sizes=list(widths), depths=[1, 1, depth, 1], num_labels=10)
    return ConvNextForImageClassification(sizes), _pixels(64)


def resnet(stem: int = 16, widths: tuple[int, ...] = (32, 64, 64, 128)) -> Made:
    """Bottlenecks with shortcuts."""
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = ResNetConfig(
        embedding_size=stem, hidden_sizes=list(widths), depths=[1, 2, 2, 1], num_labels=10
    )
    return ResNetForImageClassification(sizes), _pixels(64)


def mobilenet() -> Made:
    """Inverted bottlenecks, a third of them depthwise."""
    from transformers import MobileNetV2Config, MobileNetV2ForImageClassification

    sizes = MobileNetV2Config(depth_multiplier=0.35, image_size=64, num_labels=10)
    return _settled(MobileNetV2ForImageClassification(sizes), _pixels(64))


def segformer() -> Made:
    """A class for each pixel."""
    from transformers import SegformerConfig, SegformerForSemanticSegmentation

    sizes = SegformerConfig(
        depths=[1, 1, 1, 1],
        hidden_sizes=[16, 32, 32, 64],
        num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=32,
        num_labels=5,
    )
    return SegformerForSemanticSegmentation(sizes), _pixels(64)


def detr() -> Made:
    """A convolutional backbone under an encoder and a decoder of queries."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=16,
        hidden_sizes=[32, 32, 64, 64],
        depths=[1, 1, 1, 1],
        out_features=["stage4"],
    )
    sizes = DetrConfig(
        backbone_config=backbone,
        use_timm_backbone=False,
        backbone=None,
        use_pretrained_backbone=False,
        d_model=64,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=128,
        decoder_ffn_dim=128,
        num_queries=10,
        num_labels=5,
    )
    return DetrForObjectDetection(sizes), _pixels(64)


def clip() -> Made:
    """Text and images side by side; reads the type of a convolution's weight."""
    from transformers import CLIPConfig, CLIPModel

    text = {
        **_widths(64, 2),
        "vocab_size": 256,
        "max_position_embeddings": 64,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    pictures = {**_widths(64, 2), "image_size": 32, "patch_size": 8}
    sizes = CLIPConfig(text_config=text, vision_config=pictures, projection_dim=32)
    return CLIPModel(sizes), {"input_ids": tokens(), **_pixels(32)}


def sam() -> Made:
    """Masks for points; layers that only other prompts use."""
    from transformers import SamConfig, SamModel

    sizes = SamConfig(
        vision_config={
            "hidden_size": 64,
            "output_channels": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "image_size": 64,
            "patch_size": 8,
            "window_size": 4,
            "global_attn_indexes": [1],
            "mlp_dim": 128,
            "num_pos_feats": 16,
        },
        prompt_encoder_config={
            "hidden_size": 32,
            "image_size": 64,
            "patch_size": 8,
            "image_embedding_size": 8,
            "mask_input_channels": 16,
        },
        mask_decoder_config={
            "hidden_size": 32,
            "mlp_dim": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "iou_head_hidden_dim": 32,
        },
    )
    return SamModel(sizes), {**_pixels(64), "input_points": noise(2, 1, 2, 2).sigmoid() * 64}


VISION = {
    "ViT": Entry(vit),
    "Swin": Entry(swin),
    "ConvNeXt": Entry(convnext),
    "ResNet": Entry(resnet),
    "MobileNetV2": Entry(mobilenet),
    "SegFormer": Entry(segformer),
    "DETR": Entry(detr),
    "CLIP": Entry(clip, {"input_ids": {1: "sequence"}}),
    "SAM": Entry(sam),
}
