"""Law 1: with fresh adapters and everything active the model equals the plain timm model, in any executor."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyt
from dyt.testing import laws, parts
from laws.models import Case, spec
from laws.strategies import SEEDS, cases, chosen, component, names


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("adapter", names("adapters"))
@given(case=cases(), data=st.data())
def test_everything_active_is_the_plain_backbone(variant: str, adapter: str, case: Case, data: st.DataObject) -> None:
    picked = data.draw(chosen(variant=variant, adapter=adapter))
    laws.starts_as_the_backbone(case, picked, names("executors"))


@pytest.mark.parametrize("name", names("adapters"))
@given(data=st.data(), seed=SEEDS, training=st.booleans())
def test_a_fresh_adapter_adds_nothing(name: str, data: st.DataObject, seed: int, training: bool) -> None:
    parts.adapter_starts_at_zero(data.draw(component("adapters", name)), seed, training)


@given(case=cases(dtypes=("float32",), stochastic=True))
def test_complete_in_train_mode_draws_what_timm_draws(case: Case) -> None:
    """Also with drop path and dropout: the frozen branches draw as in timm, adapters and dispatchers nothing."""
    backbone, x = case.backbone().train(), case.images()
    plain = copy.deepcopy(backbone)
    model = dyt.build(spec(adapter={"type": "bottleneck", "dropout": 0.0}), backbone=backbone)
    assert model.training
    torch.manual_seed(case.seed)
    expected = plain(x)
    torch.manual_seed(case.seed)
    with dyt.execution(model, "complete"):
        case.close(model(x), expected)
