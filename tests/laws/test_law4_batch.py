"""Law 4: an image's routes and logits do not depend on the other images of its batch (`random` excepted)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyt
from laws.models import Case, shaken, spec
from laws.strategies import cases, component, components, names

DRAWS_AT_INFERENCE = {"random"}


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("dispatcher", [name for name in names("dispatchers") if name not in DRAWS_AT_INFERENCE])
@pytest.mark.parametrize("executor", names("executors"))
@given(case=cases(dtypes=("float32",), batch=4), data=st.data())
def test_images_do_not_meet(variant: str, dispatcher: str, executor: str, case: Case, data: st.DataObject) -> None:
    chosen = {
        "dispatcher": data.draw(component("dispatchers", dispatcher)),
        "adapter": data.draw(components("adapters")),
    }
    model = shaken(dyt.build(spec(variant={"type": variant}, **chosen), backbone=case.backbone()), 0.3)
    x = case.images()
    with torch.no_grad(), dyt.execution(model, executor):
        with dyt.record(model) as together:
            logits = model(x)
        for i in range(case.batch):
            with dyt.record(model) as alone:
                own = model(x[i : i + 1])
            clear = [r.logits is None or bool((r.logits[i].abs() > 1e-4).all()) for r in together]
            if not all(clear):
                continue  # a logit within rounding of the threshold: another summation order may tip it
            for route, single in zip(together, alone, strict=True):
                assert torch.equal(route.active[i], single.active[0])
            case.close(own[0], logits[i])


@pytest.mark.parametrize("name", sorted(DRAWS_AT_INFERENCE))
def test_the_exceptions_do_draw(name: str) -> None:
    case = Case({"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}, (32, 32), 2, 0)
    model = dyt.build(spec(dispatcher={"type": name}), backbone=case.backbone())
    with torch.no_grad(), dyt.record(model) as routes:
        model(case.images())
        model(case.images())
    assert not torch.equal(routes[0].active, routes[1].active)
