"""How a backbone's block splits into branches: one file per family; the only room that knows timm's block classes."""

from dyt.families.base import Family, find
from dyt.families.beit import BeitFamily
from dyt.families.cait import CaitFamily
from dyt.families.eva import EvaFamily, EvaPostNormFamily
from dyt.families.parallel import DiffParallelViT, ParallelViT
from dyt.families.relpos import RelPos, ResPostRelPos
from dyt.families.vit import ViT
from dyt.families.vit_blocks import ParallelThingsViT, ResPostViT

__all__ = [
    "BeitFamily",
    "CaitFamily",
    "DiffParallelViT",
    "EvaFamily",
    "EvaPostNormFamily",
    "Family",
    "ParallelThingsViT",
    "ParallelViT",
    "RelPos",
    "ResPostRelPos",
    "ResPostViT",
    "ViT",
    "find",
]
