"""The dynamic block takes the original's place: names, children, modes; checkpointing recomputes exactly."""

import copy
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import dyt
from dyt.dispatchers import sampling
from dyt.model.block import DynamicBlock
from laws.models import CLASSES, Case, shaken, spec, tiny
from laws.strategies import names

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(3) % CLASSES
LARGE = Case(
    {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "init_values": 0.3}, (32, 32), 3, 0
)


@pytest.mark.parametrize("variant", names("variants"))
def test_timm_s_names_stay(variant: str) -> None:
    plain = LARGE.backbone()
    before, modules = dict(plain.named_parameters()), dict(plain.named_modules())
    dyt.build(spec(variant={"type": variant}), backbone=plain)
    after = dict(plain.named_parameters())
    assert all(after[name] is parameter for name, parameter in before.items())
    kept = {name: module for name, module in plain.named_modules() if name in modules}
    assert kept.keys() == modules.keys()
    assert all(kept[n] is m for n, m in modules.items() if not n.startswith("blocks.") or n.count(".") > 1)
    assert all(".sites." in name for name in after.keys() - before.keys())


def test_a_child_swapped_by_another_library_is_what_runs() -> None:
    model = tiny()
    with torch.no_grad(), dyt.execution(model, "complete"):
        before = model(X)
        model.backbone.blocks[0].mlp.fc1 = nn.Sequential(copy.deepcopy(model.backbone.blocks[0].mlp.fc1), nn.Tanh())
        assert not torch.equal(model(X), before)


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_the_backbone_s(training: bool) -> None:
    model = dyt.build(spec(), backbone=LARGE.backbone().train(training))
    assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize("args", [{}, {"drop_path_rate": 0.3, "proj_drop_rate": 0.2}])
@pytest.mark.parametrize("variant", names("variants"))
def test_gradient_checkpointing_changes_no_number(
    variant: str, args: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, draws = sampling.gumbel_difference, []

    def counted(like: torch.Tensor) -> torch.Tensor:
        draws.append(like.shape)
        return original(like)

    monkeypatch.setattr(sampling, "gumbel_difference", counted)
    model = tiny(args, variant={"type": variant}, objective={"rate": 0.3}).train()
    found: list[Any] = []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        draws.clear()
        torch.manual_seed(3)
        loss, _ = dyt.TuningStep(model)(X, Y)
        loss.backward()
        assert len(draws) == len(model.sites)  # once per site: not in the complete pass, nor again in recomputation
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters() if p.requires_grad]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


def test_gradient_checkpointing_recomputes_the_branches() -> None:
    model, calls = tiny().train(), []
    model.backbone.blocks[1].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    # Two passes; an economical step computes active and inactive tokens of the dynamic pass apart, and the inactive
    # ones without a graph, so that they are not computed again.
    for checkpointing, economical, expected in ((False, False, 2), (True, False, 4), (False, True, 3), (True, True, 5)):
        model.set_grad_checkpointing(checkpointing)
        calls.clear()
        loss, _ = dyt.TuningStep(model, economical=economical)(X, Y)
        loss.backward()
        assert len(calls) == expected


