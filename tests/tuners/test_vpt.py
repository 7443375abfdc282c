"""`vpt`: against the paper's computation written out on a plain backbone; where prompts are and where they are not."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import dyt
from dyt.dispatchers import Always, AlwaysSpec
from dyt.families import Family, ViT
from dyt.registry import dispatchers, reducers
from laws.models import TINY, Case, masks, shaken, spec
from laws.strategies import cases

CASE = Case(TINY, (32, 32), 2, 0)
each_form = pytest.mark.parametrize("deep", [True, False])


def vpt_model(case: Case = CASE, **fields: Any) -> dyt.DynamicModel:
    chosen = {"type": "vpt", "tokens": 3, **fields}
    return dyt.build(spec(dispatcher="always", adapter="none", tuner=chosen), backbone=case.backbone())


def prompts(model: dyt.DynamicModel) -> list[Tensor]:
    return [p for name, p in model.named_parameters() if name.endswith("prompts.tokens")]


@each_form
@given(case=cases(dtypes=("float32",)), tokens=st.integers(1, 4))
def test_it_computes_what_the_paper_says(deep: bool, case: Case, tokens: int) -> None:
    """Eq. 4 and 5: [class, prompts, patches] through the layers; a deep layer's prompts replace those before."""
    model = vpt_model(case, tokens=tokens, deep=deep)
    plain, x, learned = case.backbone(), case.images(), prompts(model)
    prefix = plain.num_prefix_tokens
    with torch.no_grad():
        y = plain.norm_pre(plain.patch_drop(plain._pos_embed(plain.patch_embed(x))))
        for i, block in enumerate(plain.blocks):
            if i == 0:
                y = torch.cat([y[:, :prefix], learned[0].expand(len(x), -1, -1), y[:, prefix:]], 1)
            elif deep:
                y = torch.cat([y[:, :prefix], learned[i].expand(len(x), -1, -1), y[:, prefix + tokens :]], 1)
            y = block(y)
        y = torch.cat([y[:, :prefix], y[:, prefix + tokens :]], 1)
        case.close(model.forward_features(x), plain.norm(y))
        case.close(model(x), plain.forward_head(plain.norm(y)))
    assert len(learned) == (case.vit["depth"] if deep else 1)


@each_form
def test_they_are_prefix_inside_the_blocks_and_nowhere_else(deep: bool) -> None:
    dynamic = spec(tuner={"type": "vpt", "tokens": 3, "deep": deep})
    model, x = shaken(dyt.build(dynamic, backbone=CASE.backbone()), 0.5), CASE.images()
    seen: list[tuple[int, int]] = []
    model.backbone.norm.register_forward_hook(lambda module, args, out: seen.append(tuple(out.shape[:2])))
    with torch.no_grad(), dyt.record(model) as routes:
        model(x)
    assert seen == [(2, 17)]
    assert model.num_prefix_tokens == 1
    assert all(route.prefix == 4 and tuple(route.active.shape) == (2, 20) for route in routes)
    assert all(bool(route.active[:, :4].all()) and tuple(route.logits.shape) == (2, 16) for route in routes)
    assert all(float(total[0]) == 16 for _, total in (route.counts() for route in routes))
    given_masks = masks(model, x, ["none"], 0)
    with torch.no_grad(), dyt.forced(model, given_masks), dyt.record(model) as routes:
        model(x)
    assert all(int(route.active.sum()) == 2 * 4 for route in routes)
    with pytest.raises(dyt.DyTError, match="the first 4 must be True"), dyt.forced(model, [~m for m in given_masks]):
        pass


@each_form
def test_they_learn(deep: bool) -> None:
    model = vpt_model(deep=deep)
    before = [p.detach().clone() for p in prompts(model)]
    step = dyt.TuningStep(model, {"rate_weight": 0.0, "complete": 0.0, "distill": 0.0}).train()
    loss, _ = step(CASE.images(), torch.tensor([0, 1]))
    loss.backward()
    assert all(p.grad is not None and bool(p.grad.abs().amax((0, 2)).gt(0).all()) for p in prompts(model))
    torch.optim.SGD(prompts(model), lr=1.0).step()
    assert not any(torch.equal(p, b) for p, b in zip(prompts(model), before, strict=True))


