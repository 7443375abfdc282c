"""`vpt`: learned prompt tokens in addition to the image's (Visual Prompt Tuning, arXiv:2203.12119), shallow or deep."""

from __future__ import annotations

import math
from typing import Annotated, Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from dyt.errors import UnsupportedError
from dyt.families.base import Family
from dyt.registry import tuners
from dyt.tuners.base import Tuner, TunerSpec


class VPTSpec(TunerSpec):
    """`vpt`: learned prompt tokens beside the image's (Visual Prompt Tuning, arXiv:2203.12119)."""

    type: str = "vpt"
    tokens: Annotated[int, Field(ge=1, le=4096)] = 8
    """Number of prompt tokens p. 8 deep prompts are the 0.07 M parameters and 18.32 GMACs of ViT-B in the paper's
    table 6."""
    deep: bool = True
    """Whether each block has prompts of its own (VPT-Deep, its eq. 5). `false`: only the first block has prompts, and
    later blocks see what becomes of these (VPT-Shallow, its eq. 4)."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Dropout probability on the prompts, in training."""


class Prompts(nn.Module):
    """The prompts of a block, and the hooks that insert them among its tokens and remove them again.

    The order inside is [prefix, prompts, patches]. No state of a forward is stored here.

    Args:
        count: p.
        like: a parameter of the block, for device and dtype.
        dim: channels C.
        prefix: number of prefix tokens.
        dropout: rate.
        bound: prompts start uniform in [-bound, bound].
    """

    def __init__(self, count: int, like: Tensor, dim: int, prefix: int, dropout: float, bound: float) -> None:
        super().__init__()
        self.prefix = prefix
        self.tokens = nn.Parameter(like.new_empty(1, count, dim).uniform_(-bound, bound))
        self.dropout = nn.Dropout(dropout)

    def extra_repr(self) -> str:
        return f"tokens={tuple(self.tokens.shape)}, prefix={self.prefix}"

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (B, N, C) with the prompts among them, (B, prefix + p + patches, C)."""
        prompts = self.dropout(self.tokens).to(x.dtype).expand(x.shape[0], -1, -1)
        return torch.cat([x[:, : self.prefix], prompts, x[:, self.prefix :]], 1)

    def insert(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The block's arguments, with (B, prefix + p + patches, C) instead of its tokens (B, N, C).

        Raises:
            UnsupportedError: an attention mask, which does not include the prompts.
        """
        x, *rest = args
        if any(isinstance(value, Tensor) for value in (*rest, *kwargs.values())):
            raise UnsupportedError("prompts do not combine with attn_mask, which does not include them")
        return (self(x), *rest), kwargs  # a call, so that hooks and offloading of this module see it

    def remove(self, block: nn.Module, args: tuple[Any, ...], out: Tensor) -> Tensor:
        """The block's output (B, prefix + p + patches, C) without the prompts: (B, N, C)."""
        return torch.cat([out[:, : self.prefix], out[:, self.prefix + self.tokens.shape[1] :]], 1)


@tuners("vpt")
class VPT(Tuner):
    """Prompts take part in attention and go through every MLP: they count as prefix tokens and are never dispatched.

    Hooks insert them before a block and remove them after it, so timm's forward, position embedding, pooling and
    head never see them. With `deep` they are removed after each block, since the next has its own, else after the last.
    """

    Spec = VPTSpec
    starts_plain: ClassVar[bool] = False  # fresh prompts are random, and every token attends to them

    def __init__(self, spec: VPTSpec) -> None:
        super().__init__(spec)
        self.spec, self.prompts = spec, spec.tokens

    def refusal(self, backbone: nn.Module, family: Family) -> str | None:
        return family.prompt_refusal(backbone)

    def apply(self, backbone: nn.Module, family: Family) -> None:
        blocks = [backbone.get_submodule(path) for path in family.blocks(backbone)]
        prefix = family.prefix_tokens(backbone)
        area = math.prod(backbone.patch_embed.patch_size)  # type: ignore[union-attr, arg-type]
        for block in blocks if self.spec.deep else blocks[:1]:
            dim, like = family.dim(backbone, block), next(block.parameters())
            bound = math.sqrt(6 / (3 * area + dim))  # the authors': Xavier's, as for the patch embedding
            prompts = Prompts(self.spec.tokens, like, dim, prefix, self.spec.dropout, bound).train(block.training)
            block.add_module("prompts", prompts)
            block.register_forward_pre_hook(prompts.insert, with_kwargs=True)
            (block if self.spec.deep else blocks[-1]).register_forward_hook(prompts.remove)

    def trains(self, name: str) -> bool:
        return name.endswith(".prompts.tokens")

    def plain(self, name: str) -> str | None:
        return None if self.trains(name) else name

    def intermediates_refusal(self) -> str | None:
        if self.spec.deep:
            return None
        return "shallow prompts stay among the tokens from the first block to the last; use tuner.deep: true"

    def merge_refusal(self) -> str | None:
        return "its prompts are tokens, which cannot be merged into the weights of a plain backbone"
