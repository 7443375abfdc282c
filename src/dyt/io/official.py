"""Checkpoints of the authors' released code: maps their names to ours."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from dyt.core.randomness import untouched
from dyt.errors import CheckpointError
from dyt.io.released import model_of, state_of
from dyt.model.dynamic import DynamicModel

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

    The generators of random numbers are left as they were. `from_adaptformer` reads those of AdaptFormer's code.

    Args:
        source: a state dict under the released code's names, or the path of a file that holds one (.safetensors, or
            .pth holding tensors and plain values only; also under a `model` or `state_dict` entry).
        backbone: the timm name of the architecture.
        **timm_kwargs: plain values for `timm.create_model` (img_size, depth, ...).

    Returns:
        The model in eval mode; classes and bottleneck are read from the tensors. Its spec has `weights: none`: save it
        with `whole=True`, or load it with `backbone=`.

    Raises:
        CheckpointError: an unreadable file; missing, unknown or wrongly shaped tensors, by name.
        SpecError: a name or an argument that timm does not know.
    """
    state = state_of(source)
    if "blocks.0.attn.q_proj.weight" in state:
        raise CheckpointError(
            "not a checkpoint of the released DyT code, but of AdaptFormer's (blocks.0.attn.q_proj.weight); read it "
            "with dyt.from_adaptformer"
        )
    try:
        width = state["blocks.0.adaptmlp.down_proj.weight"].shape[0]
        classes = state["head.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"not a checkpoint of the released DyT code: no tensor {error}") from None
    except IndexError:
        raise CheckpointError("not a checkpoint of the released DyT code: its down projection is a number") from None
    tensors = {_ours(key): value for key, value in state.items()}
    return model_of({"adapter": {"type": "bottleneck", "dim": width}}, backbone, timm_kwargs, classes, tensors)


def _ours(key: str) -> str:
    for pattern, name in _NAMES:
        if pattern.match(key):
            return pattern.sub(name, key)
    return f"backbone.{key}"
