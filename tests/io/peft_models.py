"""Tiny models with LoRA, of this library and of PEFT itself, and PEFT's folders of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

import dyt
from laws.models import TINY, Case, shaken

CASE = Case(TINY, (32, 32), 2, 0)
ALONE = {"dispatcher": "always", "adapter": "none"}
CONFIG, TENSORS = "adapter_config.json", "adapter_model.safetensors"


def lora(backbone: nn.Module | None = None, **changes: Any) -> dyt.DynamicModel:
    spec = {**ALONE, "tuner": {"type": "lora", "rank": 2, "alpha": 3.0}, "head": {"num_classes": 5}, **changes}
    return shaken(dyt.build(spec, backbone=CASE.backbone() if backbone is None else backbone)).eval()


def adapted(folder: Path, seed: int = 1, **config: Any) -> nn.Module:
    """A model of PEFT's own on the plain backbone, saved in the folder."""
    import peft  # by whoever has it

    torch.manual_seed(seed)
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["qkv"], "modules_to_save": ["head"]} | config
    model = peft.get_peft_model(CASE.backbone(), peft.LoraConfig(**config)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    return model


def said(folder: Path, **changes: Any) -> None:
    """Changes fields of the folder's config."""
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
