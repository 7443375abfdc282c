"""DynamicViT: the masked training form equals the gathered inference form, and what is to be learned has a gradient."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import dyt
from dyt.dispatchers import sampling
from dyt.reducers import BuildContext, Carried, DecisionContext, DynamicViT, DynamicViTSpec
from laws.models import Case, shaken, spec

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
Y = torch.arange(3)
CHOSEN = {"type": "dynamicvit", "keep": [0.8, 0.5, 0.2]}


def tuned(args: dict[str, Any] | None = None, **changes: Any) -> dyt.DynamicModel:
    chosen: dict[str, Any] = {
        "dispatcher": "always",
        "adapter": {"type": "bottleneck", "dim": 8, "dropout": 0.0},
        "reducer": CHOSEN,
    }
    return shaken(dyt.build(spec(**chosen | changes), backbone=Case(ARGS | (args or {}), (32, 32), 3, 0).backbone()))


def as_at_inference(monkeypatch: pytest.MonkeyPatch, counts: list[int]) -> None:
    """Noise that lets the fine-tuning decisions be those of inference: the highest logits of what is still kept."""
    kept: list[Tensor] = []

    def noise(logits: Tensor) -> Tensor:
        present = kept[-1] if kept else torch.ones_like(logits, dtype=torch.bool)
        best = logits.masked_fill(~present, -torch.inf).topk(counts[len(kept)], dim=1).indices
        kept.append(torch.zeros_like(present).scatter(1, best, value=True))
        return torch.where(kept[-1], 1e4, -1e4)

    monkeypatch.setattr(sampling, "gumbel_difference", noise)


@pytest.mark.parametrize("args", [{}, {"qk_norm": True, "init_values": 0.3, "reg_tokens": 2}])
@pytest.mark.parametrize("dispatcher", ["always", {"type": "learned", "noise": 0.0}])
def test_the_training_form_equals_the_inference_form(
    args: dict[str, Any], dispatcher: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tuned(args, dispatcher=dispatcher)
    with torch.no_grad(), dyt.record(model) as gathered:
        expected = model(X)
    as_at_inference(monkeypatch, [12, 8, 3])
    with torch.no_grad(), dyt.record(model.train()) as masked:
        torch.testing.assert_close(model(X), expected, atol=2e-5, rtol=2e-5)
    assert [route.active.shape[1] - route.prefix for route in gathered] == [16, 12, 8, 3]
    if dispatcher != "always":  # dropped tokens are never active, and not counted
        for before, after in zip(masked, gathered, strict=True):
            for mine, yours in zip(before.counts(), after.counts(), strict=True):
                torch.testing.assert_close(mine.detach(), yours)


def test_attention_masking_has_the_paper_s_gradient() -> None:
    """DynamicViT's own form: exp(scores) times the decisions, a token always seeing itself, then normalised."""
    scores, values = torch.randn(1, 5, 5), torch.randn(1, 5, 3)
    found = []
    for ours in (True, False):
        kept = torch.tensor([[1.0, 1.0, 0.0, 1.0, 0.0]], requires_grad=True)
        if ours:
            bias = Carried(4, kept=kept).bias()
            assert bias is not None
            weights = (scores + bias).softmax(-1)
        else:
            seen = torch.eye(5) + (1 - torch.eye(5)) * kept[:, None, :]
            weights = scores.exp() * seen / (scores.exp() * seen).sum(-1, keepdim=True)
        out = weights @ values
        (out * torch.arange(15.0).reshape(1, 5, 3).cos()).sum().backward()
        found.append((out.detach(), kept.grad))
    torch.testing.assert_close(found[0], found[1])
    assert found[0][1] is not None
    assert bool((found[0][1] != 0).all())


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_reach_every_predictor(checkpointing: bool) -> None:
    model = tuned({"global_pool": "token"}, reducer=CHOSEN | {"ratio_weight": 0.0})
    model.set_grad_checkpointing(checkpointing)
    loss, parts = dyt.TuningStep(model).train()(X, Y)
    loss.backward()
    predictors = {k: p.grad for k, p in model.named_parameters() if ".predictor." in k}
    assert len({k.split(".reduction.")[0] for k in predictors}) == 3
    assert all(grad is not None and bool(grad.any()) for grad in predictors.values())
    assert float(parts["reducer"].detach()) == 0.0


