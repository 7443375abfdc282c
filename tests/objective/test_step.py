"""The terms of the loss against their definitions, and TuningStep that joins them."""

import copy
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import dyt
from dyt.config.spec import parse
from dyt.core import context
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.heads import classification, distillation
from dyt.objective.step import feature_distance, mean_over_ranks
from laws.models import CLASSES, TINY, Case, masks, shaken, spec, tiny

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(4) % CLASSES
STILL = {"type": "bottleneck", "dim": 8, "dropout": 0.0}


def still(**changes: Any) -> dyt.DynamicModel:
    """In train mode, but drawing nothing: so that passes can be repeated."""
    return tiny(**({"dispatcher": {"type": "learned", "noise": 0.0}, "adapter": STILL} | changes)).train()


def test_kl_is_of_complete_against_dynamic_with_a_detached_teacher() -> None:
    complete, dynamic = torch.randn(3, 7, requires_grad=True), torch.randn(3, 7, requires_grad=True)
    for temperature in (1.0, 3.0):
        p, q = (complete / temperature).softmax(-1), (dynamic / temperature).softmax(-1)
        expected = (p * (p.log() - q.log())).sum() / 3 * temperature**2
        found = distillation(complete, dynamic, temperature)
        torch.testing.assert_close(found, expected)
        complete.grad = dynamic.grad = None
        found.backward()
        assert complete.grad is None
        assert dynamic.grad is not None
        torch.testing.assert_close(dynamic.grad, ((q - p) / 3 * temperature).detach())


def route(entered: torch.Tensor, prefix: int, padding: torch.Tensor | None = None) -> Route:
    active = torch.ones(entered.shape[:2], dtype=torch.bool)
    return Route(active, prefix, padding=padding, entered=entered)


@pytest.mark.parametrize("prefix", [0, 1, 3])
def test_feature_distance_is_squared_distance_over_variance(prefix: int) -> None:
    tokens = torch.randn(2, 2, 6, 5, 4) + 3.0  # pass, site, image, token, channel
    ours, theirs = tokens.clone().requires_grad_(), tokens.flip(0).clone().requires_grad_()
    dynamic, complete = ([route(x, prefix) for x in each[0]] for each in (ours, theirs))
    found = feature_distance(dynamic, complete)
    expected = []
    for mine, teacher in zip(ours[0], theirs[0].detach(), strict=True):
        a, b = (t[:, 0] if prefix else t.mean(1) for t in (mine, teacher))
        expected.append(((a - b) ** 2).sum() / ((b - b.mean(0)) ** 2).sum())
    torch.testing.assert_close(found, torch.stack(expected).mean())
    found.backward()
    assert theirs.grad is None
    assert ours.grad is not None
    assert bool(ours.grad[0].any())
    assert feature_distance(complete, complete).item() == 0.0


def test_feature_distance_of_patches_counts_each_of_them() -> None:
    x, y = torch.randn(3, 5, 4), torch.randn(3, 5, 4) + 2.0
    padding = torch.tensor([[False] * 4 + [True]] * 3)
    ours, theirs = x[:, 1:4].reshape(-1, 4), y[:, 1:4].reshape(-1, 4)
    expected = ((ours - theirs) ** 2).sum() / ((theirs - theirs.mean(0)) ** 2).sum()
    found = feature_distance([route(x, 1, padding)], [route(y, 1, padding)], patches=True)
    torch.testing.assert_close(found, expected)


