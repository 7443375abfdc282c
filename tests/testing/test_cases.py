"""The numbers of the laws' examples stay finite, and where they do not, that is what is said."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dyt.testing import laws
from laws.models import TINY, Case
from laws.strategies import component

CASE = Case(TINY | {"depth": 3}, (32, 32), 3, 720)
UNBOUNDED = {"type": "moe", "normalisation": "none", "experts": 4, "scale": 1.0, "dim": 16}


def with_adapter(adapter: dict[str, Any]) -> dict[str, Any]:
    return {"variant": {"type": "attn_mlp"}, "dispatcher": {"type": "topk", "rate": 0.3}, "adapter": adapter}


def test_numbers_that_overflow_are_told_from_a_broken_law() -> None:
    """Tokens that grow cubically in each of six sites: NaN in the last norm, which is no image seeing another."""
    with pytest.raises(AssertionError, match="exceed the range of their dtype"):
        laws.images_do_not_meet(CASE, with_adapter(UNBOUNDED), "sparse")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("number", [torch.inf, torch.nan])
def test_nothing_is_close_to_infinity(dtype: str, number: float) -> None:
    """Not even itself: a tolerance scaled by the largest output would let everything pass."""
    with pytest.raises(AssertionError, match="NaN or infinity"):
        Case(TINY, (32, 32), 1, 0, dtype=dtype).close(torch.zeros(2), torch.tensor([1.0, number]))


@settings(max_examples=100)
@given(adapter=component("adapters", "moe").filter(lambda adapter: adapter.get("normalisation") == "none"))
def test_the_mixtures_that_are_drawn_do_not_overflow(adapter: dict[str, Any]) -> None:
    assert adapter["input"] == "normalised"


@settings(max_examples=6)
@given(
    adapter=component("adapters", "moe").map(lambda adapter: UNBOUNDED | adapter | {"normalisation": "none"}),
    executor=st.sampled_from(["masked", "sparse"]),
)
def test_images_do_not_meet_in_a_mixture_of_logits(adapter: dict[str, Any], executor: str) -> None:
    laws.images_do_not_meet(CASE, with_adapter(adapter | {"input": "normalised"}), executor)
