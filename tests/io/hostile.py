"""Files as an attacker would make them: a sound one with one thing changed, under a right checksum."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import dyt
from dyt.io.checkpoint import CHECKSUM, checksum
from laws.models import tiny

Change = Callable[[dict[str, Any], dict[str, str], dict[str, Tensor]], Any]
"""Changes the spec, the metadata (whose `spec` is written afterwards) and the tensors of a file in place."""
SITE = "blocks.0.mlp"
DATA = {"input_size": [3, 32, 32], "mean": [0.5] * 3, "std": [0.5] * 3}
MODEL = "vit_tiny_patch16_224"


def sound(path: Path) -> Path:
    """A file with its whole backbone, which loads."""
    dyt.save(tiny(adapter={"type": "bottleneck", "dim": 4}), path, whole=True)
    return path


def changed(base: Path, path: Path, change: Change) -> Path:
    """Writes the file of `base` with one thing changed."""
    with safe_open(base, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        metadata: dict[str, str] = file.metadata()
    spec = json.loads(metadata["spec"])
    change(spec, metadata, tensors)
    metadata = {**metadata, "spec": json.dumps(spec)}
    save_file(tensors, path, metadata | {CHECKSUM: checksum(tensors, metadata)})
    return path


def _said(field: str, value: Any) -> Change:
    """A field of the spec, by its path."""

    def change(spec: dict[str, Any], metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
        *parents, last = field.split(".")
        for parent in parents:
            spec = spec[parent]
        spec[last] = value

    return change


def _entry(name: str, value: Any) -> Change:
    """An entry of the metadata: JSON, or a string as it is."""
    text = value if isinstance(value, str) else json.dumps(value)
    return lambda spec, metadata, tensors: metadata.update({name: text})


def _tensor(name: str, value: float) -> Change:
    return lambda spec, metadata, tensors: tensors[name].view(-1)[:1].fill_(value)


def _both(*changes: Change) -> Change:
    def change(spec: dict[str, Any], metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
        for each in changes:
            each(spec, metadata, tensors)

    return change


def _without_backbone(spec: dict[str, Any], metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    metadata.pop("backbone")
    for key in [key for key in tensors if key.startswith("backbone.") and not key.startswith("backbone.head")]:
        del tensors[key]


def _from(weights: str) -> Change:
    """A file without its backbone, whose weights are said to be there."""
    return _both(_without_backbone, _said("backbone.weights", weights))


def _break_even(name: str = SITE, **fields: Any) -> Change:
    return _entry("break_even", {name: {"batches": [1], "shares": [0.5], "expected": 0.5} | fields})


def _many(spec: dict[str, Any], metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    spec["adapter"] = {"type": "moe", "experts": 1_000_000, "dim": 4}
    tensors.update({f"sites.x.{i}": torch.zeros(0) for i in range(100)})


ADDRESS = "http://127.0.0.1:9/x.safetensors"
FETCHES: Mapping[str, Change] = {
    "an address in pretrained_cfg": _said("backbone.args.pretrained_cfg", {"url": ADDRESS}),
    "an address over pretrained_cfg": _said("backbone.args.pretrained_cfg_overlay", {"url": ADDRESS}),
    "a folder to fetch into": _both(_from("pretrained"), _said("backbone.args.cache_dir", ".")),
    "a checkpoint of timm": _said("backbone.args.checkpoint_path", "/etc/passwd"),
    "a repository": _said("backbone.name", "hf-hub:stranger/model"),
    "a repository, pretrained": _both(_from("pretrained"), _said("backbone.name", "hf_hub:stranger/model")),
    "a folder with a model": _said("backbone.name", "local-dir:/etc"),
    "a folder in a tag": _said("backbone.name", f"{MODEL}.../../etc"),
    "weights from the system": _from("/etc/passwd"),
    "weights from the environment": _from("/proc/self/environ"),
    "weights from an address": _from(ADDRESS),
    "weights beside the file": _from("model.safetensors"),
    "weights that are not there": _from("/no/such/file"),
}
NAMES: Mapping[str, Change] = {
    "a path for a module": _said("modules_to_save", ["/etc/passwd"]),
    "a path for a target": _said("tuner", {"type": "lora", "targets": ["../../etc/passwd"]}),
    "an attribute for a target": _said("tuner", {"type": "lora", "targets": ["__class__.__init__"]}),
    "a path for a component": _said("adapter", {"type": "/tmp/adapter.py"}),
    "a module for a component": _said("dispatcher", {"type": "os.system"}),
    "a class for a block": _said("backbone.args.block_fn", "torch.nn.Linear"),
    "a call for a layer": _said("backbone.args.norm_layer", "__import__('os').system('id')"),
    "a file of pruned layers": _said("backbone.args.pruned", True),
    "features only": _said("backbone.args.features_only", True),
    "a device": _said("backbone.args.device", "cuda"),
    "an unknown argument": _said("backbone.args.hook", "print"),
    "escapes in a name": _said("backbone.name", "\x1b[31mred\nline"),
    "a long name": _said("backbone.name", "x" * 100_000),
    "a mapping for a number": _said("backbone.args.depth", {"a": 1}),
}
SIZES: Mapping[str, Change] = {
    "a wide adapter": _said("adapter.dim", 2_000_000),
    "an adapter wider than memory": _said("adapter.dim", 1_000_000_000),
    "an adapter wider than a number": _said("adapter.dim", 10**30),
    "an adapter of another width": _said("adapter.dim", 5),
    "a million experts": _many,
    "a deep backbone": _said("backbone.args.depth", 100_000),
    "a backbone of 400 layers": _said("backbone.args.depth", 400),
    "no layers": _said("backbone.args.depth", -3),
    "half a layer": _said("backbone.args.depth", 1.5),
    "a wide backbone": _said("backbone.args.embed_dim", 65_536),
    "a wide frozen layer": _both(_from("pretrained"), _said("backbone.args.mlp_ratio", 60_000.0)),
    "a ratio beyond numbers": _said("backbone.args.mlp_ratio", 1e300),
    "large images": _said("backbone.args.img_size", 60_000),
    "no patches": _said("backbone.args.patch_size", 0),
    "no heads": _said("backbone.args.num_heads", 0),
    "many classes": _said("head.num_classes", 1_000_000_000),
    "many prompts": _said("tuner", {"type": "vpt", "tokens": 10**12}),
    "a high rank": _said("tuner", {"type": "lora", "rank": 10**9}),
    "a layer that is not there": _said("variant.layers", [99]),
    "a rate too many": _said("capacity", {"share": [0.5] * 7}),
    "another head": _said("head", {"type": "query", "num_classes": 4}),
    "another architecture": _both(_said("backbone.name", "resnet50"), _said("backbone.args", {})),
}
ENTRIES: Mapping[str, Change] = {
    "a nested break-even": _entry("break_even", "[" * 100_000),
    "a deep break-even": _entry("break_even", "[" * 900 + "]" * 900),
    "a list of break-evens": _entry("break_even", [1]),
    "a break-even of no site": _break_even("blocks.7.mlp"),
    "a break-even that is NaN": _break_even(expected=float("nan")),
    "a break-even that is infinite": _break_even(shares=[float("inf")]),
    "a break-even of words": _break_even(batches=["1"]),
    "a batch beyond numbers": _break_even(batches=[10**400]),
    "nested budgets": _entry("budgets", "[" * 100_000),
    "budgets of no site": _entry(
        "budgets",
        {
            "rates": [0.5, 1.0],
            "reached": [0.5, 1.0],
            "sites": {"blocks.7.mlp": {"thresholds": [0.0, -1.0], "rates": [0.5, 1.0]}},
            "budget": None,
        },
    ),
    "a nested spec": _entry("data_config", "[" * 100_000),
    "images of terabytes": _entry("data_config", DATA | {"input_size": [3, 10**9, 10**9]}),
    "data of terabytes": _entry("data_config", DATA | {"data": {"size": 10**9}}),
    "labels with escapes": _entry("data_config", DATA | {"label_names": ["\x1b]0;owned\x07"] * 5}),
    "a statistic that is NaN": _entry("data_config", DATA | {"mean": [float("nan")] * 3}),
    "another number of labels": _entry("data_config", DATA | {"label_names": ["a"] * 9}),
    "tensors that are not there": _entry("backbone", ["a"]),
    "numbers for names": _entry("backbone", [1]),
    "an infinite size": _entry("resizable", '{"size": [1e999, 1]}'),
}
VALUES: Mapping[str, Change] = {
    "a weight that is NaN": _tensor("backbone.head.weight", float("nan")),
    "an infinite threshold": _tensor(f"sites.{SITE}.threshold", float("inf")),
    "an infinite adapter": _tensor(f"sites.{SITE}.adapter.up.bias", float("-inf")),
}
FILES: Mapping[str, Change] = {**FETCHES, **NAMES, **SIZES, **ENTRIES, **VALUES}
"""Every change by what it is."""
