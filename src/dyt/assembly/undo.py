"""Taking apart what `build` made: the plain backbone again."""

from __future__ import annotations

from typing import Any

from torch import nn

from dyt.assembly.window_attention import take_windows
from dyt.errors import UnsupportedError
from dyt.families.capture import forget
from dyt.model.block import DynamicBlock
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.parts import classifiers


class Unwrapped(nn.Module):
    """In the place of the backbone of a model that was taken apart."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refuses.

        Raises:
            UnsupportedError: always.
        """
        raise UnsupportedError("this model was taken apart by dyt.unwrap; use the backbone, or build on it again")


def unwrap(model: nn.Module) -> Any:
    """The plain timm model again that `build` was given or made: its own blocks, without sites, adapters and reducers.

    The same object, changed in place as `build` changes it. Frozen weights are bit by bit what they were; what
    requires a gradient, and the attention without `backbone.window_size`, as before; the classifier as it is now. What
    was trained of the backbone itself stays (`trainable: full`, `modules_to_save`, tuner `bitfit`), and the updates of
    tuner `lora` are merged into its weights, as peft's `merge_and_unload` does. A model of transformers comes back in
    its shell, as `.model`.

    Args:
        model: the dynamic model, or what wraps it; of no use afterwards. To keep it, unwrap a `copy.deepcopy` of it.

    Returns:
        The backbone, in the model's train or eval mode.

    Raises:
        DyTError: not one dynamic model.
        UnsupportedError: a model that was rewritten for inference or taken apart, or a tuner whose effect no plain
            backbone has (`vpt`). Nothing was changed.
    """
    model = dynamic_of(model)
    reason = unwrap_refusal(model)
    if reason is not None:
        raise UnsupportedError(f"unwrap is not available for this model: {reason}")
    backbone, training = model.backbone, model.training
    blocks = {path: module for path, module in backbone.named_modules() if isinstance(module, DynamicBlock)}
    checkpointing = any(block.grad_checkpointing for block in blocks.values())
    if model.tuner is not None:
        model.tuner.merge(backbone)
    for path, block in blocks.items():
        parent, _, name = path.rpartition(".")
        backbone.get_submodule(parent).register_module(name, block.restored())
    for module in backbone.modules():
        forget(module)
    vars(backbone).pop("set_grad_checkpointing", None)  # put there by build, in the way of timm's own
    take_windows(backbone)
    thawed = frozenset() if model.origin is None else model.origin.thawed
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in thawed)
    for head in classifiers(backbone):
        head.requires_grad_(True)
    if checkpointing:
        backbone.set_grad_checkpointing(True)
    model.backbone = Unwrapped()
    return backbone.train(training)


def unwrap_refusal(model: DynamicModel) -> str | None:
    """Why a model cannot be taken apart, in words; None when it can."""
    if isinstance(model.backbone, Unwrapped):
        return "it was taken apart already"
    if type(model) is not DynamicModel:
        return f"{type(model).__name__} has other weights than its backbone had; unwrap the one that it was made from"
    return None if model.tuner is None else model.tuner.merge_refusal()
