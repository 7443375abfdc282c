"""One placement per file: which branches of a block are dispatched."""

from dyt.variants.base import DynamicBlock, VariantSpec
from dyt.variants.mlp import MLPVariant, MLPVariantSpec

__all__ = ["DynamicBlock", "MLPVariant", "MLPVariantSpec", "VariantSpec"]
