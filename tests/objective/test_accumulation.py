"""A step in parts is the whole step: its loss, each term of it, its gradients, its noise, its thresholds."""

from typing import Any

import pytest
import torch
from torch import nn

import dyt
from dyt.objective.accumulation import Turn, uncounted
from dyt.testing.cases import tiny

IMAGES = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(64) % 5
STILL = {"type": "bottleneck", "dim": 8, "dropout": 0.0}
RATE = {"rate": 0.3, "rate_weight": 7.0}


def model(noise: float = 0.0, **changes: Any) -> dyt.DynamicModel:
    """Always the same one, in train mode."""
    torch.manual_seed(0)
    return tiny(**{"dispatcher": {"type": "learned", "noise": noise}, "adapter": STILL} | changes).train()


def stepped(
    step: dyt.TuningStep, parts: int, images: torch.Tensor = IMAGES, /, **when: Any
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The means over the parts of each term, and the gradients of the mean loss."""
    terms: list[dict[str, torch.Tensor]] = []
    step.zero_grad()
    pieces = list(zip(images.chunk(parts), LABELS[: len(images)].chunk(parts), strict=True))
    with step.accumulating([x for x, _ in pieces], **when):
        for x, y in pieces:
            loss, found = step(x, y)
            (loss / parts).backward()
            terms.append(found)
    means = {name: torch.stack([each[name].detach() for each in terms]).mean() for name in terms[0]}
    return means, [p.grad.clone() for p in step.parameters() if p.grad is not None]


def whole(step: dyt.TuningStep, /, **when: Any) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """The same step in one forward, without the context."""
    step.zero_grad()
    loss, terms = step(IMAGES, LABELS, **when)
    loss.backward()
    return {name: each.detach() for name, each in terms.items()}, [
        p.grad.clone() for p in step.parameters() if p.grad is not None
    ]


def same(found: Any, expected: Any) -> None:
    (terms, grads), (wanted, gradients) = found, expected
    assert set(terms) == set(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-7, msg=lambda m, name=name: f"{name}: {m}")
    assert len(grads) == len(gradients)
    for grad, gradient in zip(grads, gradients, strict=True):
        assert float((grad - gradient).norm()) <= 1e-5 * max(float(gradient.norm()), 1e-3)


@pytest.mark.parametrize("parts", [1, 4, 16])
@pytest.mark.parametrize(
    "objective",
    [
        RATE,
        {"layer_rates": [0.9, 0.2], "rate_weight": 7.0},
        RATE | {"features": 2.0},
        RATE | {"features": 2.0, "teacher": "pretrained", "complete": 0.0, "distill": 0.0},
        RATE | {"complete_share": 0.1, "complete_every": 2},
        {"rate": 0.3, "control": "threshold"},
    ],
    ids=["rate", "layer rates", "features", "pretrained", "shares", "threshold"],
)
def test_a_step_in_parts_is_the_whole_step(parts: int, objective: dict[str, Any]) -> None:
    steps = [dyt.TuningStep(model(), objective) for _ in range(2)]
    same(stepped(steps[0], parts, progress=0.5, step=2), whole(steps[1], progress=0.5, step=2))
    thresholds = [[float(site.threshold) for site in step.model.sites] for step in steps]
    assert thresholds[0] == pytest.approx(thresholds[1], rel=1e-5, abs=1e-7)
    assert any(thresholds[0]) == (objective.get("control") == "threshold")


@pytest.mark.parametrize("features", [0.0, 2.0])
def test_under_one_autocast_every_weight_has_its_gradient(features: float) -> None:
    step = dyt.TuningStep(model(objective=RATE | {"features": features}))
    with torch.autocast("cpu", torch.bfloat16):
        _, grads = stepped(step, 4)
    assert len(grads) == sum(p.requires_grad for p in step.parameters())


def test_parts_of_one_image_have_the_variance_of_all() -> None:
    steps = [dyt.TuningStep(model(), {"features": 3.0, "rate_weight": 0.0}) for _ in range(2)]
    same(stepped(steps[0], 64), whole(steps[1]))
    with pytest.raises(dyt.DyTError, match="at least two"):
        stepped(steps[0], 1, IMAGES[:1])


def test_a_head_that_reads_patches_is_compared_at_patches() -> None:
    changes = {"args": {"global_pool": "avg", "class_token": False}}
    steps = [dyt.TuningStep(model(**changes), RATE | {"features": 2.0}) for _ in range(2)]
    same(stepped(steps[0], 4), whole(steps[1]))


def test_the_forwards_draw_what_was_drawn_when_they_were_looked_at() -> None:
    """So that the rate that the loss is taken of is that of the routes that were run; a generator is left in order."""
    step = dyt.TuningStep(model(noise=1.0, adapter=STILL | {"dropout": 0.3}), RATE | {"features": 1.0})
    torch.manual_seed(3)
    with dyt.record(step.model) as routes:
        terms, _ = stepped(step, 4)
    after = torch.rand(3)
    sites = len(step.model.sites)
    looks, runs = routes[: 4 * 2 * sites], routes[4 * 2 * sites :]
    assert len(runs) == len(looks)
    for look, run in zip(looks, runs, strict=True):
        assert torch.equal(look.active, run.active)
    assert not torch.equal(runs[0].active, runs[2 * sites].active)
    active = [r.active[:, 1:].float().mean() for i, r in enumerate(runs) if i % (2 * sites) < sites]
    torch.testing.assert_close(terms["active_rate"], torch.stack(active).mean())
    torch.testing.assert_close(terms["rate"], (terms["active_rate"] - 0.3) ** 2)
    torch.manual_seed(3)
    with step.accumulating(IMAGES.chunk(4)), torch.no_grad():
        for x, y in zip(IMAGES.chunk(4), LABELS.chunk(4), strict=True):
            torch.rand(5)  # what a loop draws between its parts changes nothing
            step(x, y)
    assert not torch.equal(torch.rand(3), after)


def test_nothing_is_looked_at_that_no_term_needs() -> None:
    for objective, forwards in (
        ({"rate_weight": 0.0, "complete": 0.0, "distill": 0.0}, 4),
        ({"rate_weight": 0.0, "complete": 0.0, "distill": 0.0, "control": "threshold"}, 4),
        ({"rate_weight": 1.0, "complete": 0.0, "distill": 0.0}, 8),
        ({"rate_weight": 1.0}, 4 + 8),  # the complete pass is not looked at
    ):
        step, seen = dyt.TuningStep(model(), objective), []
        step.model.backbone.patch_embed.register_forward_pre_hook(lambda *_, seen=seen: seen.append(1))
        stepped(step, 4)
        assert len(seen) == forwards, objective


def test_thresholds_are_moved_once_and_not_in_eval_mode() -> None:
    step, seen = dyt.TuningStep(model(), {"rate": 0.3, "control": "threshold", "rate_weight": 0.0}), []
    pieces = IMAGES.chunk(4)
    with step.accumulating(pieces):
        for x, y in zip(pieces, LABELS.chunk(4), strict=True):
            step(x, y)
            seen.append(float(step.model.sites[0].threshold))
    assert seen == [0.0] * 4
    moved = float(step.model.sites[0].threshold)
    assert moved != 0.0
    step.eval()
    stepped(step, 4)
    assert float(step.model.sites[0].threshold) == moved


def run_in_parts(step: dyt.TuningStep, given: list[torch.Tensor], run: list[torch.Tensor]) -> None:
    with step.accumulating(given):
        for images in run:
            step(images, LABELS[: len(images)])


def test_what_is_given_must_be_what_is_run() -> None:
    step = dyt.TuningStep(model(), RATE | {"control": "threshold"})
    four, two = IMAGES[:4], IMAGES[:2]
    for given, run, words in (
        ([], [], "no parts"),
        ([four, two], [], "parts of 4 and 2 images"),
        ([four, four], [four], "1 of the 2 parts"),
        ([four], [four, four], "more than the 1 parts"),
        ([four], [two], "part 0 has 2 images, and had 4"),
    ):
        with pytest.raises(dyt.DyTError, match=words):
            run_in_parts(step, given, run)
    with pytest.raises(dyt.DyTError, match="inside another"), step.accumulating([four]):
        run_in_parts(step, [four], [four])
    with pytest.raises(RuntimeError, match="the loop's own"), step.accumulating([four]):
        raise RuntimeError("the loop's own")
    assert [float(site.threshold) for site in step.model.sites] == [0.0, 0.0]
    step(IMAGES[:2], LABELS[:2])  # none of them is left behind


def test_a_schedule_s_progress_is_the_step_s() -> None:
    asked = {"start": 1.0, "until": 0.5}
    steps = [dyt.TuningStep(model(), RATE | {"asked": asked}) for _ in range(2)]
    same(stepped(steps[0], 4, progress=0.25), whole(steps[1], progress=0.25))
    with pytest.raises(dyt.DyTError, match="pass progress"):
        stepped(steps[0], 4)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # in torch 2.8's own tracer
def test_a_compiled_step_takes_parts_as_well() -> None:
    plain, compiled = (dyt.TuningStep(model(), RATE) for _ in range(2))
    run = torch.compile(compiled, backend="eager")
    with compiled.accumulating(IMAGES.chunk(2)):
        losses = [run(x, y)[0] for x, y in zip(IMAGES.chunk(2), LABELS.chunk(2), strict=True)]
    torch.testing.assert_close(torch.stack(losses).mean(), stepped(plain, 2)[0]["total"], rtol=1e-5, atol=1e-6)


def test_the_complete_pass_falls_to_the_step_s_first_images() -> None:
    found = [Turn(parts=4, before=before, images=16).complete(4, 0.4) for before in (0, 4, 8, 12)]  # 6 images
    assert found == [(4, 4 * 4 / 6), (2, 4 * 2 / 6), (0, 0.0), (0, 0.0)]
    assert Turn().complete(4, 0.01) == (1, 1.0)


def test_batch_norms_do_not_count_what_is_looked_at() -> None:
    network: Any = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3).eval())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    with torch.no_grad(), uncounted(network):
        network(torch.randn(4, 3))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.mark.parametrize(("parts", "forwards"), [(1, 1), (2, 4)])
def test_a_list_of_one_part_is_run_once(parts: int, forwards: int) -> None:
    """Two are looked at first."""
    step, calls = dyt.TuningStep(model(), RATE | {"complete": 0.0, "distill": 0.0}), []
    step.model.backbone.patch_embed.register_forward_pre_hook(lambda *_: calls.append(1))
    stepped(step, parts, IMAGES[:4])
    assert len(calls) == forwards
