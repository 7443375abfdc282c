"""An optimised model has the numbers of the model that it was made from, and says what was done to it."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import dyt
from dyt.inference.rewrites import BlockReport, OptimizationReport
from dyt.inference.rewrites.block import LeadingBlock, RewrittenBlock
from dyt.model.block import DynamicBlock
from dyt.testing.laws import executed
from families.zoo import ZOO
from laws.models import CLASSES, TINY, Case, GivenCase, masks, shaken, spec, tiny
from laws.strategies import cases, component, mask_kinds, names

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
EXECUTIONS = [*names("executors"), "complete"]
CLOSE = 1e-4
"""Router logits nearer to the threshold than this may be on its other side in another summation order."""


@st.composite
def rewritable(draw: st.DrawFn) -> dict[str, Any]:
    """Variant `mlp` with what can stand beside it in a block that is rewritten."""
    dispatcher = draw(st.sampled_from(["learned", "topk", "always"]))
    adapter, stand_in = (
        draw(component("adapters", draw(st.sampled_from(names))))
        for names in (["bottleneck", "none"], ["low_rank", "low_rank", "bottleneck"])
    )
    made = {"dispatcher": draw(component("dispatchers", dispatcher)), "adapter": adapter, "stand_in": stand_in}
    if dispatcher == "always" or draw(st.booleans()):
        del made["stand_in"]  # without inactive tokens there is none
    for name in ("adapter", "stand_in"):
        if name in made:
            made[name] = {k: v for k, v in made[name].items() if k not in {"placement", "input"}}
    return made


@pytest.mark.parametrize("name", EXECUTIONS)
@given(case=cases(), picked=rewritable(), kinds=mask_kinds, last_block=st.booleans())
def test_equals_masked_under_forced_masks(
    name: str, case: Case, picked: dict[str, Any], kinds: list[str], last_block: bool
) -> None:
    model, x = shaken(dyt.build(spec(**picked), backbone=case.backbone())), case.images()
    optimized = dyt.optimize(model, last_block)
    assert all(block.rewrites for block in optimized.report.blocks)
    given_masks = masks(model, x, kinds, case.seed)
    reference = "complete" if name == "complete" else "masked"
    with torch.no_grad(), case.precision(), dyt.forced(model, given_masks), dyt.forced(optimized, given_masks):
        with dyt.execution(model, reference):
            expected = model(x)
        with dyt.execution(optimized, name), dyt.record(optimized) as routes:
            out = optimized(x)
    assert out.dtype == expected.dtype
    case.close(out, expected)
    alone = optimized.report.leading is not None
    for route, mask in zip(routes[: len(routes) - alone], given_masks, strict=False):
        assert torch.equal(route.active, torch.ones_like(mask) if name == "complete" else mask)


@given(case=cases(), picked=rewritable(), last_block=st.booleans())
def test_own_routes(case: Case, picked: dict[str, Any], last_block: bool) -> None:
    """Router logits are compared by themselves; what they decide is then forced upon the original."""
    model, x = shaken(dyt.build(spec(**picked), backbone=case.backbone()), 0.3), case.images()
    optimized = dyt.optimize(model, last_block)
    with torch.no_grad(), case.precision():
        with dyt.record(optimized) as routes:
            out = optimized(x)
        with dyt.execution(model, "masked"), dyt.forced(model, [route.active for route in routes]):
            case.close(out, model(x))
        with dyt.record(model) as own:
            model(x)
    assert [route.site for route in routes] == [route.site for route in own]
    first, reference = routes[0], own[0]
    if reference.logits is None or first.logits is None:
        return
    assert first.logits.dtype == torch.float32
    case.close(first.logits, reference.logits)
    clear = (reference.logits.abs() > (CLOSE if case.dtype == "float32" else 0.1)).all()
    if clear:
        assert torch.equal(first.active, reference.active)


@pytest.mark.parametrize("policy", ["forced", "routed", "complete"])
@given(case=cases(), picked=rewritable(), kinds=mask_kinds)
def test_each_image_costs_what_a_flop_counter_sees(
    policy: str, case: Case, picked: dict[str, Any], kinds: list[str]
) -> None:
    model, x = shaken(dyt.build(spec(**picked), backbone=case.backbone()), 0.3), case.images()
    optimized, given_masks = dyt.optimize(model), masks(model, x, kinds, case.seed)
    name = "complete" if policy == "complete" else "sparse"
    with case.precision():
        if policy == "forced":
            with dyt.forced(optimized, given_masks):
                counted = dyt.count_macs(optimized, x)
        else:
            with dyt.execution(optimized, name):
                counted = dyt.count_macs(optimized, x)
        for i, count in enumerate(counted.tolist()):
            own = [mask[i : i + 1] for mask in given_masks] if policy == "forced" else None
            assert abs(executed(optimized, x[i : i + 1], name, own) - count) <= 1


@pytest.mark.parametrize("prefix", [{}, {"reg_tokens": 4}])
def test_the_last_block_costs_what_arithmetic_says(prefix: dict[str, Any]) -> None:
    """Two products of the class token's for q, two for k and v, proj and MLP; scores and pooling over all tokens."""
    model = tiny({"depth": 1, **prefix}, adapter={"type": "none"})
    width, heads, tokens = 32, 2, 17 + prefix.get("reg_tokens", 0)
    block = 4 * width**2 + 2 * heads * width * tokens + 8 * width**2
    patches = 16 * width * 3 * 8**2
    assert dyt.count_macs(dyt.optimize(model), X).tolist() == [patches + block + width * CLASSES] * 3


