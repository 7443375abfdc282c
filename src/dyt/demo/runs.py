"""The three runs of the demo, as run specs: linear probe, static adapter and DyT, on one backbone and one data set."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from dyt.config.spec import parse
from dyt.errors import WeightsError
from dyt.train.named_runs import recipe, with_preset
from dyt.train.spec import RunSpec

SHIPPED = "glyphs_vit.safetensors"
SHIPPED_BACKBONE = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
"""For `timm.create_model("vit_tiny_patch16_224", ...)`; see CARD.md beside the weights."""

METHODS: Mapping[str, str | None] = {"linear probe": "linear", "static adapter": "static_adapter_vtab", "DyT": None}
"""Each with the preset that it takes; None is the default recipe itself."""


def shipped() -> dict[str, Any]:
    """The backbone that comes with the package, pretrained on rendered glyphs without digits.

    Raises:
        WeightsError: the package was installed without it.
    """
    with as_file(files("dyt.demo") / SHIPPED) as path:
        if not path.is_file():
            raise WeightsError(
                f"this installation lacks its demo weights ({path.name}); reinstall dyt, or give --backbone"
            )
        return {"name": "vit_tiny_patch16_224", "weights": str(path), "args": SHIPPED_BACKBONE}


def run_specs(backbone: Mapping[str, Any], data: Path, epochs: int) -> dict[str, RunSpec]:
    """The run of each method, equal in everything but the method.

    Args:
        backbone: fields of a BackboneSpec.
        data: the data's directory.
        epochs: of each run.

    Raises:
        SpecError: a value that is not allowed.
    """
    specs = {}
    for method, preset in METHODS.items():
        plain = recipe("default") if preset is None else with_preset(recipe("default"), preset)
        plain["model"]["backbone"] = dict(backbone)
        plain["data"] |= {"root": str(data)}
        plain["train"] |= {"epochs": epochs, "warmup_epochs": min(plain["train"]["warmup_epochs"], epochs / 4)}
        specs[method] = parse(RunSpec, plain)
    return specs
