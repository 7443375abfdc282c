"""`dyt.optimize`: a copy of a dynamic model with its blocks rewritten for inference, with the same numbers."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Literal

from torch import nn

from dyt.adapters.bottleneck import Bottleneck
from dyt.adapters.low_rank import LowRank
from dyt.adapters.none import NoAdapter
from dyt.assembly.window_attention import windows_of
from dyt.core.calls import bare
from dyt.core.offloading import refuse_absent
from dyt.errors import DyTError, UnsupportedError
from dyt.families.vit import ViT
from dyt.heads import Classifier
from dyt.inference.rewrites.adapter import FoldedAdapter, ScoredElsewhere, router_of
from dyt.inference.rewrites.attention import FusedAttention, LeadingAttention
from dyt.inference.rewrites.block import LeadingBlock, RewrittenBlock, attention_of, mlp_of
from dyt.inference.rewrites.kernels import KernelAdapter
from dyt.inference.rewrites.model import OptimizedModel
from dyt.inference.rewrites.products import is_linear
from dyt.inference.rewrites.report import BlockReport, OptimizationReport
from dyt.model.block import DynamicBlock
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.site import Site
from dyt.registry import executors
from dyt.variants.mlp import MLPVariant

GATHERED = "the MLP's norm, products and residual for active tokens alone, written back in place"
MERGED = "router and down projection one product"
FOLDED = "adapter scale folded, up projection onto the residual"
JOINED = "stand-in in the adapter's products"
PROJECTED = "attention's projection onto the residual"
SHORT = "of its tokens only the first {} that the head reads"
ABSORBED = "keys absorbed into queries, values projected after pooling"
KERNEL_MLP, KERNEL_ADAPTER = "MLP by Triton's kernels", "adapter and router in one of Triton's kernels"
KERNELS = ("torch", "triton")
POOLED = "values projected after pooling (keys are normalised: computed for all tokens)"


def optimize(
    model: nn.Module, last_block: bool = True, kernels: Literal["torch", "triton"] = "torch"
) -> OptimizedModel:
    """A copy for inference with the same numbers: equal to `model` up to rounding, and faster.

    Rewritten are blocks of variant `mlp` on timm's plain `Block` (family `vit`); `.report` of the result says what was
    done to each block, and why one was left alone. Router logits come out of another product than before: one that is
    within rounding of its site's threshold may decide otherwise. Under autocast and in bfloat16 they have a product of
    their own, in float32.

    The result cannot be trained or saved: do both with `model`.

    Args:
        model: from `dyt.build` or `dyt.load`, or what wraps one; not changed, and shares nothing with the result.
        last_block: whether the last block computes the class token alone, where the head reads nothing else. Its route
            is then recorded with the prefix active and no patch, under any policy, and `forward_features` is refused.
        kernels: `triton` computes adapters and MLPs with the kernels of the executor `triton`, for NVIDIA GPUs: the
            number of active tokens stays on the device, and nothing waits for it. Blocks that they do not know keep the
            executor that they had; the report says why.

    Raises:
        UnsupportedError: a model that is optimised already, or whose weights are offloaded or sharded; in a forward,
            kernels that cannot run on the model's device.
        DyTError: not one dynamic model, or other kernels.
    """
    if kernels not in KERNELS:
        raise DyTError(f"optimize: kernels is '{kernels}'; allowed: {', '.join(KERNELS)}")
    model = dynamic_of(model)
    if isinstance(model, OptimizedModel):
        raise UnsupportedError("the model is optimised already; optimise the one that it was made from")
    refuse_absent(model, "optimize")
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    backbone = twin.backbone
    blocks = {name: module for name, module in backbone.named_modules() if isinstance(module, DynamicBlock)}
    reports, leading = [], None
    for path, block in blocks.items():
        reason = _left_alone(block)
        if reason is not None:
            reports.append(BlockReport(path, left=(reason,)))
            continue
        if last_block and path == block.family.blocks(backbone)[-1]:
            leading, reason = _leading(twin, block)
        rewritten, report = _rewritten(block, path, leading, folds=kernels == "torch")
        if kernels == "triton" and leading is None:
            report = _with_kernels(rewritten, report)
        if reason is not None and reason not in report.left:
            report = replace(report, left=(*report.left, reason))
        parent, _, name = path.rpartition(".")
        backbone.get_submodule(parent).register_module(name, rewritten)
        reports.append(report)
    return OptimizedModel(twin, OptimizationReport(tuple(reports), leading))


def _with_kernels(block: RewrittenBlock, report: BlockReport) -> BlockReport:
    """Lets Triton's kernels compute a rewritten block's adapter and MLP, where they know them."""
    did, left, site = [], [], block.site
    if block.mlp.parts is None:
        left.append("Triton's kernels do not know its MLP")
    else:
        site.executors = site.executors[0], executors.get("triton")()
        did.append(KERNEL_MLP)
    if isinstance(site.adapter, FoldedAdapter):
        activation = KernelAdapter.activation_of(site.adapter)
        if activation is None:
            left.append("Triton's kernels do not know its adapter's activation")
        else:
            site.adapter = KernelAdapter(site.adapter, activation)
            did.append(KERNEL_ADAPTER)
    return replace(report, rewrites=(*report.rewrites, *did), left=(*report.left, *left))


def _left_alone(block: DynamicBlock) -> str | None:
    """Why nothing of a dynamic block is rewritten; None when it is."""
    if type(block) is not MLPVariant:
        return f"its variant is {type(block).__name__}, not mlp"
    if type(block.family) is not ViT:
        return f"its family is {type(block.family).__name__}, not vit"
    if block.reduction is not None:
        return "a reducer changes its tokens"
    if any(_hooked(module) for module in block.modules()):
        return "forward hooks are registered in it"
    return _site_left_alone(block.site("mlp"))


def _hooked(module: nn.Module) -> bool:
    """Whether it has hooks, other than one pair that puts it into windows and stays where it is."""
    windows = 0 if windows_of(module) is None else 1
    return max(len(module._forward_hooks), len(module._forward_pre_hooks)) > windows


def _site_left_alone(site: Site) -> str | None:
    if site.dispatcher.needs_attention:
        return "its dispatcher reads the class token's attention"
    if type(site.adapter) is Bottleneck and not (is_linear(site.adapter.down) and is_linear(site.adapter.up)):
        return "another library's modules are in its adapter"
    if site.stand_in is not None and site.stand_in.input != "block":
        return f"its stand-in reads {site.stand_in.input} tokens"
    if (site.adapter.placement, site.adapter.input) != ("parallel", "block"):
        return f"its adapter is {site.adapter.placement} and reads {site.adapter.input} tokens"
    return None


def _folds(stand_in: nn.Module | None) -> bool:
    """Whether a stand-in can go into the adapter's products: a low-rank map of nobody else's modules."""
    return type(stand_in) is LowRank and bare(stand_in) and is_linear(stand_in.down) and is_linear(stand_in.up)


def _leading(model: DynamicModel, block: DynamicBlock) -> tuple[int | None, str | None]:
    """How many tokens of its last block a model's head reads; or None, and why the block computes them all."""
    count, adapter = block.family.leading_read(model.backbone), block.site("mlp").adapter
    reason = FusedAttention.refusal(block)
    if count is None or type(model.head) is not Classifier:
        reason = "the head may read any of its tokens"
    elif type(adapter) not in {Bottleneck, NoAdapter}:
        reason = f"its adapter is a {type(adapter).__name__}, which may read every token"
    return (count, None) if reason is None else (None, reason)