def test_the_last_route_is_the_prefix_alone() -> None:
    optimized = dyt.optimize(tiny({"reg_tokens": 4}))
    for name in EXECUTIONS:
        with torch.no_grad(), dyt.execution(optimized, name), dyt.record(optimized) as routes:
            optimized(X)
        assert [route.site for route in routes] == ["blocks.0.mlp", "blocks.1.mlp"]
        assert routes[1].active.shape == (3, 21)
        assert routes[1].active[:, :5].all()
        assert not routes[1].active[:, 5:].any()


def test_a_forced_mask_that_does_not_fit_is_refused_at_the_last_block_too() -> None:
    optimized = dyt.optimize(tiny())
    given_masks = [torch.ones(3, 17, dtype=torch.bool), torch.ones(3, 18, dtype=torch.bool)]
    with dyt.forced(optimized, given_masks), pytest.raises(dyt.DyTError, match=r"blocks\.1\.mlp has shape \(3, 18\)"):
        optimized(X)


def test_a_threshold_that_is_moved_afterwards_is_heard() -> None:
    optimized = dyt.optimize(tiny({"depth": 2, "global_pool": "avg"}))
    for threshold, expected in ((-1e3, True), (1e3, False)):
        for site in optimized.sites:
            site.threshold.fill_(threshold)
        with torch.no_grad(), dyt.record(optimized) as routes:
            optimized(X)
        assert all(bool((route.active[:, 1:] == expected).all()) for route in routes)


@pytest.mark.parametrize("training", [True, False])
def test_the_original_stays_as_it_was_and_shares_nothing(training: bool) -> None:
    model = tiny({"init_values": 0.3, "drop_path_rate": 0.2}).train(training)
    before, modules = copy.deepcopy(model.state_dict()), {name: type(m) for name, m in model.named_modules()}
    optimized = dyt.optimize(model)
    assert {name: type(m) for name, m in model.named_modules()} == modules
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert {m.training for m in model.modules()} == {training}
    assert not any(module.training for module in optimized.modules())
    own = {t.data_ptr() for t in model.state_dict().values()}
    assert not own & {t.data_ptr() for t in optimized.state_dict().values()}
    with dyt.record(model) as routes, torch.no_grad():
        optimized(X)
    assert routes == []


def test_a_distilled_model_computes_both_of_the_tokens_that_it_reads() -> None:
    def make() -> nn.Module:
        return VisionTransformerDistilled(num_classes=CLASSES, **TINY)

    case = GivenCase(make, (32, 32), 3, 0)
    model = shaken(dyt.build(spec(), backbone=case.backbone()))
    optimized = dyt.optimize(model)
    assert optimized.report.leading == 2
    with torch.no_grad():
        case.close(optimized(X), model(X))


class ReadsMore(VisionTransformer):
    """A head of somebody else's."""

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        return self.head(x[:, 3])


def test_a_head_that_is_not_timm_s_is_given_every_token() -> None:
    case = GivenCase(lambda: ReadsMore(num_classes=CLASSES, **TINY), (32, 32), 3, 0)
    model = shaken(dyt.build(spec(), backbone=case.backbone()))
    optimized = dyt.optimize(model)
    assert optimized.report.leading is None
    with torch.no_grad():
        case.close(optimized(X), model(X))


