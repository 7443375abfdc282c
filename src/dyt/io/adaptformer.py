"""Checkpoints of AdaptFormer's released code (ShoufaChen/AdaptFormer, arXiv:2205.13535): maps their names to ours.

Its block is x + attn(norm1(x)), then x + fc2(gelu(fc1(norm2(x)))) + s up(relu(down(x))): the adapter reads what norm2
reads, its output is added once, and s is 0.1. That is a bottleneck beside every MLP with every token active. q, k and v
are three layers there, of which timm's `qkv` is the rows in this order. The classifier is a batch norm without weights
and a linear layer; at inference both are one linear layer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dyt.config.presets import preset
from dyt.core.randomness import untouched
from dyt.errors import CheckpointError
from dyt.io.released import model_of, state_of
from dyt.model.dynamic import DynamicModel

WHAT = "not a checkpoint of AdaptFormer's released code"
EPSILON = 1e-6
"""Of the classifier's batch norm."""
LEARNED = "blocks.0.adaptmlp.scale"
_OURS = (
    (re.compile(r"blocks\.(\d+)\.adaptmlp\.(down|up)_proj\.(weight|bias)"), r"sites.blocks.\1.mlp.adapter.\2.\3"),
    (re.compile(r"blocks\.(\d+)\.adaptmlp\.scale"), r"sites.blocks.\1.mlp.adapter.scale"),
    (re.compile(r"blocks\.(\d+)\.(fc[12])\.(weight|bias)"), r"backbone.blocks.\1.mlp.\2.\3"),
)
_Q = re.compile(r"(blocks\.\d+\.attn\.)([qkv])_proj\.(weight|bias)")
_REFUSED = (
    (
        re.compile(r"blocks\.\d+\.adaptmlp\.adapter_layer_norm_before\."),
        "a norm in its adapters (ffn_adapter_layernorm_option 'in' or 'out'), which dyt's bottleneck does not have",
    ),
    (re.compile(r"embeddings\.\d+"), "prompts beside its adapters (--vpt), which from_adaptformer does not read"),
    (
        re.compile(r"blocks\.\d+\.mlp_token_select\."),
        "routers: it is of the released DyT code; read it with dyt.from_official",
    ),
)


@untouched()
def from_adaptformer(
    source: Mapping[str, Tensor] | str | Path,
    backbone: str = "vit_base_patch16_224",
    scale: float = 0.1,
    **timm_kwargs: Any,
) -> DynamicModel:
    """A model from a checkpoint of AdaptFormer's released code for images (parallel adapters without a norm).

    It is the model of preset `adaptformer`: dispatcher `always`, a bottleneck beside every MLP. The batch norm before
    its classifier is merged into the classifier, so that its running statistics do not change in further training. The
    generators of random numbers are left as they were.

    Args:
        source: a state dict under the released code's names, or the path of a file that holds one (.safetensors, or
            .pth holding tensors, plain values and the run's arguments only; also under a `model` entry).
        backbone: the timm name of the architecture.
        scale: the factor on the adapters' outputs (`ffn_adapter_scalar`), which the released scripts set to 0.1. A
            learned one is in the checkpoint, and read from it.
        **timm_kwargs: plain values for `timm.create_model` (img_size, depth, ...). `global_pool` is read from the
            tensors.

    Returns:
        The model in eval mode; classes and bottleneck are read from the tensors. Its spec has `weights: none`: save it
        with `whole=True`, or load it with `backbone=`.

    Raises:
        CheckpointError: an unreadable file; missing, unknown or wrongly shaped tensors, by name; adapters with a norm
            of their own, prompts, or a checkpoint of the DyT code.
        SpecError: a name or an argument that timm does not know, or a scale that is no number.
    """
    state = state_of(source)
    for pattern, what in _REFUSED:
        found = next(filter(pattern.match, state), None)
        if found is not None:
            raise CheckpointError(f"the checkpoint has {what} ({found})")
    width = _matrix(state, "blocks.0.adaptmlp.down_proj.weight").shape[0]
    state = _with_one_head(state)
    classes = _matrix(state, "head.weight").shape[0]
    pooling = {"global_pool": "avg"} if "fc_norm.weight" in state else {}
    learned = LEARNED in state
    adapter = {"type": "bottleneck", "dim": width, "scale": 1.0 if learned else scale, "scale_learnable": learned}
    spec = preset("adaptformer").model_dump(mode="json", exclude_unset=True) | {"adapter": adapter}
    return model_of(spec, backbone, pooling | timm_kwargs, classes, _ours(state))


def _matrix(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise CheckpointError(f"{WHAT}: no tensor '{name}'")
    if state[name].ndim != 2:
        raise CheckpointError(f"{WHAT}: '{name}' has shape {tuple(state[name].shape)}, and is no matrix")
    return state[name]


def _with_one_head(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state with a linear layer `head` in the place of batch norm and linear layer.

    Raises:
        CheckpointError: tensors of it that are missing or do not go together.
    """
    if "head.1.weight" not in state:
        return dict(state)
    weight, rest = _matrix(state, "head.1.weight"), {k: v for k, v in state.items() if not _in_head(k)}
    wanted = {"head.1.bias": weight.shape[:1], "head.0.running_mean": weight.shape[1:]}
    wanted |= {"head.0.running_var": weight.shape[1:]}
    for name, shape in wanted.items():
        if name not in state:
            raise CheckpointError(f"{WHAT}: no tensor '{name}'")
        if state[name].shape != shape:
            given = tuple(state[name].shape)
            raise CheckpointError(f"{WHAT}: '{name}' has shape {given}, not {tuple(shape)} as of its head.1.weight")
    bias, mean, variance = (state[name].double() for name in wanted)
    merged = weight.double() / (variance + EPSILON).sqrt()
    return rest | {"head.weight": merged.to(weight.dtype), "head.bias": (bias - merged @ mean).to(weight.dtype)}


def _in_head(key: str) -> bool:
    """Whether it is merged: another tensor of the head is left, and refused as unknown."""
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return key in {"head.1.weight", "head.1.bias", *(f"head.0.{name}" for name in buffers)}


def _ours(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By stored key; q, k and v of a layer in one tensor.

    Raises:
        CheckpointError: one of the three that is missing, or of another shape than q.
    """
    tensors: dict[str, Tensor] = {}
    for key, value in state.items():
        part = _Q.fullmatch(key)
        if part is None:
            name = next((p.sub(to, key) for p, to in _OURS if p.fullmatch(key)), f"backbone.{key}")
            tensors[name] = value.reshape(()) if name.endswith(".adapter.scale") and value.numel() == 1 else value
            continue
        names = [f"{part[1]}{letter}_proj.{part[3]}" for letter in "qkv"]
        for name in names:
            if name not in state:
                raise CheckpointError(f"the checkpoint has '{key}' and no '{name}'")
            if state[name].shape != value.shape or not value.ndim:
                given = tuple(state[name].shape)
                raise CheckpointError(f"'{name}' has shape {given}, and '{key}' has {tuple(value.shape)}")
        tensors[f"backbone.{part[1]}qkv.{part[3]}"] = torch.cat([state[name] for name in names])
    return tensors
