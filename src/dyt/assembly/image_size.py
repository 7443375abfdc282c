"""Backbones for images of another size than their own: asked of timm, and tried without memory before anything is made.

timm resamples position embeddings and tables of relative positions when it loads weights into a model of another size,
so that the size is an argument of the backbone like any other, and a saved spec makes the same model again.
"""

from __future__ import annotations

import torch
from torch import nn

from dyt.assembly.backbone import input_size, on_meta
from dyt.config.spec import BackboneSpec
from dyt.core import data_config
from dyt.core.data_config import any_size
from dyt.errors import SpecError, UnsupportedError


def sized(spec: BackboneSpec, size: tuple[int, int]) -> BackboneSpec:
    """The spec of a backbone that takes images of (H, W) pixels: itself where it does, else with `args.img_size`.

    Raises:
        SpecError: a name or an argument that timm does not know.
        UnsupportedError: a backbone that cannot have this size, in one line.
    """
    plain = on_meta(spec.name, **spec.args)
    if input_size(plain) == size:
        return spec
    if not any_size(plain):
        side = size[0] if size[0] == size[1] else list(size)
        asked = spec.model_copy(update={"args": {**spec.args, "img_size": side}})
        try:
            plain = on_meta(spec.name, **asked.args)
        except SpecError as error:
            if "img_size" in spec.args:
                raise _refused(spec.name, size, str(error)) from error
            # a model without such an argument may take any size, which the forward below tells
        else:
            spec = asked
    reason = forward_refusal(plain, size)
    if reason is not None:
        raise _refused(spec.name, size, reason)
    return spec


def _refused(name: str, size: tuple[int, int], reason: str) -> UnsupportedError:
    return UnsupportedError(
        f"data.size is {size[0]} x {size[1]}, which {name} cannot be given: {reason}; leave data.size out, or take a "
        f"multiple of its patches' side"
    )


def forward_refusal(backbone: nn.Module, size: tuple[int, int]) -> str | None:
    """Why a backbone on the meta device cannot be run on images of (H, W) pixels; None when it can."""
    try:
        with torch.no_grad():
            backbone.eval()(torch.empty(1, data_config.channels(backbone), *size, device="meta"))
    except Exception as error:  # whatever an architecture raises becomes the one answer
        text = " ".join(str(error).split()) or type(error).__name__
        return text if len(text) <= 200 else f"{text[:197]}..."
    return None


def check_size(backbone: nn.Module, size: tuple[int, int]) -> None:
    """Refuses, before anything is run, images of another size than a backbone of one size takes.

    Raises:
        UnsupportedError: in one line, with what to do.
    """
    own = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    fixed = own is not None or hasattr(backbone, "tokens_spatial_shape")
    if fixed and not any_size(backbone) and input_size(backbone) != size:
        height, width = input_size(backbone)
        raise UnsupportedError(
            f"data.size is {size[0]} x {size[1]}, but the backbone takes images of {height} x {width} alone; leave "
            f"data.size out, or set backbone.args.img_size: {size[0] if size[0] == size[1] else list(size)}"
        )
