"""`lora`: low-rank updates of the backbone's Linear layers (LoRA, arXiv:2106.09685), by Hugging Face's PEFT."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import Annotated, Any

from pydantic import Field, field_validator
from torch import nn

from dyt.families.base import Family
from dyt.registry import tuners
from dyt.tuners.base import Tuner, TunerSpec

ADAPTER = "default"
"""PEFT's adapter name; every layer has one pair of low-rank matrices, under this name."""
_ADDED = re.compile(rf"\.lora_[AB]\.{ADAPTER}\.weight$")


class LoRASpec(TunerSpec):
    """`lora`: W x + (alpha / rank) B A dropout(x), with A (rank, in) random and B (out, rank) zero at the start."""

    type: str = "lora"
    rank: Annotated[int, Field(ge=1, le=8192)] = 8
    """Rank of the update. On the one qkv layer of timm's attention, 8 gives ViT-B the 0.29 M parameters of the paper's
    table 3, and 32 the 1.18 M of table 6."""
    alpha: Annotated[float, Field(gt=0.0)] | None = None
    """The update is multiplied by alpha / rank. Null takes the rank, a factor of 1."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout probability on the layer's input, in training."""
    targets: tuple[str, ...] = ("attn.qkv",)
    """The Linear layers that get an update, by their path inside a block; at least one, and none twice."""

    @field_validator("targets")
    @classmethod
    def _some(cls, targets: tuple[str, ...]) -> tuple[str, ...]:
        if not targets or len(set(targets)) != len(targets):
            raise ValueError("targets names at least one layer, and none twice")
        return targets


@tuners("lora")
class LoRA(Tuner):
    """Acts in every block, dispatched or not. The frozen layer stays inside PEFT's layer as `base_layer`."""

    Spec = LoRASpec

    def __init__(self, spec: LoRASpec) -> None:
        super().__init__(spec)
        self.spec = spec

    def refusal(self, backbone: nn.Module, family: Family) -> str | None:
        if find_spec("peft") is None:
            return "it needs the package peft, which is not installed; pip install 'dyt[lora]'"
        try:
            import peft  # noqa: F401 - takes seconds; here, so that one that is broken is refused in time
        except ImportError as error:
            return f"it needs the package peft, which cannot be imported: {' '.join(str(error).split())}"
        for path in family.blocks(backbone):
            block = backbone.get_submodule(path)
            layers = {name for name, module in block.named_modules() if isinstance(module, nn.Linear)}
            uncalled = layers & set(family.uncalled(block))
            for target in self.spec.targets:
                if target in uncalled:
                    return f"targets: {path} reads the weight of '{target}' without calling it, so LoRA would not run"
                if target not in layers:
                    there = ", ".join(sorted(layers - uncalled))
                    return f"targets: {path} has no Linear '{target}'; allowed: {there}"
        return None

    def apply(self, backbone: nn.Module, family: Family) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        paths = [f"{block}.{target}" for block in family.blocks(backbone) for target in self.spec.targets]
        modes = [backbone.get_submodule(path).training for path in paths]
        alpha: Any = self.spec.rank if self.spec.alpha is None else self.spec.alpha  # peft says int, and divides
        config = LoraConfig(
            r=self.spec.rank,
            lora_alpha=alpha,
            lora_dropout=self.spec.dropout,
            target_modules="|".join(map(re.escape, paths)),
        )
        inject_adapter_in_model(config, backbone, ADAPTER)
        for path, training in zip(paths, modes, strict=True):
            backbone.get_submodule(path).train(training)

    def trains(self, name: str) -> bool:
        return _ADDED.search(name) is not None

    def plain(self, name: str) -> str | None:
        return None if self.trains(name) else name.replace(".base_layer.", ".")

    def stored(self, name: str) -> str:
        return name.replace(f".{ADAPTER}.weight", ".weight")

    def save_refusal(self, backbone: nn.Module) -> str | None:
        from peft.tuners.lora import LoraLayer

        scale = (self.spec.alpha or self.spec.rank) / self.spec.rank
        for name, layer in backbone.named_modules():
            if not isinstance(layer, LoraLayer):
                continue
            if layer.merged:
                return f"the update of '{name}' was merged by hand; undo that (its unmerge())"
            if layer.disable_adapters:
                return f"the update of '{name}' is off; switch it on (its enable_adapters(True))"
            if layer.scaling != {ADAPTER: scale}:
                return f"the update of '{name}' is scaled by another factor than its spec's alpha / rank; undo that"
        return None

    def merge_refusal(self) -> str | None:
        return None

    def merge(self, backbone: nn.Module) -> None:
        """Merges the low-rank updates into their layers and removes PEFT's wrappers (LoRA, section 4.1)."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = {name: module for name, module in backbone.named_modules() if isinstance(module, BaseTunerLayer)}
        for name, layer in layers.items():
            if not (layer.merged or layer.disable_adapters):  # by hand, through peft's own layer
                layer.merge()
            parent, _, child = name.rpartition(".")
            setattr(backbone.get_submodule(parent), child, layer.get_base_layer())
        vars(backbone).pop("peft_config", None)  # put there by peft, which would take the backbone for an adapted one
