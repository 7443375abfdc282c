"""Model specs by name. Each is the whole spec as plain data, so that it can be printed, saved and changed."""

from __future__ import annotations

from typing import Any

from dyt.config.spec import DyTSpec, parse
from dyt.errors import SpecError, nearest, quoted

_STATIC = {"rate": 1.0, "rate_weight": 0.0, "complete": 0.0, "distill": 0.0}
_STATIC_ADAPTER: dict[str, Any] = {"dispatcher": {"type": "always"}, "objective": _STATIC}
_NONE: dict[str, Any] = {"adapter": {"type": "none"}}
_ALONE: dict[str, Any] = {**_STATIC_ADAPTER, **_NONE}
_VTAB: dict[str, Any] = {"adapter": {"type": "bottleneck", "dim": 8}}
_SWIN_B: dict[str, Any] = {"backbone": {"name": "swin_base_patch4_window7_224.ms_in22k"}}
_VIT_L: dict[str, Any] = {"backbone": {"name": "vit_large_patch16_224.augreg_in21k"}}


def _rate(rate: float) -> dict[str, Any]:
    return {"objective": {"rate": rate}}


_PEER: dict[str, Any] = {**_ALONE, "trainable": "full"}
_ADAPTED: dict[str, Any] = {**_STATIC_ADAPTER, **_VTAB}
_DYNAMICVIT = {"type": "dynamicvit", "keep": 0.85}
"""The paper does not give the share; this one has the cost in its table."""

_VITDET: dict[str, Any] = {
    "backbone": {"name": "vit_base_patch16_224.augreg_in21k", "args": {"img_size": 1024}, "window_size": 14},
    "adapter": {"type": "bottleneck", "dim": 128},
    "head": {"type": "mask_rcnn", "num_classes": 80, "rpn_convs": 2, "box_head": "conv"},
}
"""ViTDet with Mask R-CNN on COCO: windows of at most 14 patches, four blocks with global attention."""
_NO_TEACHER = {"complete": 0.0, "distill": 0.0}