def test_attention_masks_of_the_backbone_arrive() -> None:
    model = tiny({"num_heads": 2})
    for last_block in (True, False):
        backbone = dyt.optimize(model, last_block).backbone
        for mask in (torch.ones(17, 17, dtype=torch.bool).tril(), torch.randn(17, 17)):
            with torch.no_grad():
                expected = model.forward_features(X, attn_mask=mask)
                out = backbone.forward_features(X, attn_mask=mask)
            torch.testing.assert_close(out[:, :1], expected[:, :1], atol=2e-5, rtol=2e-5)
    with torch.no_grad():
        out, expected = backbone.forward_features(X, is_causal=True), model.forward_features(X, is_causal=True)
    torch.testing.assert_close(out, expected, atol=2e-5, rtol=2e-5)


# What is left alone ---------------------------------------------------------------


def swapped(model: dyt.DynamicModel, name: str) -> dyt.DynamicModel:
    """With a linear layer of its first block in another one's wrapping."""
    block = model.backbone.blocks[0]
    parent, _, child = name.rpartition(".")
    block.get_submodule(parent).register_module(child, nn.Sequential(block.get_submodule(name), nn.Tanh()))
    return model


def hooked(model: dyt.DynamicModel) -> dyt.DynamicModel:
    model.backbone.blocks[0].mlp.fc1.register_forward_hook(lambda *_: None)
    return model


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: tiny(variant={"type": "attn"}), "its variant is AttentionVariant, not mlp"),
        (lambda: tiny(reducer={"type": "tome", "r": 2}), "a reducer changes its tokens"),
        (lambda: tiny(dispatcher={"type": "attention"}), "its dispatcher reads the class token's attention"),
        (
            lambda: tiny(adapter={"type": "bottleneck", "placement": "sequential"}),
            "its adapter is sequential and reads block tokens",
        ),
        (
            lambda: tiny(adapter={"type": "bottleneck", "input": "normalised"}),
            "its adapter is parallel and reads normalised tokens",
        ),
        (lambda: hooked(tiny()), "forward hooks are registered in it"),
        (lambda: swapped(tiny(), "attn.qkv"), "another library's modules are in its attention"),
        (lambda: swapped(tiny(), "mlp.fc2"), "another library's modules are in its MLP"),
        (lambda: swapped(tiny(), "sites.mlp.adapter.up"), "another library's modules are in its adapter"),
    ],
)
def test_what_is_left_alone_says_why_and_has_its_numbers(make: Any, reason: str) -> None:
    model = make()
    optimized = dyt.optimize(model)
    assert reason in optimized.report.blocks[0].left
    assert f": {reason}" in str(optimized.report)
    for name in EXECUTIONS:
        with torch.no_grad(), dyt.execution(model, name), dyt.execution(optimized, name):
            torch.testing.assert_close(optimized(X), model(X), atol=2e-5, rtol=2e-5)


def test_a_mixture_of_experts_keeps_every_token_of_the_last_block() -> None:
    model = tiny(adapter={"type": "moe", "dim": 4})
    optimized = dyt.optimize(model)
    assert optimized.report.blocks[1].left == ("its adapter is a MoE, which may read every token",)
    with torch.no_grad():
        torch.testing.assert_close(optimized(X), model(X), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("tuner", "rewritten"),
    [
        ({"type": "vpt", "tokens": 2, "deep": True}, [False] * 3),
        ({"type": "vpt", "tokens": 2, "deep": False}, [False, True, False]),
        ({"type": "lora", "rank": 2}, [True] * 3),
        ({"type": "bitfit"}, [True] * 3),
    ],
)
def test_a_tuned_backbone(tuner: dict[str, Any], rewritten: list[bool]) -> None:
    """Prompts are hooks on blocks, and LoRA stands in the place of a linear layer."""
    model = tiny({"depth": 3}, tuner=tuner)
    optimized = dyt.optimize(model)
    assert [bool(block.rewrites) for block in optimized.report.blocks] == rewritten
    with torch.no_grad():
        torch.testing.assert_close(optimized(X), model(X), atol=2e-5, rtol=2e-5)


