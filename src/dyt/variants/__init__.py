"""One placement per file: which branches of a block are dispatched."""

from dyt.model.block import DynamicBlock, VariantSpec
from dyt.variants.attn import AttentionVariant, AttentionVariantSpec
from dyt.variants.attn_mlp import AttentionMLPVariant, AttentionMLPVariantSpec
from dyt.variants.layer import LayerVariant, LayerVariantSpec
from dyt.variants.mlp import MLPVariant, MLPVariantSpec

__all__ = [
    "AttentionMLPVariant",
    "AttentionMLPVariantSpec",
    "AttentionVariant",
    "AttentionVariantSpec",
    "DynamicBlock",
    "LayerVariant",
    "LayerVariantSpec",
    "MLPVariant",
    "MLPVariantSpec",
    "VariantSpec",
]