def _rewritten(block: DynamicBlock, path: str, leading: int | None, folds: bool) -> tuple[RewrittenBlock, BlockReport]:
    """The block for its leading tokens, or for all, of the modules of a dynamic one; and what was done.

    `folds`: whether a stand-in goes into the adapter's products.
    """
    site, did, attention_reason = block.site("mlp"), [], None
    router = router_of(site.dispatcher) if leading is None else None
    if type(site.adapter) is Bottleneck:
        stand_in = site.stand_in if leading is None and folds and _folds(site.stand_in) else None
        assert stand_in is None or isinstance(stand_in, LowRank)
        site.adapter = FoldedAdapter(site.adapter, router, stand_in)
        did += [FOLDED] if router is None else [MERGED, FOLDED]
        if stand_in is not None:
            did.append(JOINED)
            site.stand_in = None
        site.dispatcher = site.dispatcher if router is None else ScoredElsewhere(site.dispatcher)
    mlp, mlp_reason = mlp_of(block)
    rewritten: RewrittenBlock
    if leading is None:
        attention, attention_reason = attention_of(block)
        rewritten = RewrittenBlock(block.family, site, attention, mlp)
        did = [*([PROJECTED] if attention_reason is None else []), *did, *([GATHERED] if mlp_reason is None else [])]
    else:
        short = LeadingAttention(block, leading)
        rewritten = LeadingBlock(block.family, site, short, mlp)
        did = [SHORT.format(leading), ABSORBED if short.absorbs_keys else POOLED, *did]
    left = tuple(reason for reason in (attention_reason, mlp_reason) if reason is not None)
    return rewritten, BlockReport(path, tuple(did), left)
