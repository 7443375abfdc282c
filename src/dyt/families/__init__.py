"""How a backbone's block splits into branches: one file per family. No other package knows timm's block classes."""

from dyt.families.base import Family, find
from dyt.families.beit import BeitFamily
from dyt.families.cait import CaitFamily
from dyt.families.eva import EvaFamily, EvaPostNormFamily
from dyt.families.hf_clip import HFCLIP
from dyt.families.hf_dinov2 import HFDinov2
from dyt.families.hf_vit import HFViT
from dyt.families.hiera import Hiera
from dyt.families.parallel import DiffParallelViT, ParallelViT
from dyt.families.relpos import RelPos, ResPostRelPos
from dyt.families.sam import SAM
from dyt.families.swin import Swin
from dyt.families.swin_v2 import SwinV2
from dyt.families.vit import ViT
from dyt.families.vit_blocks import ParallelThingsViT, ResPostViT

__all__ = [
    "HFCLIP",
    "SAM",
    "BeitFamily",
    "CaitFamily",
    "DiffParallelViT",
    "EvaFamily",
    "EvaPostNormFamily",
    "Family",
    "HFDinov2",
    "HFViT",
    "Hiera",
    "ParallelThingsViT",
    "ParallelViT",
    "RelPos",
    "ResPostRelPos",
    "ResPostViT",
    "Swin",
    "SwinV2",
    "ViT",
    "find",
]