def test_feature_distance_leaves_padding_out_and_needs_two_images() -> None:
    x, y = torch.randn(3, 4, 2), torch.randn(3, 4, 2)
    padding = torch.tensor([[False, False, True, True]] * 3)
    found = feature_distance([route(x, 0, padding)], [route(y, 0, padding)])
    torch.testing.assert_close(found, feature_distance([route(x[:, :2], 0)], [route(y[:, :2], 0)]))
    alike = x[:1].expand(3, -1, -1)
    assert feature_distance([route(alike, 0)], [route(alike, 0)]).item() == 0.0
    with pytest.raises(DyTError, match="at least two"):
        feature_distance([route(x[:1], 0)], [route(y[:1], 0)])


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_the_features_term_teaches_routers_and_adapters(pool: str) -> None:
    """With no other term; and it alone asks for the complete pass."""
    model = still(args={"global_pool": pool, "class_token": pool == "token"})
    terms = {"complete": 0.0, "distill": 0.0, "rate_weight": 0.0}
    _, without = dyt.TuningStep(model, terms)(X, Y)
    loss, parts = dyt.TuningStep(model, {**terms, "features": 2.0})(X, Y)
    assert without["features"].item() == 0.0 < parts["features"].item()
    torch.testing.assert_close(loss, parts["cls"] + 2.0 * parts["features"])
    parts["features"].backward()
    first = model.sites[0]
    assert all(p.grad is not None and bool(p.grad.any()) for p in first.parameters())


@pytest.mark.parametrize("reducer", [None, {"type": "tome", "r": 2}])
@pytest.mark.parametrize("complete", [0.0, 1.0])
def test_the_pretrained_backbone_as_the_teacher(complete: float, reducer: dict[str, Any] | None) -> None:
    """It has neither adapters nor dispatchers; it moves with nothing that is trained, and is given no gradient."""
    backbone = Case(TINY, (32, 32), 4, 0).backbone()
    plain = copy.deepcopy(backbone)
    model = shaken(
        dyt.build(spec(adapter=STILL, dispatcher={"type": "learned", "noise": 0}), backbone=backbone)
    ).train()
    step = dyt.TuningStep(
        model, {"complete": complete, "distill": 0.0, "rate_weight": 0.0, "features": 2.0, "teacher": "pretrained"}
    )
    entered: list[torch.Tensor] = []
    for block in plain.blocks:
        block.norm2.register_forward_pre_hook(lambda _, args: entered.append(args[0][:, 0].detach()))
    with torch.no_grad():
        plain(X)
    with dyt.record(model) as passes:
        loss, parts = step(X, Y)
    dynamic, pretrained = passes[: len(model.sites)], passes[-len(model.sites) :]
    assert len(passes) == len(model.sites) * (3 if complete else 2)
    for route, wanted in zip(pretrained, entered, strict=True):
        assert route.dense
        torch.testing.assert_close(route.summary(), wanted)
        assert not route.summary().requires_grad
    torch.testing.assert_close(parts["features"], feature_distance(dynamic, pretrained))
    torch.testing.assert_close(loss, parts["cls"] + complete * parts["complete"] + 2.0 * parts["features"])
    parts["features"].backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.sites[0].parameters())


@pytest.mark.parametrize("changed", [{"trainable": "full"}, {"tuner": {"type": "bitfit"}}])
def test_a_backbone_that_is_changed_is_no_pretrained_teacher(changed: dict[str, Any]) -> None:
    with pytest.raises(DyTError, match="needs a frozen backbone"):
        parse(dyt.DyTSpec, {"objective": {"teacher": "pretrained"}, **changed})
    with pytest.raises(DyTError, match="needs a frozen backbone"):
        dyt.TuningStep(still(**changed), {"teacher": "pretrained"})


def test_the_features_weight_can_follow_the_training() -> None:
    model, ramp = still(), {"start": 4.0, "end": 0.0, "until": 0.5}
    terms = {"complete": 0.0, "distill": 0.0, "rate_weight": 0.0}
    step = dyt.TuningStep(model, {**terms, "features": ramp})
    for progress, weight in ((0.0, 4.0), (0.25, 2.0)):
        loss, parts = step(X, Y, progress)
        torch.testing.assert_close(loss, parts["cls"] + weight * parts["features"])
    with dyt.record(model) as routes:
        _, parts = step(X, Y, 0.5)
    assert parts["features"] == 0
    assert len(routes) == len(model.sites)  # no second pass
    with pytest.raises(DyTError, match="pass progress"):
        step(X, Y)
    with pytest.raises(DyTError, match="features must not be below 0"):
        parse(dyt.ObjectiveSpec, {"features": ramp | {"end": -1.0}})


