"""`attention`: the k patch tokens that the class token attends to, as EViT ranks them; nothing learned."""

import copy

import pytest
import torch
from torch import Tensor

import dyt
from dyt.dispatchers import Attention, AttentionSpec, BuildContext, DecisionContext
from laws.models import TINY, Case, spec, tiny
from laws.strategies import names

ZERO = torch.zeros(())
SCORES = torch.tensor([[0.1, 0.5, 0.1, 0.3], [0.2, 0.2, 0.2, 0.2]])


def decided(training: bool, padding: Tensor | None = None, **fields: float) -> Tensor:
    dispatcher = Attention(AttentionSpec.model_validate(fields), BuildContext(3, rate=0.5))
    return dispatcher(torch.randn(2, 4, 3), DecisionContext(training, 0.0, ZERO, padding, lambda: SCORES)).active


@pytest.mark.parametrize("training", [True, False])
def test_the_largest_are_active_and_of_equal_ones_the_first(training: bool) -> None:
    assert decided(training).tolist() == [[False, True, False, True], [True, True, False, False]]
    assert decided(training, count=3).tolist() == [[True, True, False, True], [True, True, True, False]]
    padding = torch.tensor([[False, True, False, False], [True, True, False, True]])
    assert decided(training, padding, count=2).tolist() == [[True, False, False, True], [False, False, True, False]]


def test_nothing_is_learned_and_no_gradient_goes_through() -> None:
    dispatcher = Attention(AttentionSpec(), BuildContext(3))
    assert not list(dispatcher.parameters())
    scores = SCORES.clone().requires_grad_()
    decision = dispatcher(torch.randn(2, 4, 3), DecisionContext(True, 0.0, ZERO, None, lambda: scores))
    assert decision.gate is None
    assert decision.logits is None


def class_attention(block: torch.nn.Module, x: Tensor) -> Tensor:
    """(B, P): by timm's own modules, the whole softmax written out."""
    attn, batch, count = block.attn, len(x), x.shape[1]
    qkv = attn.qkv(block.norm1(x)).reshape(batch, count, 3, attn.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k = attn.q_norm(qkv[0]), attn.k_norm(qkv[1])
    return (q @ k.mT * attn.scale).softmax(-1)[:, :, 0, 1:].mean(1)


@pytest.mark.parametrize("variant", names("variants"))
def test_the_routes_are_the_ranking_of_each_block_s_input(variant: str) -> None:
    model = tiny(dispatcher={"type": "attention", "count": 5}, variant=variant)
    entered: list[Tensor] = []
    for block in model.backbone.blocks:
        block.register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    with torch.no_grad(), dyt.record(model) as routes:
        model(torch.randn(3, 3, 32, 32))
        per_block = len(model.sites) // len(entered)
        for i, route in enumerate(routes):
            block = model.backbone.blocks[i // per_block]
            scores = class_attention(block, entered[i // per_block])
            active = route.active[:, 1:]
            assert active.sum(1).tolist() == [5] * len(active)
            least = scores.masked_fill(~active, torch.inf).amin(1)
            assert bool((least >= scores.masked_fill(active, -torch.inf).amax(1) - 1e-6).all())  # or a tie in rounding


def test_it_is_not_asked_when_masks_are_forced_or_all_is_active(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = tiny(dispatcher="attention"), torch.randn(2, 3, 32, 32)
    family = type(model.backbone.blocks[0].family)
    monkeypatch.setattr(family, "class_attention", lambda *args, **kwargs: pytest.fail("was asked"))
    with torch.no_grad(), dyt.execution(model, "complete"), dyt.record(model) as routes:
        model(x)
    with torch.no_grad(), dyt.forced(model, [route.active for route in routes]):
        model(x)


def test_under_autocast_a_fully_trained_backbone_keeps_its_gradients() -> None:
    """The dispatcher runs the attention's own weights; what autocast caches of them must not be cut off."""
    found = []
    for dispatcher in ("always", "attention"):
        torch.manual_seed(0)
        model = tiny(dispatcher=dispatcher, adapter="none", trainable="full", objective={"rate": 1.0}).train()
        with torch.autocast("cpu", torch.bfloat16):
            loss, _ = dyt.TuningStep(model)(torch.randn(2, 3, 32, 32), torch.arange(2))
        loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
    assert found[0].keys() == found[1].keys()
    for name, grad in found[0].items():
        if grad is not None:
            torch.testing.assert_close(found[1][name], grad)
    assert all(grad is not None for grad in found[1].values())


def test_a_backbone_without_class_token_is_refused_unchanged() -> None:
    backbone = Case(TINY | {"class_token": False, "global_pool": "avg"}, (32, 32), 1, 0).backbone()
    before = copy.deepcopy(backbone.state_dict())
    with pytest.raises(dyt.UnsupportedError, match=r"'attention' is not available for .*: it has no class"):
        dyt.build(spec(dispatcher="attention"), backbone=backbone)
    assert list(backbone.state_dict()) == list(before)
