"""Checkpoints of the authors' released code: maps their names to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from timm.models import load_state_dict
from torch import Tensor

from dyt.assembly.backbone import check_name, faults, make
from dyt.assembly.build import build
from dyt.core.randomness import untouched
from dyt.errors import CheckpointError, shortened
from dyt.model.dynamic import DynamicModel
from dyt.model.tensors import put, stored

_NAMES = (
    (re.compile(r"^blocks\.(\d+)\.adaptmlp\.(down|up)_proj\.(weight|bias)$"), r"sites.blocks.\1.mlp.adapter.\2.\3"),
    (
        re.compile(r"^blocks\.(\d+)\.mlp_token_select\.mlp_head\.(weight|bias)$"),
        r"sites.blocks.\1.mlp.dispatcher.router.\2",
    ),
)


@untouched()
def from_official(
    source: Mapping[str, Tensor] | str | Path, backbone: str = "vit_base_patch16_224", **timm_kwargs: Any
) -> DynamicModel:
    """A model from a checkpoint of the released DyT code (MLP dispatch, plain adapter).

    The generators of random numbers are left as they were.

    Args:
        source: a state dict under the released code's names, or the path of a file that holds one (.safetensors, or
            .pth holding tensors only; also under a `model` or `state_dict` entry).
        backbone: the timm name of the architecture.
        **timm_kwargs: plain values for `timm.create_model` (img_size, depth, ...).

    Returns:
        The model in eval mode; classes and bottleneck are read from the tensors. Its spec has `weights: none`: save it
        with `whole=True`, or load it with `backbone=`.

    Raises:
        CheckpointError: an unreadable file; missing, unknown or wrongly shaped tensors, by name.
        SpecError: a name or an argument that timm does not know.
    """
    state = {key.removeprefix("module."): value for key, value in _state(source).items()}
    try:
        width = state["blocks.0.adaptmlp.down_proj.weight"].shape[0]
        classes = state["head.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"not a checkpoint of the released DyT code: no tensor {error}") from None
    except IndexError:
        raise CheckpointError("not a checkpoint of the released DyT code: its down projection is a number") from None
    check_name(backbone)
    plain = make(backbone, timm_kwargs, num_classes=classes)
    spec = {
        "backbone": {"name": backbone, "weights": "none", "args": timm_kwargs},
        "head": {"num_classes": classes},
        "adapter": {"type": "bottleneck", "dim": width},
    }
    model = build(spec, backbone=plain)
    tensors = {_ours(key): value for key, value in state.items()}
    tensors |= {f"sites.{site.name}.threshold": torch.zeros(()) for site in model.sites}
    wrong = faults(stored(model, whole=True), tensors)
    if wrong:
        raise CheckpointError(f"the checkpoint does not fit {backbone}: tensors {wrong}")
    put(model, tensors, whole=True)
    assert model.origin is not None
    model.origin = model.origin.again(model, whole=False)  # these are the weights that it is built on
    return model.eval()


def _ours(key: str) -> str:
    for pattern, name in _NAMES:
        if pattern.match(key):
            return pattern.sub(name, key)
    return f"backbone.{key}"


def _state(source: Mapping[str, Tensor] | str | Path) -> Mapping[str, Tensor]:
    if isinstance(source, Mapping):
        return source
    if not Path(source).is_file():
        raise CheckpointError(f"no file '{source}'")
    try:
        state: dict[str, Tensor] = load_state_dict(str(source), weights_only=True)
    except Exception as error:  # whatever a reader of foreign files raises becomes the one answer, its cause attached
        raise CheckpointError(shortened(f"'{source}' is not a readable weights file: {error}", 600)) from error
    items = state.items() if isinstance(state, Mapping) else [(type(state).__name__, state)]
    wrong = next((key for key, value in items if not isinstance(key, str) or not _is_whole(value)), None)
    if wrong is not None:
        what = f"'{source}' has something else than a plain tensor with all of its values: {wrong}"
        raise CheckpointError(shortened(what, 600))
    return state


def _is_whole(value: object) -> bool:
    """Whether a value out of a file is a tensor whose values are all there: one of a few bytes may claim any shape."""
    plain = isinstance(value, Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return plain and value.numel() * value.element_size() <= value.untyped_storage().nbytes()  # type: ignore[attr-defined]
