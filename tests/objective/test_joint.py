"""Terms over all ranks of a step: values are the joint ones, and the mean of the ranks' gradients is that of one."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close as close

import dyt
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.objective import joint
from dyt.objective.thresholds import threshold_for, thresholds_for
from laws.models import CLASSES, tiny
from ranks import on_ranks

WORLDS = pytest.mark.parametrize("world", [1, 2, 3])


def route(entered: Tensor, prefix: int = 1) -> Route:
    return Route(torch.ones(entered.shape[:2], dtype=torch.bool), prefix, entered=entered)


def shares(x: Tensor, world: int) -> list[Tensor]:
    return list(x.chunk(world))


@WORLDS
@pytest.mark.parametrize("patches", [False, True])
def test_feature_distance_over_ranks_is_that_of_all_images(
    world: int, patches: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sites; the gradients' mean over the ranks, which DistributedDataParallel takes, is the joint gradient."""
    own = [torch.randn(6, 4, 3).requires_grad_() for _ in range(2)]
    teacher = [torch.randn(6, 4, 3) * (1 + site) + 2.0 for site in range(2)]
    each = [[y[:, 1:].flatten(0, 1) if patches else y[:, 0] for y in part] for part in (own, teacher)]
    expected = torch.stack(
        [(a - b).square().sum() / (b - b.mean(0)).square().sum() for a, b in zip(*each, strict=True)]
    ).mean()
    wanted = torch.autograd.grad(expected, own)

    def run(rank: int) -> tuple[Tensor, list[Tensor]]:
        mine = [shares(y.detach(), world)[rank].clone().requires_grad_() for y in own]
        theirs = [shares(y, world)[rank] for y in teacher]
        found = joint.feature_distance([route(y) for y in mine], [route(y) for y in theirs], patches)
        return found.detach(), list(torch.autograd.grad(found, mine))

    found = on_ranks(world, run, monkeypatch)
    for value, _ in found:
        close(value, expected.detach())
    for site, gradient in enumerate(wanted):
        close(torch.cat([grads[site] for _, grads in found]) / world, gradient)


@WORLDS
def test_a_mean_over_ranks_has_the_joint_gradient(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ranks with unequal counts, one of them without any."""
    counts = [4, 0, 3][:world]
    values = [torch.randn(count) for count in counts]
    joined = torch.cat(values).requires_grad_()
    (wanted,) = torch.autograd.grad(joined.square().sum() / len(joined), joined)

    def run(rank: int) -> tuple[Tensor, Tensor]:
        mine = values[rank].clone().requires_grad_()
        found = joint.mean_over_ranks(mine.square().sum(), torch.tensor(float(counts[rank])))
        return found.detach(), torch.autograd.grad(found, mine)[0]

    found = on_ranks(world, run, monkeypatch)
    for value, _ in found:
        close(value, joined.detach().square().mean())
    close(torch.cat([gradient for _, gradient in found]) / world, wanted)


def test_a_mean_of_nothing_is_zero() -> None:
    assert joint.mean_over_ranks(torch.zeros(()), torch.zeros(())).item() == 0.0


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    "terms", [{"features": 1.5}, {"layer_rates": [0.9, 0.2]}, {"rate": 0.3}], ids=["features", "layer rates", "rate"]
)
def test_a_step_on_two_ranks_is_the_step_of_their_images(
    terms: dict[str, object], parts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loss and gradients, and each rank's images in parts as well."""
    objective = {"rate_weight": 2.0, "complete": 0.5, "distill": 0.5, **terms}
    model = tiny(
        adapter={"type": "bottleneck", "dim": 4, "dropout": 0.0}, dispatcher={"type": "learned", "noise": 0.0}
    ).train()
    images = torch.randn(8, 3, 32, 32)
    images[::2] *= 3.0
    labels = torch.arange(8) % CLASSES
    copies = [copy.deepcopy(model) for _ in range(2)]  # of each thread its own, as of each process
    loss, _ = dyt.TuningStep(model, objective)(images, labels)
    loss.backward()

    def run(rank: int) -> Tensor:
        step, total = dyt.TuningStep(copies[rank], objective), torch.zeros(())
        given = list(zip(images.chunk(2)[rank].chunk(parts), labels.chunk(2)[rank].chunk(parts), strict=True))
        with step.accumulating([x for x, _ in given]):
            for x, y in given:
                part, _ = step(x, y)
                (part / parts).backward()
                total += part.detach() / parts
        return total

    losses = on_ranks(2, run, monkeypatch)
    close(torch.stack(losses).mean(), loss.detach(), atol=1e-5, rtol=1e-5)
    for (name, p), *others in zip(model.named_parameters(), *(m.parameters() for m in copies), strict=True):
        if p.requires_grad:
            mean = _mean([other.grad for other in others])
            assert p.grad is not None
            close(mean, p.grad, atol=2e-5, rtol=1e-3, msg=lambda text, name=name: f"{name}: {text}")


def _mean(gradients: Sequence[Tensor | None]) -> Tensor:
    given = [gradient for gradient in gradients if gradient is not None]
    assert len(given) == len(gradients)
    return torch.stack(given).mean(0)


def test_images_alone_on_their_ranks_are_compared_and_one_alone_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variance is that of all ranks, so that one image on each will do; a step of one image has none."""
    own, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    expected = joint.feature_distance([route(own)], [route(teacher)])

    def run(rank: int) -> Tensor:
        here = slice(rank, rank + 1)
        return joint.feature_distance([route(own[here])], [route(teacher[here])])

    for found in on_ranks(2, run, monkeypatch):
        close(found, expected)
    with pytest.raises(DyTError, match="a step needs at least two"):
        on_ranks(1, run, monkeypatch)


def test_features_of_images_that_are_all_alike_have_a_floor() -> None:
    """A millionth of the squares of the mean, so that nothing is divided by 0."""
    teacher = torch.full((3, 1, 4), 2.0)
    own = teacher + 0.01
    found = joint.feature_distance([route(own)], [route(teacher)])
    close(found, torch.tensor(12 * 1e-4 / (1e-6 * 12 * 4.0)), rtol=1e-3, atol=0.0)


def test_sums_without_features_are_no_distance() -> None:
    routes = [route(torch.randn(2, 3, 4))]
    whole = joint.joined([joint.sums(routes)])
    assert whole.copies == 1
    assert whole.counts.tolist() == [[4.0], [4.0]]
    with pytest.raises(ValueError, match="taken without features"):
        joint.feature_distance(routes, routes, whole=whole)
    both = joint.joined([joint.sums(routes), joint.sums(routes)])
    assert both.copies == 2
    assert both.counts.tolist() == [[8.0], [8.0]]


@WORLDS
def test_a_threshold_over_ranks_is_that_of_all_values(world: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [torch.randn(count) for count in (5, 0, 8)[:world]]
    expected = threshold_for(torch.cat(values), 0.3)
    found = on_ranks(world, lambda rank: thresholds_for([values[rank]], 0.3)[0], monkeypatch)
    assert all(torch.equal(each, expected) for each in found)


def test_features_need_two_images_and_no_more() -> None:
    own, teacher = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    b = teacher[:, 0]
    expected = (own[:, 0] - b).square().sum() / (b - b.mean(0)).square().sum()
    for sites in (1, 3):
        close(joint.feature_distance([route(own)] * sites, [route(teacher)] * sites), expected)
    with pytest.raises(DyTError, match="at least two"):
        joint.feature_distance([route(own[:1])], [route(teacher[:1])])
