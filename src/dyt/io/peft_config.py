"""The folders of Hugging Face's PEFT: how it calls files and tensors, and its `adapter_config.json`, read without it.

The tensors of a layer are `base_model.model.blocks.3.attn.qkv.lora_A.weight` and `...lora_B.weight`, and those of
`modules_to_save`, of which the classifier is one, `base_model.model.head.weight`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dyt.errors import CheckpointError, quoted, shortened
from dyt.io.header import decoded, refusal

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
UPDATE = re.compile(r"(.+)\.lora_[AB]\.weight")
"""A tensor of a low-rank update, without the prefix."""
MODULES = 1000
"""Names in `modules_to_save`."""
LARGEST = 1 << 20
"""Bytes; PEFT writes two thousand."""
USED = frozenset({"r", "lora_alpha", "lora_dropout", "modules_to_save", "peft_type"})
SHOWN_BY_TENSORS = frozenset({"target_modules", "exclude_modules"})
"""Which layers have an update: the names of the tensors tell it. As these may be patterns, they are not evaluated."""
OF_ELSEWHERE = frozenset({"auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version"})
"""Where PEFT had it from, and what for. Nothing of it is opened."""
WITHOUT_EFFECT = frozenset({"task_type", "megatron_core", "qalora_group_size", "layers_pattern"})
"""None by themselves: other fields, which are refused, say whether they are used."""
OFF: Mapping[str, tuple[Any, ...]] = {
    "bias": ("none",),
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),  # the others change the frozen weights as well
}
"""Fields of LoRA's variants whose neutral value is a word; that of all others is false, null, or empty."""


@dataclass(frozen=True)
class LoRAConfig:
    """What is used of it.

    Attributes:
        rank: PEFT's `r`.
        alpha: `lora_alpha`; the update is multiplied by alpha / rank.
        dropout: `lora_dropout`.
        modules_to_save: names of modules, which PEFT compares with the ends of paths.
    """

    rank: Any
    alpha: Any
    dropout: Any
    modules_to_save: tuple[str, ...]


def read_config(path: Path) -> LoRAConfig:
    """What a file says. Values are of JSON; the spec of the tuner checks the numbers.

    Raises:
        CheckpointError: no such file, no JSON object, not LoRA, or a variant of LoRA that this library does not have,
            by the name of the field.
    """
    fields = _fields(path)
    if fields.get("peft_type") != "LORA":
        raise refusal(path, f"is of peft_type {quoted(fields.get('peft_type'))}; from_peft reads LORA")
    missing = sorted({"r", "lora_alpha"} - fields.keys())
    if missing:
        raise refusal(path, f"has no {missing[0]}, which every LoraConfig has")
    for name in sorted(fields.keys() - USED - SHOWN_BY_TENSORS - OF_ELSEWHERE - WITHOUT_EFFECT):
        value = fields[name]
        if not _is_off(name, value):
            allowed = " or ".join(map(_json, OFF.get(name, (False, None))))
            raise refusal(
                path,
                f"sets {shortened(name, 60)} to {quoted(value)}, which dyt's tuner lora does not have; allowed: "
                f"{allowed}; merge it with PEFT (merge_and_unload), and use the model as a backbone",
            )
    saved = fields.get("modules_to_save") or ()
    named = isinstance(saved, (list, tuple)) and all(isinstance(name, str) and name for name in saved)
    if not named or len(saved) > MODULES:
        raise refusal(path, f"has modules_to_save {quoted(saved)}; allowed: null, or a list of up to {MODULES} names")
    return LoRAConfig(fields["r"], fields["lora_alpha"], fields.get("lora_dropout", 0.0), tuple(saved))


def _fields(path: Path) -> Mapping[str, Any]:
    try:
        with path.open("rb") as file:
            raw = file.read(LARGEST + 1)
        text = "" if len(raw) > LARGEST else raw.decode()
    except OSError as error:
        raise CheckpointError(f"cannot read '{path}': {error.strerror}; give a folder of PEFT's") from error
    except UnicodeDecodeError as error:
        raise refusal(path, "is no text in UTF-8") from error
    if len(raw) > LARGEST:
        raise refusal(path, f"has more than {LARGEST} bytes")
    fields = decoded(text, "JSON", path)
    if not isinstance(fields, dict):
        raise refusal(path, f"is no JSON object but {quoted(fields)}")
    return fields


def _is_off(name: str, value: Any) -> bool:
    if name in OFF:
        return any(value is known or (isinstance(known, str) and value == known) for known in OFF[name])
    return value is None or value is False or value in ("", [], {})


def _json(value: Any) -> str:
    return {True: "true", False: "false", None: "null"}[value] if not isinstance(value, str) else f"'{value}'"
