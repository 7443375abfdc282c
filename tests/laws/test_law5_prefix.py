"""Law 5: prefix tokens are always active and never counted in the rate; padding tokens are never active."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyt.testing import laws, parts
from laws.strategies import SEEDS, cases, component, names

each_dispatcher = pytest.mark.parametrize("name", names("dispatchers"))


@each_dispatcher
@given(data=st.data(), training=st.booleans())
def test_prefix_tokens(name: str, data: st.DataObject, training: bool) -> None:
    case = data.draw(cases(dispatcher=name))
    laws.prefix_is_active(case, {"dispatcher": data.draw(component("dispatchers", name))}, training)


@each_dispatcher
@given(data=st.data(), seed=SEEDS, prefix=st.integers(0, 5), training=st.booleans(), complete=st.booleans())
def test_padding_tokens(name: str, data: st.DataObject, seed: int, prefix: int, training: bool, complete: bool) -> None:
    parts.padding_is_inactive(data.draw(component("dispatchers", name)), seed, prefix, training, complete)


@pytest.mark.parametrize("name", names("adapters"))
@given(data=st.data(), seed=SEEDS)
def test_what_stands_in_padding_is_no_adapter_s_business(name: str, data: st.DataObject, seed: int) -> None:
    parts.adapter_leaves_padding_out(data.draw(component("adapters", name)), seed)
