"""Law 1: with fresh adapters and everything active the model equals the plain timm model, in any executor."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyt
from laws.models import Case, masks, spec
from laws.strategies import cases, component, components, names


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("adapter", names("adapters"))
@given(case=cases(), data=st.data())
def test_everything_active_is_the_plain_backbone(variant: str, adapter: str, case: Case, data: st.DataObject) -> None:
    chosen: dict[str, Any] = {
        "variant": data.draw(component("variants", variant)),
        "adapter": data.draw(component("adapters", adapter)),
        "dispatcher": data.draw(components("dispatchers")),
    }
    backbone, x = case.backbone(), case.images()
    with torch.no_grad(), case.precision():
        plain = copy.deepcopy(backbone)(x)
        model = dyt.build(spec(**chosen), backbone=backbone)
        with dyt.execution(model, "complete"), dyt.record(model) as routes:
            case.close(model(x), plain)
        assert len(routes) == len(model.sites)
        assert all(bool(route.active.all()) and route.logits is None and route.gate is None for route in routes)
        for executor in names("executors"):
            with dyt.forced(model, masks(model, x, ["all"], 0)), dyt.execution(model, executor):
                out = model(x)
            assert (out.dtype, out.shape) == (plain.dtype, plain.shape)
            case.close(out, plain)


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
