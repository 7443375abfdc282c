"""A trained model as a plain one that computes the same, where a plain one can."""

from __future__ import annotations

import copy
from typing import Any

from torch import nn

from dyt.assembly.undo import unwrap, unwrap_refusal
from dyt.core.offloading import refuse_absent
from dyt.errors import UnsupportedError
from dyt.heads import Classifier
from dyt.model.dynamic import DynamicModel, dynamic_of


def merge(model: nn.Module) -> Any:
    """A plain timm model with the same outputs: what was trained is merged into its weights.

    For models that skip nothing and add nothing beside the backbone: tuners `lora` (W + alpha / rank B A, as peft's
    `merge_and_unload`) and `bitfit`, `modules_to_save`, `trainable: full`, and the linear probe. In float32 the
    outputs are the same up to rounding, about 1e-6. In a lower precision the merged weights are rounded to that dtype.

    Args:
        model: the dynamic model, or what wraps it. It stays as it is; `dyt.unwrap` takes it apart instead.

    Returns:
        A backbone with its own memory, in the model's train or eval mode. Its state dict has timm's names alone, so
        that `timm.create_model(name, num_classes=...).load_state_dict` takes it. Of a model of transformers it is the
        shell with it, as `.model`.

    Raises:
        UnsupportedError: a part that no plain model has, by name: a dispatcher that may skip tokens, an adapter, a
            reducer, prompts, a head behind the backbone, attention in windows; a model that was rewritten for
            inference or taken apart; or weights that are not all there (offloaded, sharded).
        DyTError: not one dynamic model.
    """
    inside = dynamic_of(model)
    reason = merge_refusal(inside)
    if reason is not None:
        raise UnsupportedError(f"merge is not available for this model: {reason}")
    refuse_absent(inside, "merge")
    return unwrap(copy.deepcopy(inside))


def merge_refusal(model: DynamicModel) -> str | None:
    """Why no plain model computes what this one does, and what to do, in words; None when one does."""
    reason = unwrap_refusal(model)
    if reason is not None:
        return reason
    parts = beside_backbone(model)
    if not parts:
        return None
    return (
        f"{'; '.join(parts)}; no plain model does. dyt export writes a file that runs without this library, and "
        f"dyt.unwrap gives the backbone without that"
    )


def beside_backbone(model: DynamicModel) -> list[str]:
    """What such a model does that its backbone with other weights does not, each part in words; none where it is so."""
    spec, parts = model.spec, []
    if spec.dispatcher.type != "always":
        parts.append(f"dispatcher '{spec.dispatcher.type}' may skip tokens")
    if spec.adapter.type != "none":
        parts.append(f"adapter '{spec.adapter.type}' adds a branch to each block")
    if spec.reducer is not None:
        parts.append(f"reducer '{spec.reducer.type}' takes tokens out between the blocks")
    if type(model.head) is not Classifier:
        parts.append(f"head '{spec.head.type}' stands behind the backbone")
    if spec.backbone.window_size is not None:
        parts.append("backbone.window_size keeps its attention within windows")
    return parts