def test_they_start_as_the_authors_do() -> None:
    bound = (6 / (3 * 8 * 8 + 32)) ** 0.5
    values = torch.cat([p.detach().flatten() for p in prompts(vpt_model(tokens=200))])
    assert bound * 0.99 < values.abs().max() <= bound
    assert values.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)


def test_dropout_is_drawn_in_training_only() -> None:
    model, x = vpt_model(dropout=0.5), CASE.images()
    with torch.no_grad():
        assert torch.equal(model(x), model(x))
        model.train()
        assert not torch.equal(model(x), model(x))


def test_features_between_the_blocks_have_no_prompts() -> None:
    model, x = vpt_model(deep=True), CASE.images()
    with torch.no_grad():
        final, between = model.forward_intermediates(x, norm=True)
        assert [tuple(features.shape) for features in between] == [(2, 32, 4, 4)] * 2
        torch.testing.assert_close(final, model.forward_features(x))
        torch.testing.assert_close(between[-1].flatten(2).mT, final[:, 1:])
    with pytest.raises(dyt.UnsupportedError, match=r"forward_intermediates .* shallow prompts .* use tuner.deep: true"):
        vpt_model(deep=False).forward_intermediates(x)


@each_form
def test_only_some_blocks_dispatched(deep: bool) -> None:
    """The prompts of a plain timm block are put in and taken out as those of a dynamic one."""
    chosen = {"tuner": {"type": "vpt", "tokens": 3, "deep": deep}, "dispatcher": "always", "adapter": "none"}
    whole = dyt.build(spec(**chosen), backbone=CASE.backbone())
    part = dyt.build(spec(variant={"type": "mlp", "layers": [1]}, **chosen), backbone=CASE.backbone())
    with torch.no_grad():
        for ours, theirs in zip(prompts(part), prompts(whole), strict=True):
            ours.copy_(theirs)
        torch.testing.assert_close(part(CASE.images()), whole(CASE.images()))


def test_an_attention_mask_is_refused() -> None:
    with pytest.raises(dyt.UnsupportedError, match="prompts do not combine with attn_mask"):
        vpt_model()(CASE.images(), attn_mask=torch.ones(17, 17, dtype=torch.bool))


@each_form
@pytest.mark.parametrize("reducer", reducers.names())
def test_a_reducer_is_refused(deep: bool, reducer: str) -> None:
    """It would merge or drop prompts, and what is taken out behind the block would be patches."""
    backbone = CASE.backbone()
    modules = [id(module) for module in backbone.modules()]
    with pytest.raises(dyt.UnsupportedError, match=f"tuner 'vpt' is not available .*: reducer '{reducer}' would take"):
        dyt.build(spec(tuner={"type": "vpt", "deep": deep}, reducer=reducer), backbone=backbone)
    assert [id(module) for module in backbone.modules()] == modules


def test_a_family_that_does_not_say_that_it_can_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ViT, "prompt_refusal", Family.prompt_refusal)
    backbone = CASE.backbone()
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(dyt.UnsupportedError, match="tuner 'vpt' is not available for VisionTransformer: this family"):
        dyt.build(spec(tuner="vpt"), backbone=backbone)
    assert list(backbone.state_dict()) == list(before)


def test_a_dispatcher_that_ranks_by_attention_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    class Ranking(Always):
        needs_attention = True

    class RankingSpec(AlwaysSpec):
        type: str = "ranking"

    Ranking.Spec = RankingSpec
    monkeypatch.setattr(ViT, "attention_refusal", lambda self, backbone: None)
    with dispatchers.temporary():
        dispatchers("ranking")(Ranking)
        with pytest.raises(dyt.UnsupportedError, match=r"tuner 'vpt' .* dispatcher 'ranking' ranks by attention"):
            dyt.build(spec(tuner="vpt", dispatcher="ranking"), backbone=CASE.backbone())
        assert dyt.build(spec(tuner="lora", dispatcher="ranking"), backbone=CASE.backbone()).sites


@pytest.mark.parametrize("fields", [{"tokens": 0}, {"dropout": 1.0}, {"deep": "both"}])
def test_fields_out_of_range_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(dyt.SpecError, match=rf"^tuner\.{next(iter(fields))}: "):
        dyt.build({"tuner": {"type": "vpt", **fields}})