def test_blocks_that_are_not_dynamic_stay_plain() -> None:
    model = tiny({"depth": 3}, variant={"type": "mlp", "layers": [1]})
    optimized = dyt.optimize(model)
    assert [block.path for block in optimized.report.blocks] == ["blocks.1"]
    assert optimized.report.leading is None
    assert [type(b).__name__ for b in optimized.backbone.blocks] == ["Block", "RewrittenBlock", "Block"]
    with torch.no_grad():
        torch.testing.assert_close(optimized(X), model(X), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("name", sorted(set(names("families")) - {"vit"}))
def test_other_families_are_left_alone(name: str) -> None:
    from laws.backbones import BACKBONES

    row = next(row for row in BACKBONES.values() if row.family == name)
    case = GivenCase(row.make, row.image, 2, 0)
    variant = "mlp" if "mlp" in row.variants else row.variants[0]
    model = shaken(dyt.build(spec(variant={"type": variant}), backbone=case.backbone()))
    optimized = dyt.optimize(model)
    assert all(block.left and not block.rewrites for block in optimized.report.blocks)
    with torch.no_grad():
        case.close(optimized(case.images()), model(case.images()))


# What it is -----------------------------------------------------------------------


def test_the_blocks_of_the_default_model() -> None:
    optimized = dyt.optimize(tiny({"depth": 3}))
    assert [type(block) for block in optimized.backbone.blocks] == [RewrittenBlock, RewrittenBlock, LeadingBlock]
    assert not any(isinstance(module, DynamicBlock) for module in optimized.modules())
    assert [site.name for site in optimized.sites] == ["blocks.0.mlp", "blocks.1.mlp", "blocks.2.mlp"]
    lines = str(optimized.report).splitlines()
    assert [line.split(":")[0] for line in lines] == ["blocks.0 to blocks.1", "blocks.2"]


def test_a_report_joins_blocks_that_were_rewritten_alike() -> None:
    whole, part, none = ("a", "b"), (), ("c",)
    blocks = [(whole, part), (whole, part), (whole, none), ((), none)]
    report = OptimizationReport(tuple(BlockReport(f"blocks.{i}", *block) for i, block in enumerate(blocks)))
    assert str(report) == "blocks.0 to blocks.1: a; b\nblocks.2: a; b; not all of it: c\nblocks.3: left alone: c"


def test_optimising_twice_is_refused() -> None:
    with pytest.raises(dyt.UnsupportedError, match="optimised already"):
        dyt.optimize(dyt.optimize(tiny()))


@pytest.mark.parametrize("name", [name for name, animal in ZOO.items() if animal.family == "vit"])
def test_every_configuration_of_timm_s_plain_block(name: str) -> None:
    """Padding, gates, differential attention, gated MLPs, norms of other kinds: rewritten or kept, the numbers stay."""
    animal = ZOO[name]
    plain = animal.backbone()
    model, x = shaken(dyt.build(spec(), backbone=plain)), animal.images(plain)
    optimized = dyt.optimize(model)
    assert any(block.rewrites for block in optimized.report.blocks)
    with torch.no_grad():
        with dyt.record(optimized) as routes:
            out = optimized(x)
        with dyt.execution(model, "masked"), dyt.forced(model, [route.active for route in routes]):
            torch.testing.assert_close(out, model(x), atol=1e-4, rtol=1e-4)


def test_kernels_are_named_in_the_report_and_known_where_they_can_be() -> None:
    model = tiny(adapter={"type": "bottleneck", "activation": "silu"})
    fast = dyt.optimize(model, kernels="triton")
    first = fast.report.blocks[0]
    assert "MLP by Triton's kernels" in first.rewrites
    assert "Triton's kernels do not know its adapter's activation" in first.left
    assert [type(site.executors[1]).__name__ for site in fast.sites] == ["Triton", "Sparse"]
    known = dyt.optimize(tiny(), kernels="triton").report.blocks[0]
    assert "adapter and router in one of Triton's kernels" in known.rewrites
    assert not known.left


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is so without a GPU")
def test_kernels_are_refused_where_they_cannot_run() -> None:
    fast = dyt.optimize(tiny(), kernels="triton")
    with torch.no_grad(), pytest.raises(dyt.UnsupportedError, match="it needs a GPU"):
        fast(X)


def test_other_kernels_are_refused_by_name() -> None:
    with pytest.raises(dyt.DyTError, match="kernels is 'cuda'; allowed: torch, triton"):
        dyt.optimize(tiny(), kernels="cuda")  # type: ignore[arg-type]
