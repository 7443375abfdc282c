"""`vit_parallel`, `vit_parallel_diff`: blocks in which attention and MLP stand side by side on fused projections."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from timm.layers import DropPath  # type: ignore[attr-defined]
from timm.models.naflexvit import NaFlexVit
from timm.models.vision_transformer import DiffParallelScalingBlock, ParallelScalingBlock, VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.core.offloading import at_hand
from dyt.core.route import ALL_TOKENS, Tokens
from dyt.errors import UnsupportedError
from dyt.families.attention import class_row, mask_for, outputs, split_heads
from dyt.families.base import Written
from dyt.families.timm_mlps import FORWARD
from dyt.families.vit import IsotropicFamily
from dyt.registry import families

SHARED = ("in_norm", "in_proj", "out_proj", "ls", "drop_path")
ATTENTION = ("q_norm", "k_norm", "attn_drop", "sub_norm", "attn_out_proj")
MLP = ("mlp_act", "mlp_drop", "mlp_out_proj")


class ParallelFamily(IsotropicFamily):
    """x + drop_path(ls(out(attention(in(norm(x))), mlp(in(norm(x)))))), as in ViT-22B (arXiv:2302.05442).

    Both branches read the block's input. The first rows of the fused input projection are the MLP's, the others those
    of queries, keys and values; the first columns of a fused output projection are the attention's, the others the
    MLP's, and with them its one bias. So each branch is computed alone, exactly, and their sum is the block's.
    """

    children: ClassVar[dict[str, Sequence[str]]] = {
        "attn": (*SHARED, *ATTENTION),
        "mlp": (*SHARED, *MLP),
        "layer": (*SHARED, *ATTENTION, *MLP),
    }
    norms: ClassVar[dict[str, str]] = {"attn": "in_norm", "mlp": "in_norm", "layer": "in_norm"}
    backbones = (VisionTransformer, NaFlexVit)

    def refusal(self, backbone: Any, branch: str) -> str | None:
        if branch != "layer" and any(
            isinstance(b.drop_path, DropPath) and b.drop_path.drop_prob for b in backbone.blocks
        ):
            return "its drop path drops attention and MLP together; build it with drop_path_rate 0"
        return super().refusal(backbone, branch)

    def mlp_input(self, block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
        return x

    def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = block.drop_path(block.ls(self._mlp(block, block.in_norm(x))))
        return out

    def attn(
        self, block: Any, x: Tensor, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        y = self._attn(block, block.in_norm(x), mask_for(x, tokens, attn_mask, is_causal))
        out: Tensor = block.drop_path(block.ls(y))
        return out

    def layer(
        self, block: Any, x: Tensor, tokens: Tokens, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        y = block.in_norm(x)
        both = self._attn(block, y, mask_for(x, tokens, attn_mask, is_causal)) + self._mlp(block, y)
        out: Tensor = block.drop_path(block.ls(both))
        return out

    def _mlp(self, block: Any, y: Tensor) -> Tensor:
        hidden = outputs(block.in_proj, y, 0, block.in_split[0])
        if getattr(block, "mlp_bias", None) is not None:
            hidden = hidden + block.mlp_bias
        hidden = block.mlp_drop(block.mlp_act(hidden))
        if block.out_proj is None:
            out: Tensor = block.mlp_out_proj(hidden)
            return out
        linear = _splittable(block.out_proj)
        with at_hand(linear):
            return F.linear(hidden, linear.weight[:, block.in_split[1] :], linear.bias)

    def _attn(self, block: Any, y: Tensor, mask: Tensor | None) -> Tensor:
        start, width = block.in_split[0], block.in_split[1]
        q, k, v = outputs(block.in_proj, y, start, start + 3 * width).chunk(3, -1)
        mixed = self._mixed(block, q, k, v, mask).transpose(1, 2).flatten(2)
        if block.out_proj is None:
            out: Tensor = block.attn_out_proj(mixed)
            return out
        linear = _splittable(block.out_proj)
        with at_hand(linear):
            return F.linear(mixed, linear.weight[:, :width])

    @abstractmethod
    def _mixed(self, block: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        """(B, H, K, D): the values mixed by attention, of queries, keys and values (B, K, C)."""


def _splittable(linear: nn.Module) -> nn.Linear:
    if type(linear) is not nn.Linear or linear._forward_hooks or linear._forward_pre_hooks:
        raise UnsupportedError(
            f"out_proj is a {type(linear).__name__}{'' if type(linear) is not nn.Linear else ' with hooks'}; where "
            f"attention and MLP share it, it must stay a Linear without hooks, whose columns can be told apart"
        )
    return linear


@families("vit_parallel")
class ParallelViT(ParallelFamily):
    """`ParallelScalingBlock`."""

    examples = ("vit_base_patch16_xp_224",)
    block = ParallelScalingBlock
    written_for: ClassVar[Written] = {ParallelScalingBlock: FORWARD}

    def _mixed(self, block: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q, k = (split_heads(t, block.num_heads) for t in (q, k))
        dropout = block.attn_drop.p if block.training else 0.0
        return F.scaled_dot_product_attention(
            block.q_norm(q), block.k_norm(k), split_heads(v, block.num_heads), attn_mask=mask, dropout_p=dropout
        )

    def attention_refusal(self, backbone: Any) -> str | None:
        return None if backbone.has_class_token else "it has no class token"

    def class_attention(
        self, block: Any, x: Tensor, prefix: int, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        start, width = block.in_split[0], block.in_split[1]
        y = block.in_norm(x)
        q = split_heads(outputs(block.in_proj, y[:, :1], start, start + width), block.num_heads)
        k = split_heads(outputs(block.in_proj, y, start + width, start + 2 * width), block.num_heads)
        mask = mask_for(x, ALL_TOKENS, attn_mask, is_causal)
        return class_row(block.q_norm(q), block.k_norm(k), block.scale, prefix, mask)


@families("vit_parallel_diff")
class DiffParallelViT(ParallelFamily):
    """`DiffParallelScalingBlock`: the difference of two attentions (arXiv:2410.05258)."""

    examples = ("vit_dpwee_patch16_reg1_gap_256",)
    block = DiffParallelScalingBlock
    written_for: ClassVar[Written] = {DiffParallelScalingBlock: ("forward", "_compute_lambda")}

    def _mixed(self, block: Any, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
        q = block.q_norm(split_heads(q, 2 * block.num_heads)).unflatten(1, (block.num_heads, 2))
        k = block.k_norm(split_heads(k, 2 * block.num_heads)).unflatten(1, (block.num_heads, 2))
        v = split_heads(v, block.num_heads)
        dropout = block.attn_drop.p if block.training else 0.0
        first, second = (
            F.scaled_dot_product_attention(q[:, :, i], k[:, :, i], v, attn_mask=mask, dropout_p=dropout) for i in (0, 1)
        )
        weight = DiffParallelScalingBlock._compute_lambda(block).type_as(first)
        out: Tensor = block.sub_norm(first - weight * second) * (1 - block.lambda_init)
        return out

    def attention_refusal(self, backbone: Any) -> str | None:
        return "differential attention has no one map of attention"