def test_routes_keep_no_tokens_unless_asked() -> None:
    model = still()
    with dyt.record(model) as routes:
        dyt.TuningStep(model)(X, Y)
    assert all(r.entered is None for r in routes)


def test_classification_takes_soft_labels_and_is_float32() -> None:
    logits = torch.randn(4, CLASSES)
    soft = F.one_hot(Y, CLASSES).float()
    torch.testing.assert_close(classification(logits, soft), classification(logits, Y))
    assert classification(logits.bfloat16(), Y).dtype == torch.float32


def test_the_parts_make_the_loss() -> None:
    model = still()
    objective = {"rate": 0.3, "rate_weight": 3.0, "complete": 0.5, "distill": 0.25, "temperature": 2.0}
    loss, parts = dyt.TuningStep(model, objective)(X, Y)
    assert set(parts) == {"cls", "complete", "distill", "features", "rate", "total", "active_rate"}
    assert all(part.shape == () and part.dtype == torch.float32 for part in parts.values())
    with dyt.record(model) as routes:
        dynamic = model(X)
    with dyt.execution(model, "complete"):
        complete = model(X)
    rate = torch.stack([route.active[:, 1:].float().mean() for route in routes]).mean()
    torch.testing.assert_close(parts["cls"], F.cross_entropy(dynamic, Y))
    torch.testing.assert_close(parts["complete"], F.cross_entropy(complete, Y))
    torch.testing.assert_close(parts["distill"], distillation(complete, dynamic, 2.0))
    torch.testing.assert_close(parts["active_rate"], rate)
    torch.testing.assert_close(parts["rate"], (rate - 0.3) ** 2)
    expected = parts["cls"] + 0.5 * parts["complete"] + 0.25 * parts["distill"] + 3.0 * parts["rate"]
    torch.testing.assert_close(loss, expected)
    assert torch.equal(loss, parts["total"])
    assert not parts["active_rate"].requires_grad


@pytest.mark.parametrize(
    ("complete", "distill", "passes"), [(1.0, 1.0, 2), (0.0, 1.0, 2), (1.0, 0.0, 2), (0.0, 0.0, 1)]
)
def test_a_pass_that_nobody_needs_is_not_run(complete: float, distill: float, passes: int) -> None:
    model, calls = still(), []
    model.backbone.patch_embed.register_forward_pre_hook(lambda *_: calls.append(1))
    _, parts = dyt.TuningStep(model, {"complete": complete, "distill": distill})(X, Y)
    assert len(calls) == passes
    assert (parts["complete"] > 0).item() == (complete > 0)
    assert (parts["distill"] > 0).item() == (distill > 0)


def test_the_objective_may_be_a_spec_a_dict_or_the_model_s() -> None:
    model = still(objective={"rate": 0.7})
    assert dyt.TuningStep(model).objective.rate == 0.7
    assert (
        dyt.TuningStep(model, {"rate": 0.2}).objective == dyt.TuningStep(model, dyt.ObjectiveSpec(rate=0.2)).objective
    )
    with pytest.raises(dyt.SpecError, match=r"rat: no such field; did you mean 'rate'\?"):
        dyt.TuningStep(model, {"rat": 0.2})


def test_the_step_takes_the_model_s_mode() -> None:
    assert dyt.TuningStep(still()).training
    assert not dyt.TuningStep(still().eval()).training


def test_the_asked_rate_follows_the_progress() -> None:
    asked = {"start": 1.0, "until": 0.5, "shape": "linear"}
    step = dyt.TuningStep(still(), {"rate": 0.5, "asked": asked})
    for progress, rate in ((0.0, 1.0), (0.25, 0.75), (0.8, 0.5)):
        _, parts = step(X, Y, progress)
        torch.testing.assert_close(parts["rate"], (parts["active_rate"] - rate) ** 2)
    with pytest.raises(dyt.DyTError, match="this spec has schedules: pass progress"):
        step(X, Y)


