"""Tiny backbones for the matrix of combinations, by a name for people; every registered family has at least one.

To add some, give a `Row` for each: the family, a function that makes a fresh one with CLASSES outputs, and the variants
that it is expected to have.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from timm.models.vision_transformer import VisionTransformer
from torch import nn

from dyt.core.interop import bridged
from families.tiny import Tiny
from families.zoo import ZOO
from families.zoo_hf import HUGGINGFACE
from families.zoo_hierarchical import HIERARCHICAL
from laws.models import CLASSES, TINY
from laws.strategies import DTYPES

EVERY = ("attn", "attn_mlp", "layer", "mlp")
"""The library's own variants, sorted."""


@dataclass(frozen=True)
class Row:
    """One tiny backbone.

    Attributes:
        family: the registered name of the family that knows it.
        make: makes the plain model, a fresh one at each call, with CLASSES outputs.
        variants: those that it is expected to have.
        image: (H, W).
        dtypes: those that its library computes in.
    """

    family: str
    make: Callable[[], nn.Module]
    variants: tuple[str, ...] = EVERY
    image: tuple[int, int] = (32, 32)
    dtypes: tuple[str, ...] = DTYPES


def _shelled(tiny: Tiny) -> nn.Module:
    """With timm's interface, which Hugging Face's models get a shell for."""
    return bridged(tiny.make(0.0), CLASSES)[0]


_vit = partial(VisionTransformer, num_classes=CLASSES, **TINY)

BACKBONES: dict[str, Row] = {
    "vit": Row("vit", _vit),
    "vit with registers": Row("vit", partial(_vit, reg_tokens=4, init_values=0.1, qk_norm=True)),
    "vit pooled by attention": Row("vit", partial(_vit, class_token=False, global_pool="map")),
}
CHOSEN = (
    *("respost", "parallel", "parallel differential", "parallel things", "eva02", "eva02 post-norm", "beit", "relpos"),
    *("relpos respost", "cait"),
)
"""One of each further family of `families.zoo`, which has many more; that table's own tests walk them all."""

for _name in CHOSEN:
    # torch warns of RMSNorm's weights under autocast, in timm's own plain model too
    _dtypes = tuple(dtype for dtype in DTYPES if dtype != "autocast" or not _name.startswith("parallel"))
    BACKBONES[_name] = Row(ZOO[_name].family, ZOO[_name].make, ZOO[_name].variants, dtypes=_dtypes)
for _name, _tiny in (HIERARCHICAL | HUGGINGFACE).items():
    if _tiny.family not in {row.family for row in BACKBONES.values()}:
        BACKBONES[f"{_tiny.family} {_name}"] = Row(_tiny.family, partial(_shelled, _tiny), _tiny.variants, _tiny.size)