def test_the_ratio_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    as_at_inference(monkeypatch, [12, 8, 4])
    model = tuned(reducer=CHOSEN | {"ratio_weight": 3.0}, objective={"complete": 0.0, "distill": 0.0})
    loss, parts = dyt.TuningStep(model).train()(X, Y)
    expected = 3.0 * ((12 / 16 - 0.8) ** 2 + 0.0 + (4 / 16 - 0.2) ** 2) / 3
    torch.testing.assert_close(parts["reducer"], torch.tensor(expected), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(loss, parts["cls"] + 2 * parts["rate"] + parts["reducer"])
    assert torch.equal(loss, parts["total"])


def test_the_complete_pass_drops_without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    original, draws = sampling.gumbel_difference, []

    def counted(like: Tensor) -> Tensor:
        draws.append(like.shape)
        return original(like)

    monkeypatch.setattr(sampling, "gumbel_difference", counted)
    model = tuned().train()
    dyt.TuningStep(model)(X, Y)
    assert draws == [(3, 16)] * 3  # once per stage, in the dynamic pass
    with torch.no_grad(), dyt.execution(model, "complete"), dyt.record(model) as routes:
        trained = model(X)
        torch.testing.assert_close(model.eval()(X), trained)
    assert [route.active.shape[1] - 1 for route in routes] == [16, 12, 8, 3] * 2
    assert len(draws) == 3


def test_once_dropped_is_dropped_and_prefix_tokens_stay() -> None:
    first, second = (DynamicViT(DynamicViTSpec(), BuildContext(8, block=index, index=index, of=3)) for index in (0, 1))
    x = torch.randn(2, 18, 8)
    one = first.reduce(x, Carried(16), DecisionContext(True, prefix=2)).carried
    two = second.reduce(x, one, DecisionContext(True, prefix=2)).carried
    assert one.kept is not None
    assert two.kept is not None
    assert bool((two.kept <= one.kept).all())
    assert bool((two.kept[:, :2] == 1).all())
    assert 0 < int(one.kept[:, 2:].count_nonzero()) < 32


def test_the_predictor_by_hand() -> None:
    predictor = DynamicViT(DynamicViTSpec(), BuildContext(8)).predictor
    x, kept = torch.randn(2, 5, 8), torch.tensor([[1.0, 0, 1, 1, 0], [0, 0, 0, 0, 0]])
    found = predictor(x, kept)
    for i in range(2):
        z = F.gelu(predictor.embed[1](predictor.embed[0](x[i])))
        shared = [z[j, 4:] for j in range(5) if kept[i, j]]
        mean = torch.stack(shared).mean(0) if shared else torch.zeros(4)
        scores = predictor.judge(torch.cat([z[:, :4], mean.expand(5, 4)], 1))
        torch.testing.assert_close(found[i], scores.log_softmax(-1)[:, 0] - scores.log_softmax(-1)[:, 1])


def test_the_shares_of_the_stages() -> None:
    counts = {}
    for keep in (0.7, [0.7, 0.7, 0.01], 1.0):
        model = tuned(reducer={"type": "dynamicvit", "keep": keep})
        with torch.no_grad(), dyt.record(model) as routes:
            model(X)
        counts[str(keep)] = [route.active.shape[1] - 1 for route in routes]
    assert counts == {"0.7": [16, 11, 7, 5], "[0.7, 0.7, 0.01]": [16, 11, 11, 1], "1.0": [16] * 4}


def test_with_everything_kept_it_is_the_plain_model() -> None:
    plain = Case(ARGS, (32, 32), 3, 0).backbone()
    chosen = {"reducer": {"type": "dynamicvit", "keep": 1.0}, "dispatcher": "always", "adapter": "none"}
    model = dyt.build(spec(**chosen), backbone=copy.deepcopy(plain))
    with torch.no_grad():
        assert torch.equal(model(X), plain(X))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"keep": [0.5, 0.7, 0.2]}, "must not ascend"),
        ({"keep": []}, "at least one"),
        ({"keep": [0.5, 0.2]}, "2 shares given for 3 stages; give one each"),
        ({"keep": [0.5, 0.4, 0.0]}, "greater than 0"),
        ({"ratio_weight": -1}, "greater than or equal to 0"),
    ],
)
def test_a_wrong_spec_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(dyt.SpecError, match=message):
        tuned(reducer={"type": "dynamicvit"} | fields)