_PRESETS: dict[str, dict[str, Any]] = {
    # The paper's defaults (table 6, "dyt"): MLP variant, d = 64, r = 0.5, tau = 5, no remedy for short runs.
    "dyt": {},
    # Table 1: the other variants.
    "dyt_attn": {"variant": {"type": "attn"}},
    "dyt_attn_mlp": {"variant": {"type": "attn_mlp"}, **_rate(0.7)},
    "dyt_layer": {"variant": {"type": "layer"}, **_rate(0.7)},
    # Table 3's settings on VTAB-1K: d = 8.
    "dyt_vtab": _VTAB,
    "dyt_vtab_r0.7": {**_VTAB, **_rate(0.7)},
    "dyt_vtab_r0.9": {**_VTAB, **_rate(0.9)},
    # The paper's baselines (tables 3 and 6), nothing dispatched; docs/baselines.md says what each computes, and why so.
    # AdaptFormer is DyT with every token active and neither of the complete model's terms.
    "adaptformer": _STATIC_ADAPTER,
    "adaptformer_vtab": {**_STATIC_ADAPTER, **_VTAB},
    "static_adapter": _STATIC_ADAPTER,
    "static_adapter_vtab": {**_STATIC_ADAPTER, **_VTAB},
    "linear": _ALONE,
    "full": {**_ALONE, "trainable": "full"},
    "bitfit": {**_ALONE, "tuner": {"type": "bitfit"}},
    "lora": {**_ALONE, "tuner": {"type": "lora", "rank": 32}},
    "lora_vtab": {**_ALONE, "tuner": {"type": "lora", "rank": 8}},
    "vpt": {**_ALONE, "tuner": {"type": "vpt", "tokens": 8}},
    "vpt_vtab": {**_ALONE, "tuner": {"type": "vpt", "tokens": 57}},
    "vpt_shallow": {**_ALONE, "tuner": {"type": "vpt", "tokens": 50, "deep": False}},
    # Table 6: every weight trained, tokens dispatched, no adapter.
    "dynamic_full": {**_NONE, "trainable": "full"},
    # Table 7: dispatch level and strategy.
    "dyt_sample": {"dispatcher": {"type": "learned", "level": "sample"}},
    "dyt_random": {"dispatcher": {"type": "random"}},
    "dyt_sample_random": {"dispatcher": {"type": "random", "level": "sample"}},
    # Table 9: the temperature of the Gumbel-sigmoid.
    "dyt_tau0.1": {"dispatcher": {"type": "learned", "temperature": 0.1}},
    "dyt_tau1": {"dispatcher": {"type": "learned", "temperature": 1.0}},
    "dyt_tau_schedule": {"dispatcher": {"type": "learned", "temperature": {"start": 5.0, "end": 0.1}}},
    # Table 12: terms of the loss left out.
    "dyt_vtab_without_distill": {**_VTAB, "objective": {"distill": 0.0}},
    "dyt_vtab_without_complete": {**_VTAB, "objective": {"distill": 0.0, "complete": 0.0}},
    # Tables 17 to 19: other backbones.
    "full_swin_b": {**_SWIN_B, **_ALONE, "trainable": "full"},
    "full_vit_l": {**_VIT_L, **_ALONE, "trainable": "full"},
    "dyt_vit_l_vtab": {**_VIT_L, **_VTAB},
    # Table 11: detection on COCO. Neither of the complete model's terms: proposals of two passes differ.
    "full_detection": {**_ALONE, **_VITDET, **_NONE, "trainable": "full"},
    "adaptformer_detection": {**_STATIC_ADAPTER, **_VITDET},
    "dyt_detection": {**_VITDET, "objective": _NO_TEACHER},
    "dyt_detection_moe4": {**_VITDET, "adapter": {"type": "moe", "experts": 4, "dim": 128}, "objective": _NO_TEACHER},
    # The token-reduction peers of table 5: the whole backbone trained, or frozen with the adapter of d = 8.
    "tome": {**_PEER, "reducer": {"type": "tome"}},
    "tome_adaptformer": {**_ADAPTED, "reducer": {"type": "tome"}},
    "evit": {**_PEER, "reducer": {"type": "evit"}},
    "evit_adaptformer": {**_ADAPTED, "reducer": {"type": "evit"}},
    "dynamicvit": {**_PEER, "reducer": _DYNAMICVIT},
    "dynamicvit_adaptformer": {**_ADAPTED, "reducer": _DYNAMICVIT},
    # Table 5's own combination. The paper does not say how many pairs; with 8 and the nominal rate this costs 8 % less
    # than its table says (the learned rate is above the nominal one), with 7 it is within 5 %.
    "dyt_tome": {**_VTAB, "reducer": {"type": "tome", "r": 7}},
}
# Table 2: the MoE-adapter; table 8: the bottleneck; tables 17 and 18: rates on Swin-B and ViT-L.
_PRESETS |= {f"dyt_moe{n}": {"adapter": {"type": "moe", "experts": n}} for n in (2, 4, 8, 12)}
_PRESETS |= {f"dyt_d{d}": {"adapter": {"type": "bottleneck", "dim": d}} for d in (1, 4, 16, 256)}
_PRESETS |= {f"dyt_swin_b_r{r}": {**_SWIN_B, **_rate(r)} for r in (0.1, 0.3, 0.5, 0.7, 0.9)}
_PRESETS |= {f"dyt_vit_l_r{r}": {**_VIT_L, **_rate(r)} for r in (0.1, 0.3, 0.5, 0.7, 0.9)}
# Table 6, on video: the same models behind the head that reads eight frames, here for the 400 classes of Kinetics.
_PRESETS |= {
    f"{name}_video": {**_PRESETS[name], "head": {"type": "query", "num_classes": 400}}
    for name in ("full", "linear", "dynamic_full", "adaptformer", "lora", "vpt", "dyt", "dyt_moe4")
}

# Table 10: ADE20K at 512 x 512 under UPerNet; the released code has the rate's term alone, none of the complete model.
_PRESETS |= {
    f"{row}_segmentation": {
        **_PRESETS[row],
        "backbone": {"args": {"img_size": 512}},
        "head": {"type": "upernet", "num_classes": 150},
        "objective": {**_PRESETS[row].get("objective", {}), "complete": 0.0, "distill": 0.0},
    }
    for row in ("full", "linear", "dynamic_full", "adaptformer", "lora", "vpt", "dyt", "dyt_moe4")
}


def presets() -> list[str]:
    """The names of presets, which `dyt.build` takes in place of a spec."""
    return sorted(_PRESETS)


def preset(name: str) -> DyTSpec:
    """The spec of a preset.

    Raises:
        SpecError: an unknown name, with the nearest one and the list.
    """
    if not isinstance(name, str) or name not in _PRESETS:
        raise SpecError(f"no preset {quoted(name)}; {nearest(name, presets())}")
    return parse(DyTSpec, _PRESETS[name])
