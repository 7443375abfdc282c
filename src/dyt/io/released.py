"""Checkpoints of other code: their tensors, and the model that is filled with all of them."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor

from dyt.assembly.backbone import check_name, faults, make
from dyt.assembly.build import build
from dyt.errors import CheckpointError, shortened
from dyt.model.dynamic import DynamicModel
from dyt.model.tensors import put, stored


def state_of(source: Mapping[str, Tensor] | str | Path) -> dict[str, Tensor]:
    """A state dict, or that in a file, without the `module.` of DistributedDataParallel.

    A .pth is read by torch's weights-only reader. Of classes it may name `argparse.Namespace` beside torch's own, as
    which such code saves its arguments; an instance of it holds plain values alone.

    Raises:
        CheckpointError: no such file, no weights file, or something in it that is no tensor with all of its values.
    """
    state = source if isinstance(source, Mapping) else _read(source)
    return {key.removeprefix("module."): value for key, value in state.items()}


def model_of(
    spec: Mapping[str, Any],
    backbone: str,
    timm_kwargs: Mapping[str, Any],
    classes: int,
    tensors: Mapping[str, Tensor],
) -> DynamicModel:
    """The model of a spec on a new backbone, with all of its tensors, by stored key, from the checkpoint.

    Args:
        spec: without backbone and head.
        backbone: the timm name of the architecture.
        timm_kwargs: for `timm.create_model`.
        classes: outputs of the classifier.
        tensors: by stored key; all but thresholds, which are 0.

    Returns:
        It in eval mode, with `weights: none` in its spec.

    Raises:
        CheckpointError: missing, unknown or wrongly shaped tensors, by name.
        SpecError: a name or an argument that timm does not know.
    """
    check_name(backbone)
    plain = make(backbone, timm_kwargs, num_classes=classes)
    named = {"name": backbone, "weights": "none", "args": dict(timm_kwargs)}
    model = build({**spec, "backbone": named, "head": {"num_classes": classes}}, backbone=plain)
    filled = {**tensors, **{f"sites.{site.name}.threshold": torch.zeros(()) for site in model.sites}}
    wrong = faults(stored(model, whole=True), filled)
    if wrong:
        raise CheckpointError(f"the checkpoint does not fit {backbone}: tensors {wrong}")
    put(model, filled, whole=True)
    assert model.origin is not None
    model.origin = model.origin.again(model, whole=False)  # these are the weights that it is built on
    return model.eval()


def _read(path: str | Path) -> Mapping[str, Tensor]:
    if not Path(path).is_file():
        raise CheckpointError(f"no file '{path}'")
    try:
        with torch.serialization.safe_globals([Namespace]):
            state: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever a reader of foreign files raises becomes the one answer, its cause attached
        raise CheckpointError(shortened(f"'{path}' is not a readable weights file: {error}", 600)) from error
    items = state.items() if isinstance(state, Mapping) else [(type(state).__name__, state)]
    wrong = next((key for key, value in items if not isinstance(key, str) or not _is_whole(value)), None)
    if wrong is not None:
        what = f"'{path}' has something else than a plain tensor with all of its values: {wrong}"
        raise CheckpointError(shortened(what, 600))
    return state


def _is_whole(value: object) -> bool:
    """Whether a value out of a file is a tensor whose values are all there: one of a few bytes may claim any shape."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()  # type: ignore[attr-defined]
