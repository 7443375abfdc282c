"""Tiny models of Hugging Face transformers (none where it is not installed): ViT, DINOv2, CLIP, SigLIP."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from torch import nn

from families.tiny import EVERY, Tiny
from laws.models import CLASSES

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
WIDE = SIZE | {"intermediate_size": 64}
TEXT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
TEXT |= {"vocab_size": 8, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def _made(cls: str, config: str, attention: str = "sdpa", **fields: Any) -> Any:
    def make(noise: float) -> nn.Module:
        import transformers

        made = getattr(transformers, config)(**fields, **_noise(config, noise), num_labels=CLASSES)
        model: nn.Module = getattr(transformers, cls)._from_config(made, attn_implementation=attention)
        return model

    return make


def _noise(config: str, rate: float) -> dict[str, Any]:
    if config.startswith(("CLIP", "Siglip")):
        return {"attention_dropout": rate}
    path = {"drop_path_rate": rate} if config.startswith("Dinov2") else {}
    return {"hidden_dropout_prob": rate, "attention_probs_dropout_prob": rate, **path}


def _joint(cls: str, config: str, attention: str = "sdpa") -> Any:
    """A classifier whose configuration is that of a model of images and text."""

    def make(noise: float) -> nn.Module:
        import transformers

        vision = WIDE | {"attention_dropout": noise}
        made = getattr(transformers, config)(vision_config=vision, text_config=TEXT)
        made.num_labels = CLASSES
        model: nn.Module = getattr(transformers, cls)._from_config(made, attn_implementation=attention)
        return model

    return make


_VIT, _DINO, _REGISTERS = "ViTConfig", "Dinov2Config", "Dinov2WithRegistersConfig"
_CLIP, _SIGLIP = "CLIPVisionConfig", "SiglipVisionConfig"
_GATED = {"use_swiglu_ffn": True, "mlp_ratio": 2}

_ROWS = {
    "vit": ("hf_vit", _made("ViTForImageClassification", _VIT, **WIDE), 1),
    "vit, eager": ("hf_vit", _made("ViTForImageClassification", _VIT, "eager", **WIDE), 1),
    "vit, no classifier": ("hf_vit", _made("ViTModel", _VIT, pooler_output_size=24, **WIDE), 1),
    "dinov2": ("hf_dinov2", _made("Dinov2ForImageClassification", _DINO, mlp_ratio=2, **SIZE), 1),
    "dinov2, gated, no classifier": ("hf_dinov2", _made("Dinov2Model", _DINO, **_GATED, **SIZE), 1),
    "dinov2, registers": (
        "hf_dinov2",
        _made("Dinov2WithRegistersForImageClassification", _REGISTERS, num_register_tokens=3, mlp_ratio=2, **SIZE),
        4,
    ),
    "dinov2, registers, eager, no classifier": (
        "hf_dinov2",
        _made("Dinov2WithRegistersModel", _REGISTERS, "eager", num_register_tokens=4, mlp_ratio=2, **SIZE),
        5,
    ),
    "clip": ("hf_clip", _joint("CLIPForImageClassification", "CLIPConfig"), 1),
    "clip, eager, no classifier": ("hf_clip", _made("CLIPVisionModel", _CLIP, "eager", **WIDE), 1),
    "siglip": ("hf_clip", _joint("SiglipForImageClassification", "SiglipConfig"), 0),
    "siglip, no classifier": ("hf_clip", _made("SiglipVisionModel", _SIGLIP, **WIDE), 0),
    "siglip, mean pooling": ("hf_clip", _made("SiglipVisionModel", _SIGLIP, vision_use_head=False, **WIDE), 0),
}
_CHILD = {"hf_vit": "attention", "hf_dinov2": "attention", "hf_clip": "self_attn"}

HUGGINGFACE = {
    name: Tiny(family, make, prefix, EVERY, attn=_CHILD[family])
    for name, (family, make, prefix) in _ROWS.items()
    if find_spec("transformers")
}
"""By a name for people."""
