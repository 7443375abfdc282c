"""How a backbone's block splits into branches: one file per family; the only room that knows timm's block classes."""

from dyt.families.base import Family, find
from dyt.families.vit import ViT

__all__ = ["Family", "ViT", "find"]
