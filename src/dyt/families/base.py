"""Base of families: a family is the one place that knows how a library's block splits into residual branches.

A branch includes its norm, layer scale and drop path: it is what the residual connection adds.
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
    """Base of families. A family has no state; every method takes the backbone or the block concerned.

    Branch methods take the dynamic block, which owns the original block's children under their own names. So a child
    that another library has replaced (for example a Linear by LoRA) is the one that runs. `args` and `kwargs` are
    whatever the backbone passed to the block beside x.

    Attributes:
        children: for each supported branch (`attn`, `mlp`, `layer`) the names of the block's children in it.
        examples: timm names of backbones that it knows, for the table of supported models; empty if backbones can only
            be passed as `backbone=`.
    """

    children: ClassVar[Mapping[str, Sequence[str]]]
    examples: ClassVar[Sequence[str]] = ()
    norms: ClassVar[Mapping[str, str]] = {}
    """For each branch, the block's child that normalises its input; no entry for a branch that is normalised after."""
    sequential: ClassVar[bool] = True
    """Whether a block is x + attention, and its MLP reads that sum; follows from `attend` and `mlp_input`."""

    written_for: ClassVar[Written] = {}
    """The other library's methods that this family computes anew or builds on.

    Blocks in which one has a source that was not tested are refused (`dyt.families.sources`). A plug-in's family leaves
    it empty: the digests are this library's.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.sequential = cls.attend is Family.attend and cls.mlp_input is Family.mlp_input

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
        """x (B, N, C) after the branch's own norm; called only for branches in `norms`."""
        out: Tensor = getattr(block, self.norms[branch])(x)
        return out

    def stochastic(self, block: nn.Module, branch: str) -> bool:
        """Whether the branch draws noise in train mode outside the dropout and drop path modules of its children."""
        return False

    def raster(self, backbone: nn.Module, path: str) -> Tensor | None:
        """(P,) int64 on the CPU: which patch token of the block at `path` is at each grid position, row by row.

        None if the tokens are in that order already.
        """
        return None

    def mlp_input(self, block: nn.Module, x: Tensor, attended: Tensor) -> Tensor:
        """Input of the MLP branch: the tokens after the attention, or the block's own input x in parallel blocks."""
        return attended

    def attend(self, block: nn.Module, x: Tensor, branch: Tensor) -> Tensor:
        """The tokens after the attention: x + branch, (B, N, C). Overridden where attention changes their number."""
        return x + branch

    def resumable(self, backbone: nn.Module) -> bool:
        """Whether blocks and head depend on the images only through the blocks' tokens.

        Then the tokens of one forward can be replaced at a block by those of other images, and the forward continues
        as theirs (`SharedPrefix`).
        """
        return False

    def prompt_refusal(self, backbone: nn.Module) -> str | None:
        """Why prompts cannot be inserted between prefix and patch tokens inside the blocks; None if they can."""
        return "this family does not say that its blocks accept tokens without a position"

    def uncalled(self, block: nn.Module) -> Sequence[str]:
        """Linear layers of the block whose weight is read without a call, so that they cannot be replaced."""
        found = []
        for name, module in block.named_modules():
            dot = f"{name}." if name else ""
            if getattr(module, "q_bias", None) is not None and hasattr(module, "qkv"):
                found.append(f"{dot}qkv")  # timm's attentions that join the biases of q, k and v by hand
            if getattr(module, "qkv_bias", None) is not None and hasattr(module, "in_proj"):
                found.append(f"{dot}in_proj")  # and its blocks that compute attention and MLP in one product
        return found

    def attention_refusal(self, backbone: nn.Module) -> str | None:
        """Why the class token's attention is not available from these blocks; None if it is."""
        return "this family does not provide the class token's attention"

    def class_attention(self, block: nn.Module, x: Tensor, prefix: int, *args: Any, **kwargs: Any) -> Tensor:
        """(B, P) float32: the class token's attention to each patch token of x (B, N, C), the mean over heads.

        Args:
            block: the dynamic block.
            x: the tokens that enter it, prefix first.
            prefix: how many of them are prefix tokens, N - P; prompts are among them.
            *args: what the backbone passed to the block beside x.
            **kwargs: the same by name.
        """
        raise NotImplementedError

    def reduction_refusal(self, backbone: nn.Module) -> str | None:
        """Why the number of tokens cannot change from block to block of this backbone; None if it can."""
        return "this family needs every token in its position"

    def reads_patches(self, backbone: nn.Module) -> bool:
        """Whether the head reads patch tokens (average or attention pooling), and not prefix tokens alone."""
        return True

    def leading_read(self, backbone: nn.Module) -> int | None:
        """How many tokens the head reads, counted from the first; None if it may read any token."""
        return None

    def window_refusal(self, backbone: nn.Module) -> str | None:
        """Why these blocks do not support attention in windows (`backbone.window_size`); None if they do.

        They do if each block's `attn` is a module (tokens (B, N, C), attn_mask) -> (B, N, C) that does not depend on
        the positions of tokens, and the backbone's `patch_embed` has its grid as timm's does.
        """
        return "it is for timm's plain ViT, whose attention knows no positions; set backbone.window_size: null"

    def keys_refusal(self, backbone: nn.Module) -> str | None:
        """Why the keys of these blocks' attention are not available; None if they are."""
        return "this family does not provide the attention's keys"

    def mlp_parts(self, block: nn.Module) -> tuple[nn.LayerNorm, nn.Linear, nn.Linear, Tensor | None] | None:
        """(norm, fc1, fc2, layer scale (C,) or None) of an MLP branch that is scale * fc2(gelu(fc1(norm(x)))).

        The GELU is by erf, and nothing else acts in eval mode. None for any other branch, for a branch that draws noise
        in train mode, and if another library has replaced one of the layers.
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
        """The attention branch of x (B, K, C), the tokens given by `tokens`; no other token attends to invalid ones."""

    def layer(self, block: nn.Module, x: Tensor, tokens: Tokens, *args: Any, **kwargs: Any) -> Tensor:
        """Both branches in sequence, minus the input."""
        y = x + self.attn(block, x, tokens, *args, **kwargs)
        return y + self.mlp(block, y, *args, **kwargs) - x


families.accepts(Family)


def find(backbone: nn.Module) -> tuple[str, Family] | None:
    """The registered family that knows the backbone's blocks, with its name; None if there is none.

    Installed plug-ins are asked last, and imported only where no other family knows the blocks.
    """
    asked: set[str] = set()
    for offered in (families.at_hand, families.items):
        for name, family in offered():
            if name in asked:
                continue
            asked.add(name)
            candidate = family()
            if candidate.matches(backbone):
                return name, candidate
    return None
