"""The laws' examples do not rest on ties: rounding that is added on purpose breaks no law, a tie is called one."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor

import dyt
from dyt.dispatchers import Decision, DecisionContext, Dispatcher, DispatcherSpec
from dyt.dispatchers.counted import largest
from dyt.testing import laws
from dyt.testing.cases import Case, tiny
from dyt.testing.steady import NUDGE, steady, steady_images
from laws.models import TINY

CASE = Case(TINY, (32, 32), 3, 5)


@pytest.fixture(autouse=True)
def _registry() -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(dyt.registry.dispatchers.temporary())
        yield


class Rounded(Dispatcher):
    """The half of the patches with the largest norm, as it would be summed in another order each time."""

    Spec = DispatcherSpec
    share = 1.0

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        scores = self.share * tokens.detach().float().norm(dim=-1)
        scores = scores * (1 + 1e-6 * torch.randn(scores.shape))
        return Decision(largest(scores, torch.full((len(scores), 1), scores.shape[1] // 2), None))


@pytest.mark.parametrize("seed", range(12))
def test_rounding_breaks_no_law(seed: int) -> None:
    dyt.registry.dispatchers("rounded")(Rounded)
    case, chosen = Case(TINY, (32, 32), 3, seed), {"dispatcher": {"type": "rounded"}}
    laws.images_do_not_meet(case, chosen, "sparse")
    laws.macs_are_what_sparse_executes(case, chosen, "routed", ["all"])


def test_a_tie_is_called_one() -> None:
    class Tied(Rounded):
        share = 0.0

        def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
            scores = torch.ones(tokens.shape[:2]) + 1e-7 * torch.randn(tokens.shape[:2])
            return Decision(largest(scores, torch.full((len(scores), 1), scores.shape[1] // 2), None))

    dyt.registry.dispatchers("tied")(Tied)
    with pytest.raises(AssertionError, match="tokens tie and rounding decides; say draws_at_inference, or break ties"):
        laws.images_do_not_meet(CASE, {"dispatcher": {"type": "tied"}}, "sparse")


def at_a_tie(images: Tensor) -> dyt.DynamicModel:
    """A model in which one token's logit is on its site's threshold."""
    model = tiny()
    with torch.no_grad(), dyt.record(model) as routes:
        model(images)
    assert routes[0].logits is not None
    with torch.no_grad():
        model.sites[0].dispatcher.router.bias.sub_(routes[0].logits[1, 4])
    return model


def test_a_logit_near_its_threshold_is_seen_and_other_images_are_drawn() -> None:
    first = CASE.images()
    model = at_a_tie(first)
    assert not steady(model, first)
    found = steady_images(CASE, model)
    assert not torch.equal(found, first)
    assert steady(model, found)
    assert torch.equal(steady_images(CASE, tiny()), first)


@pytest.mark.parametrize("reducer", [{"type": "evit", "keep": 0.5, "layers": [0]}, {"type": "tome", "r": 4}])
def test_what_a_reducer_decides_is_seen_in_the_outputs(reducer: dict[str, Any]) -> None:
    """At images half-way between two that it reduces otherwise, found by halving."""
    model = tiny(dispatcher="always", reducer=reducer)
    a, b = CASE.images()[:1], CASE.images(1)[:1]
    assert steady(model, a)

    def kept(x: Tensor) -> Tensor:
        seen: list[Tensor] = []
        hook = model.backbone.blocks[1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        with torch.no_grad():
            model(x)
        hook.remove()
        return seen[0]

    low, high = 0.0, 1.0
    for _ in range(24):  # a jump is what does not become smaller with the distance
        middle = (low + high) / 2
        at = [kept(a + (b - a) * share) for share in (low, middle, high)]
        left, right = (at[1] - at[0]).abs().max(), (at[2] - at[1]).abs().max()
        low, high = (low, middle) if left > right else (middle, high)
    tipping = a + (b - a) * (low + high) / 2
    assert float((kept(a + (b - a) * low) - kept(a + (b - a) * high)).abs().max()) > 100 * NUDGE
    assert not steady(model, tipping)
