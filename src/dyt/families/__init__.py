"""How a backbone's block splits into branches: one file per family; the only room that knows timm's block classes."""

from dyt.families.base import Family, find
from dyt.families.hf_clip import HFCLIP
from dyt.families.hf_dinov2 import HFDinov2
from dyt.families.hf_vit import HFViT
from dyt.families.hiera import Hiera
from dyt.families.sam import SAM
from dyt.families.swin import Swin
from dyt.families.swin_v2 import SwinV2
from dyt.families.vit import ViT

__all__ = ["HFCLIP", "SAM", "Family", "HFDinov2", "HFViT", "Hiera", "Swin", "SwinV2", "ViT", "find"]