def test_timm_s_checkpointing_flag_becomes_ours() -> None:
    """timm's would recompute the dispatchers too, outside the context that the forward ran in."""
    plain = LARGE.backbone()
    plain.set_grad_checkpointing(True)
    model = dyt.build(spec(), backbone=plain)
    assert not plain.grad_checkpointing
    assert all(block.grad_checkpointing for block in plain.blocks)
    reference = shaken(dyt.build(spec(), backbone=LARGE.backbone()))
    model.load_state_dict(reference.state_dict())
    grads = []
    for each in (model, reference):
        torch.manual_seed(0)
        loss, _ = dyt.TuningStep(each).train()(X, Y)
        loss.backward()
        grads.append([p.grad for p in each.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_no_graph_is_kept_below_the_first_adapter() -> None:
    model = tiny().train()
    seen: dict[str, bool] = {}
    for name in ("patch_embed", "blocks.0.attn", "blocks.0.mlp", "blocks.1.attn"):

        def look(_: nn.Module, args: Any, out: torch.Tensor, name: str = name) -> None:
            seen.setdefault(name, out.requires_grad)

        model.backbone.get_submodule(name).register_forward_hook(look)
    loss, _ = dyt.TuningStep(model)(X, Y)
    assert loss.requires_grad
    assert seen == {"patch_embed": False, "blocks.0.attn": False, "blocks.0.mlp": False, "blocks.1.attn": True}


def test_what_the_backbone_passes_to_its_blocks_arrives() -> None:
    """timm gives its blocks an attention mask; a causal one, say, changes the result as it does in timm."""
    plain = LARGE.backbone()
    model = dyt.build(spec(), backbone=copy.deepcopy(plain))
    mask = torch.ones(17, 17, dtype=torch.bool).tril()
    with torch.no_grad(), dyt.execution(model, "complete"):
        expected = plain.forward_features(X, attn_mask=mask)
        torch.testing.assert_close(model.forward_features(X, attn_mask=mask), expected)
        assert not torch.allclose(model.forward_features(X), expected, atol=1e-3)


def test_the_block_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        DynamicBlock(None, VisionTransformer(**LARGE.vit).blocks[0], None, {})  # type: ignore[abstract,arg-type]


@pytest.mark.parametrize("variant", names("variants"))
def test_hooks_on_the_blocks_are_kept_and_can_be_removed(variant: str) -> None:
    plain, seen = LARGE.backbone(), []
    handles = [
        plain.blocks[1].register_forward_pre_hook(lambda module, args: seen.append("before")),
        plain.blocks[1].register_forward_hook(lambda module, args, out: seen.append("behind"), always_call=True),
        plain.blocks[1].register_full_backward_hook(lambda module, given, wanted: seen.append("backward")),
    ]
    model = dyt.build(spec(variant={"type": variant}), backbone=plain)
    model(X.clone().requires_grad_()).sum().backward()
    assert seen == ["before", "behind", "backward"]
    for handle in handles:
        handle.remove()
    model(X)
    assert len(seen) == 3
    dyt.unwrap(model)(X)
    assert len(seen) == 3


def hooked(block: nn.Module, seen: list[str]) -> list[Any]:
    """A hook of each kind, each of which says that it was called."""
    look = lambda name: lambda *args, **kwargs: seen.append(name)  # noqa: E731
    return [
        block.register_forward_pre_hook(look("before"), with_kwargs=True),
        block.register_forward_hook(look("behind"), with_kwargs=True),
        block.register_full_backward_pre_hook(look("backward before")),
        block.register_full_backward_hook(look("backward")),
        block.register_state_dict_pre_hook(look("state before")),
        block.register_state_dict_post_hook(look("state")),
        block.register_load_state_dict_pre_hook(look("load before")),
        block.register_load_state_dict_post_hook(look("load")),
    ]


def called(model: nn.Module, seen: list[str]) -> list[str]:
    """The hooks that a forward, a backward, a saving and a loading call."""
    seen.clear()
    model(X.clone().requires_grad_()).sum().backward()
    model.load_state_dict(model.state_dict())
    return list(seen)


ALL = ["before", "behind", "backward before", "backward", "state before", "state", "load before", "load"]


@pytest.mark.parametrize("variant", names("variants"))
def test_every_kind_of_hook_is_called_dynamic_plain_and_taken_apart(variant: str) -> None:
    plain, seen = LARGE.backbone(), list[str]()
    before = hooked(plain.blocks[1], seen)
    assert called(plain, seen) == ALL
    model = dyt.build(spec(variant={"type": variant}), backbone=plain)
    assert called(model, seen) == ALL
    with dyt.plain(model):
        assert called(model, seen) == ALL
    later = hooked(plain.blocks[2], seen)  # on the dynamic block
    for handle in before:
        handle.remove()
    assert called(model, seen) == ALL
    assert called(dyt.unwrap(model), seen) == ALL
    for handle in later:
        handle.remove()
    assert called(plain, seen) == []


def test_parts_of_a_block_keep_the_mode_that_they_were_given_in() -> None:
    plain = LARGE.backbone().train()
    plain.blocks[0].attn.eval()
    model = dyt.build(spec(), backbone=plain)
    assert not plain.blocks[0].attn.training
    assert plain.blocks[0].mlp.training
    assert all(module.training for site in model.sites for module in site.modules())
