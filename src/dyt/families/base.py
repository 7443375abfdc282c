"""What every family is: the one place that knows how a library's block splits into residual branches.

A branch already contains its norm, layer scale and drop path: it is what the residual connection adds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

from dyt.core.route import Tokens
from dyt.registry import families

Written = Mapping[type[nn.Module] | str, Sequence[str]]
"""Names of methods by their class, or by its dotted path where its library is not imported."""


class Family(ABC):
    """Base of families: no state; every method takes the backbone or the block that it speaks of.

    Branch methods are given the dynamic block, which owns the original block's children under their own names, so that
    a child swapped by another library (LoRA in place of a Linear, say) is what runs. `args` and `kwargs` are whatever
    the backbone passed to the block beside x.

    Attributes:
        children: for each branch that the family offers (`attn`, `mlp`, `layer`) the names of the block's children
            in it.
        examples: timm names of backbones that it knows, for the matrix of what is supported; none where a backbone can
            only be given.
    """

    children: ClassVar[Mapping[str, Sequence[str]]]
    examples: ClassVar[Sequence[str]] = ()
    norms: ClassVar[Mapping[str, str]] = {}
    """For each branch, the block's child that normalises its input; none for a branch that is normalised after."""
    written_for: ClassVar[Written] = {}
    """The other library's methods that this family computes anew or builds on.

    Blocks in which one has a source that was not tested are refused (`dyt.families.sources`). A plug-in's family leaves
    it empty: the digests are this library's.
    """

    @abstractmethod
    def matches(self, backbone: nn.Module) -> bool:
        """Whether this family knows every block of the backbone."""

    @abstractmethod
    def blocks(self, backbone: nn.Module) -> Sequence[str]:
        """The dotted paths of the backbone's blocks, in forward order: `blocks.0`, `blocks.1`, ..."""

    @abstractmethod
    def dim(self, backbone: nn.Module, block: nn.Module) -> int:
        """Channels C of the tokens of this block."""

    @abstractmethod
    def prefix_tokens(self, backbone: nn.Module) -> int:
        """Number of prefix tokens (class, register, distillation), first in order."""

    def refusal(self, backbone: nn.Module, branch: str) -> str | None:
        """Why this backbone cannot have this branch dispatched, or None when it can."""
        return None if branch in self.children else f"its blocks have no {branch} branch of their own"

    def padding(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """(B, N) bool, True at padding tokens of x (B, N, C), or None when there are none."""
        return None

    def normalised(self, block: nn.Module, branch: str, x: Tensor) -> Tensor:
        """x (B, N, C) as the branch's own norm makes it; only asked for branches that `norms` names."""
        out: Tensor = getattr(block, self.norms[branch])(x)
        return out

    def stochastic(self, block: nn.Module, branch: str) -> bool:
        """Whether the branch draws noise in train mode that no dropout or drop path module of its children tells of."""
        return False

    def raster(self, backbone: nn.Module, path: str) -> Tensor | None:
        """(P,) int64 on the CPU: which patch token of the block at `path` lies at each place, row by row.

        None where the tokens are in that order anyway.
        """
        return None

    def mlp_input(self, block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
        """What the MLP branch reads: the tokens after the attention, or the block's own input x in parallel blocks."""
        return attended

    def attend(self, block: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
        """The tokens after the attention: x + branch, (B, N, C); otherwise where attention changes their number."""
        return x + branch

    def resumable(self, backbone: nn.Module) -> bool:
        """Whether blocks and head see the images through the blocks' tokens alone.

        Then a forward of one image goes on as that of others whose tokens are put in the place of its own at a block.
        """
        return False

    def prompt_refusal(self, backbone: nn.Module) -> str | None:
        """Why no learned tokens can stand between prefix and patches inside the blocks, or None when they can."""
        return "this family does not tell that its blocks take tokens without a position"

    def uncalled(self, block: nn.Module) -> Sequence[str]:
        """Linear layers of the block whose weight is read but which are not called, so that no other could stand in."""
        found = []
        for name, module in block.named_modules():
            dot = f"{name}." if name else ""
            if getattr(module, "q_bias", None) is not None and hasattr(module, "qkv"):
                found.append(f"{dot}qkv")  # timm's attentions that join the biases of q, k and v by hand
            if getattr(module, "qkv_bias", None) is not None and hasattr(module, "in_proj"):
                found.append(f"{dot}in_proj")  # and its blocks that compute attention and MLP in one product
        return found

    def attention_refusal(self, backbone: nn.Module) -> str | None:
        """Why the class token's attention cannot be had from these blocks, or None when it can."""
        return "this family does not tell the class token's attention"

    def class_attention(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(B, P) float32: the class token's attention to each patch token of x (B, N, C), the mean over heads."""
        raise NotImplementedError

    def reduction_refusal(self, backbone: nn.Module) -> str | None:
        """Why the number of tokens cannot change from block to block of this backbone, or None when it can."""
        return "this family needs its tokens in their places"

    def reads_patches(self, backbone: nn.Module) -> bool:
        """Whether the head reads patch tokens (average or attention pooling), and not prefix tokens alone."""
        return True

    def leading_read(self, backbone: nn.Module) -> int | None:
        """How many tokens, the first of the prefix, the head reads and no others; None where it may read any."""
        return None

    def window_refusal(self, backbone: nn.Module) -> str | None:
        """Why the attention of these blocks cannot be put into windows (`backbone.window_size`), or None when it can.

        It can where each block's `attn` is a module (tokens (B, N, C), attn_mask) -> (B, N, C) that takes no position
        of a token into account, and the backbone's `patch_embed` tells its grid as timm's does.
        """
        return "it is for timm's plain ViT, whose attention knows no positions; set backbone.window_size: null"

    def keys_refusal(self, backbone: nn.Module) -> str | None:
        """Why the keys of these blocks' attention cannot be had, or None when they can."""
        return "this family does not tell the attention's keys"

    def mlp_parts(self, block: nn.Module) -> tuple[nn.LayerNorm, nn.Linear, nn.Linear, Tensor | None] | None:
        """(norm, fc1, fc2, layer scale (C,) or None) of an MLP branch that is scale * fc2(gelu(fc1(norm(x)))).

        With GELU by erf and nothing that acts in eval mode beside; None for any other branch, and in train mode where
        it draws. Only what is called as it stands counts: a layer that another library has put there is None.
        """
        return None

    def listen(self, block: nn.Module) -> None:
        """Prepares a block for `attn_with_keys`; once, when the model is built."""
        raise NotImplementedError

    def attn_with_keys(self, block: nn.Module, x: Tensor, tokens: Tokens) -> tuple[Tensor, Tensor]:
        """The attention branch of x (B, N, C), and (B, N, D), the mean over heads of its keys, detached.

        The keys are those that were computed for the attention: normalised where it normalises them, at no extra cost.
        """
        raise NotImplementedError

    @abstractmethod
    def mlp(self, block: nn.Module, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The MLP branch of x (B, N, C); each token by itself."""

    @abstractmethod
    def attn(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        """The attention branch of x (B, K, C), the tokens that `tokens` tells of; invalid ones are seen by none."""

    def layer(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        """Both branches in sequence, minus the input."""
        y = x + self.attn(block, x, tokens, *args, **kwargs)
        return y + self.mlp(block, y, *args, **kwargs) - x


families.accepts(Family)


def find(backbone: nn.Module) -> tuple[str, Family] | None:
    """The registered family, with its name, that knows the backbone's blocks; None when there is none."""
    for name, family in families.items():
        candidate = family()
        if candidate.matches(backbone):
            return name, candidate
    return None
