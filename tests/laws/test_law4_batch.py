"""Law 4: an image's routes and logits do not depend on the other images of its batch (`random` excepted)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyt
from dyt.registry import dispatchers
from dyt.testing import laws
from laws.models import Case, spec
from laws.strategies import cases, chosen, names

DRAWING = [name for name in names("dispatchers") if dispatchers.get(name).draws_at_inference]


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("dispatcher", [name for name in names("dispatchers") if name not in DRAWING])
@pytest.mark.parametrize("executor", names("executors"))
@given(data=st.data())
def test_images_do_not_meet(variant: str, dispatcher: str, executor: str, data: st.DataObject) -> None:
    case = data.draw(cases(dtypes=("float32",), batch=4, dispatcher=dispatcher))
    laws.images_do_not_meet(case, data.draw(chosen(variant=variant, dispatcher=dispatcher)), executor)


def test_only_random_is_excused() -> None:
    """Of the library's own; a new name here is a decision."""
    assert [name for name in DRAWING if dispatchers.origin(name) == "dyt"] == ["random"]


@pytest.mark.parametrize("name", DRAWING)
def test_the_exceptions_do_draw(name: str) -> None:
    case = Case({"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}, (32, 32), 2, 0)
    model = dyt.build(spec(dispatcher={"type": name}), backbone=case.backbone())
    with torch.no_grad(), dyt.record(model) as routes:
        model(case.images())
        model(case.images())
    assert not torch.equal(routes[0].active, routes[1].active)
