"""Shared base for the layers of Hugging Face transformers' vision models: attention by a named implementation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dyt.core.interop import HuggingFaceModel
from dyt.core.route import Tokens
from dyt.errors import UnsupportedError
from dyt.families.base import Family, Written

MASKED = ("eager", "sdpa")
"""Implementations of attention that take a mask of queries by keys, without which inactive tokens cannot be hidden."""


def forwards(package: str, *classes: str) -> Written:
    """The forwards of classes of `transformers.models`, as `Family.written_for` names them."""
    return {f"transformers.models.{package}.modeling_{package}.{cls}": ("forward",) for cls in classes}


class HuggingFace(Family):
    """Base: a family per layout of a layer. None of them imports transformers; layers are known by name and children.

    Attributes:
        layers: class names of the layers.
        attention: the child of a layer that is its attention.
        dropout: that child's attribute with the dropout of attention weights.
    """

    layers: ClassVar[Sequence[str]]
    attention: ClassVar[str]
    dropout: ClassVar[str]

    def matches(self, backbone: nn.Module) -> bool:
        return isinstance(backbone, HuggingFaceModel) and all(
            type(layer).__name__ in self.layers
            and type(layer).__module__.startswith("transformers.models.")
            and all(hasattr(layer, child) for child in self.children["layer"])
            for layer in map(backbone.get_submodule, backbone.layer_paths)
        )

    def blocks(self, backbone: nn.Module) -> Sequence[str]:
        assert isinstance(backbone, HuggingFaceModel)
        return backbone.layer_paths

    def dim(self, backbone: nn.Module, block: nn.Module) -> int:
        assert isinstance(backbone, HuggingFaceModel)
        return backbone.num_features

    def prefix_tokens(self, backbone: nn.Module) -> int:
        assert isinstance(backbone, HuggingFaceModel)
        return backbone.num_prefix_tokens

    def refusal(self, backbone: nn.Module, branch: str) -> str | None:
        assert isinstance(backbone, HuggingFaceModel)
        given = backbone.tower.config._attn_implementation
        if branch == "mlp" or given in MASKED:
            return super().refusal(backbone, branch)
        return (
            f"its attention implementation '{given}' takes no mask of queries by keys; load it with "
            f"attn_implementation 'sdpa' or 'eager', or use the mlp variant"
        )

    def stochastic(self, block: nn.Module, branch: str) -> bool:
        return branch != "mlp" and float(getattr(getattr(block, self.attention), self.dropout)) > 0

    def attended(self, block: nn.Module, y: Tensor, tokens: Tokens, given: Tensor | None, kwargs: Any) -> Tensor:
        """The layer's attention of its normalised tokens y (B, K, C), masked according to `tokens`.

        Raises:
            UnsupportedError: dispatched, and given a mask as well, or switched to an implementation without masks.
        """
        attention: Any = getattr(block, self.attention)
        mask = given
        if tokens.index is not None or tokens.valid is not None:
            implementation = attention.config._attn_implementation
            if given is not None or implementation not in MASKED:
                raise UnsupportedError(
                    f"attention dispatch does not combine with an attention_mask, nor with attention implementation "
                    f"'{implementation}' (allowed: {', '.join(MASKED)}); use the mlp variant"
                )
            mask = tokens.sees()
            if mask is not None and implementation == "eager":  # which adds it to the scores
                mask = torch.zeros_like(mask, dtype=y.dtype).masked_fill(~mask, torch.finfo(y.dtype).min)
        out: Tensor = attention(y, attention_mask=mask, **kwargs)[0]
        return out

    def attention_refusal(self, backbone: nn.Module) -> str | None:
        return None if self.prefix_tokens(backbone) else "it has no class token"

    def class_attention(self, block: nn.Module, x: Tensor, prefix: int, *args: Any, **kwargs: Any) -> Tensor:
        attention: Any = getattr(block, self.attention)
        y = self.normalised(block, "attn", x)
        query = attention.q_proj(y[:, :1]).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        key = attention.k_proj(y).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2)
        scores = (query @ key.mT).float() * attention.head_dim**-0.5
        seen: Tensor = scores.softmax(-1).mean(1)[:, 0, prefix:]
        return seen