@pytest.mark.parametrize("field", ["temperature", "noise"])
def test_a_scheduled_dispatcher_needs_the_progress(field: str) -> None:
    model = still(dispatcher={"type": "learned", field: {"start": 1.0, "end": 0.5}})
    with pytest.raises(dyt.DyTError, match="pass progress"):
        dyt.TuningStep(model)(X, Y)
    dyt.TuningStep(model)(X, Y, 0.5)


def test_a_bias_over_depth_needs_no_progress() -> None:
    dyt.TuningStep(still(dispatcher={"type": "learned", "bias": {"start": 2.0, "end": 0.0}}))(X, Y)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_a_progress_outside_0_and_1_is_refused(progress: float) -> None:
    with pytest.raises(dyt.DyTError, match="fraction of the training done"):
        dyt.TuningStep(still())(X, Y, progress)


def test_progress_does_not_leak() -> None:
    model = still()
    dyt.TuningStep(model)(X, Y, 0.9)
    assert context.current(model.key).progress == 0.0


def test_forced_masks_have_a_rate_without_gradient() -> None:
    model = still()
    with dyt.forced(model, masks(model, X, ["all"], 0)):
        loss, parts = dyt.TuningStep(model)(X, Y)
    assert parts["active_rate"].item() == 1.0
    loss.backward()
    assert all(p.grad is None or not p.grad.any() for n, p in model.named_parameters() if "dispatcher" in n)


def test_half_precision_parts_are_float32() -> None:
    for pure in (True, False):
        model = still().bfloat16() if pure else still()
        with torch.autocast("cpu", torch.bfloat16, enabled=not pure):
            loss, parts = dyt.TuningStep(model)(X.bfloat16() if pure else X, Y)
        assert all(part.dtype == torch.float32 for part in parts.values())
        loss.backward()
        assert all(p.grad is not None and p.grad.dtype == p.dtype for p in model.parameters() if p.requires_grad)


def test_without_ranks_the_mean_is_a_quotient() -> None:
    total = torch.tensor(3.0, requires_grad=True)
    mean = mean_over_ranks(total, torch.tensor(4.0))
    mean.backward()
    assert (mean.item(), total.grad.item()) == (0.75, 0.25)  # type: ignore[union-attr]
    assert mean_over_ranks(torch.tensor(0.0), torch.tensor(0.0)).item() == 0.0


