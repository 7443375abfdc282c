"""The rewritten blocks: one for most, one for the last block of a model whose head reads leading tokens alone."""

from __future__ import annotations

from typing import Any

from timm.models import register_notrace_module
from torch import Tensor, nn

from dyt.adapters.none import NoAdapter
from dyt.core.route import ALL_TOKENS, Route
from dyt.errors import UnsupportedError
from dyt.families.attention import mask_for
from dyt.families.base import Family
from dyt.inference.rewrites.adapter import FoldedAdapter
from dyt.inference.rewrites.attention import FusedAttention, LeadingAttention
from dyt.inference.rewrites.mlp import FusedMlp, KeptMlp
from dyt.model.site import Site


class KeptAttention(nn.Module):
    """x + the attention branch, as the block has it, whatever its attention is."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.family: Family = block.family
        self.norm1, self.attn, self.ls1, self.drop_path1 = block.norm1, block.attn, block.ls1, block.drop_path1

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x + self.family.attn(self, x, ALL_TOKENS, attn_mask=mask)


class RewrittenBlock(nn.Module):
    """X' = X + Attn(X);  X'' = X' + M * MLP(X') + Adapter(X'), variant `mlp`, at inference.

    The adapter is added to every token first; then the executor adds the MLP to the active ones, in place.

    Args:
        family: that of the block whose place it takes.
        site: that block's, with what the rewrites have put into it.
        attention: (x, mask) -> x + the attention branch.
        mlp: the MLP branch.
    """

    def __init__(self, family: Family, site: Site, attention: nn.Module, mlp: FusedMlp | KeptMlp) -> None:
        super().__init__()
        self.family = family
        self.attention, self.mlp = attention, mlp
        self.sites = nn.ModuleDict({"mlp": site})
        self.eval()

    @property
    def site(self) -> Site:
        """Its one site."""
        site = self.sites["mlp"]
        assert isinstance(site, Site)
        return site

    def train(self, mode: bool = True) -> RewrittenBlock:
        """Stays in eval mode.

        Raises:
            UnsupportedError: asked for train mode.
        """
        if mode:
            raise UnsupportedError("an optimised model is for inference; train the model that it was made from")
        super().train(False)
        return self

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        """(B, N, C) -> (B, N, C), with the mask that the backbone passes to its blocks."""
        site = self.site
        mask, padding = mask_for(x, ALL_TOKENS, attn_mask, is_causal), self.family.padding(self, x, attn_mask=attn_mask)
        adapter = site.adapter
        if not isinstance(adapter, FoldedAdapter):
            after = self.attention(x, mask)
            route = site(after, padding)
            delta = adapter(after, padding)
            added = after if delta is None else after + delta
            return site.onto(self.mlp, after, route, self._stood_in(added, after, route))
        if adapter.joins and isinstance(self.attention, FusedAttention):
            after, out, logits = adapter.joined(x, self.attention.branch(x, mask))
        elif adapter.stands_in:
            after = self.attention(x, mask)
            hidden, logits = adapter.hidden(after)
        else:
            after = self.attention(x, mask)
            out, logits = adapter.added(after)

        def scores() -> Tensor:
            patches = slice(site.prefix, None)
            return adapter.scores(after[:, patches]) if logits is None else logits[:, patches]

        route = site(after, padding, scores=None if adapter.router is None else scores)
        if adapter.stands_in:
            return site.onto(self.mlp, after, route, adapter.stood_in(after, hidden, route))
        return site.onto(self.mlp, after, route, self._stood_in(out, after, route))

    def _stood_in(self, out: Tensor, after: Tensor, route: Route) -> Tensor:
        """With the stand-in, which reads the tokens as they are, at inactive tokens."""
        return self.site.stood_in(out, after, route, nn.Identity())


class LeadingBlock(RewrittenBlock):
    """The last block, for the k leading tokens that the head reads, (B, N, C) -> (B, k, C).

    They are prefix tokens, active whatever the dispatcher says: nothing is decided, and the route is the prefix alone.

    Args:
        family, site, attention, mlp: as for `RewrittenBlock`.
    """

    def __init__(self, family: Family, site: Site, attention: LeadingAttention, mlp: FusedMlp | KeptMlp) -> None:
        super().__init__(family, site, attention, mlp)
        site.fixed_route = True

    def forward(self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False) -> Tensor:
        self.site.prefix_route(x)
        after: Tensor = self.attention(x, mask_for(x, ALL_TOKENS, attn_mask, is_causal))
        adapter = self.site.adapter
        if isinstance(adapter, FoldedAdapter):
            out, _ = adapter.added(after)
        else:
            assert isinstance(adapter, NoAdapter)
            out = after
        return self.mlp.onto(after, out)


for rewritten in (RewrittenBlock, LeadingBlock):
    register_notrace_module(rewritten)  # as every dynamic block: FX feature extraction sees one node


def attention_of(block: Any) -> tuple[FusedAttention | KeptAttention, str | None]:
    """The attention of a dynamic block, and why it is left as it was, or None."""
    reason = FusedAttention.refusal(block)
    return (FusedAttention(block), None) if reason is None else (KeptAttention(block), reason)


def mlp_of(block: Any) -> tuple[FusedMlp | KeptMlp, str | None]:
    """The MLP of a dynamic block, and why it is left as it was, or None."""
    reason = FusedMlp.refusal(block)
    return (FusedMlp(block), None) if reason is None else (KeptMlp(block), reason)