@pytest.mark.parametrize("variant", ["mlp", "attn_mlp"])
def test_rates_per_layer_are_asked_of_each_site(variant: str) -> None:
    """Of both sites of a block; the term is the mean of the sites' own squares, active_rate that of all tokens."""
    model = still(variant=variant, objective={"layer_rates": [0.2, 0.7]})
    step = dyt.TuningStep(model)
    with dyt.record(model) as routes:
        _, parts = step(X, Y)
    routes = routes[: len(model.sites)]
    own = torch.stack([route.active[:, 1:].float().mean() for route in routes])
    asked = torch.tensor([0.2, 0.7]).repeat_interleave(len(routes) // 2)
    torch.testing.assert_close(parts["rate"], ((own - asked) ** 2).mean())
    torch.testing.assert_close(parts["active_rate"], own.mean())
    # Each router's gradient from the term is that of its own square: at a bias, the sum of the gate's slopes.
    biases = [site.dispatcher.router.bias for site in model.sites]
    found = torch.cat(torch.autograd.grad(parts["rate"], biases, retain_graph=True))
    last = -1  # later sites' routes depend on earlier biases too, but not on the last one's
    slope = torch.sigmoid(routes[last].logits / 5.0)
    slope = (slope * (1 - slope) / 5.0).mean()
    torch.testing.assert_close(found[last], 2 * (own[last] - asked[last]) * slope / len(routes))


def test_an_objective_of_the_step_s_own_may_have_rates_per_layer() -> None:
    model = still()
    _, parts = dyt.TuningStep(model, {"layer_rates": [0.1, 0.9]})(X, Y)
    with dyt.record(model) as routes:
        model(X)
    own = [route.active[:, 1:].float().mean() for route in routes]
    torch.testing.assert_close(parts["rate"], ((own[0] - 0.1) ** 2 + (own[1] - 0.9) ** 2) / 2)
    with pytest.raises(dyt.DyTError, match="layer_rates: 3 rates given for 2 dynamic blocks"):
        dyt.TuningStep(model, {"layer_rates": [0.1, 0.9, 0.5]})


def test_rates_per_layer_come_down_together() -> None:
    asked = {"start": 1.0, "until": 1.0, "shape": "linear"}
    model = still(objective={"layer_rates": [0.2, 0.6], "asked": asked})
    with dyt.record(model) as routes:
        _, parts = dyt.TuningStep(model)(X, Y, 0.5)
    own = [route.active[:, 1:].float().mean() for route in routes]
    torch.testing.assert_close(parts["rate"], ((own[0] - 0.6) ** 2 + (own[1] - 0.8) ** 2) / 2)


def test_the_complete_pass_on_a_part_of_the_batch() -> None:
    model = still()
    _, parts = dyt.TuningStep(model, {"complete_share": 0.5})(X, Y)
    logits = model(X)
    with dyt.execution(model, "complete"):
        complete = model(X[:2])
    torch.testing.assert_close(parts["complete"], F.cross_entropy(complete, Y[:2]))
    torch.testing.assert_close(parts["distill"], distillation(complete, logits[:2]))
    torch.testing.assert_close(parts["cls"], F.cross_entropy(logits, Y))
    with dyt.record(model) as routes:
        dyt.TuningStep(model, {"complete_share": 0.01})(X, Y)
    assert [len(route.active) for route in routes] == [4, 4, 1, 1]  # at least one image


def test_the_complete_pass_at_every_third_step_weighs_three_times_as_much() -> None:
    model = still()
    weights = {"complete": 0.5, "distill": 0.25}
    every, each = dyt.TuningStep(model, {"complete_every": 3, **weights}), dyt.TuningStep(model, weights)
    _, wanted = each(X, Y)
    terms = 0.5 * wanted["complete"] + 0.25 * wanted["distill"]
    found = []
    for step in range(6):
        with dyt.record(model) as routes:
            loss, parts = every(X, Y, step=step)
        assert len(routes) == (4 if step % 3 == 0 else 2)
        torch.testing.assert_close(parts["cls"], wanted["cls"])
        found.append(loss - wanted["total"] + terms)
    torch.testing.assert_close(torch.stack(found).mean(), terms)  # the same in the mean over the steps
    assert found[1].abs() < 1e-6
    with pytest.raises(dyt.DyTError, match="complete_every is 3: pass step"):
        every(X, Y)


@pytest.mark.parametrize("thinned", [{"complete_share": 0.5}, {"complete_every": 2}])
def test_features_of_every_image_need_the_whole_complete_pass(thinned: dict[str, Any]) -> None:
    with pytest.raises(dyt.SpecError, match="teacher: pretrained"):
        dyt.TuningStep(still(), {"features": 1.0, **thinned})
    dyt.TuningStep(still(), {"features": 1.0, "teacher": "pretrained", **thinned})(X, Y, step=0)


@pytest.mark.parametrize("wrong", [{"complete_share": 0.0}, {"complete_share": 1.1}, {"complete_every": 0}])
def test_shares_and_steps_that_mean_nothing_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(dyt.SpecError, match=next(iter(wrong))):
        dyt.TuningStep(still(), wrong)


def test_each_site_has_a_rate_of_its_own() -> None:
    """That of its block, of which all sites have one; or the same for all."""
    model = still(variant={"type": "attn_mlp"})
    assert dyt.TuningStep(model, {"rate": 0.3}).rates == [0.3] * 4
    assert dyt.TuningStep(model, {"layer_rates": [0.25, 0.75]}).rates == [0.25, 0.25, 0.75, 0.75]
