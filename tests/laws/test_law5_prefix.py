"""Law 5: prefix tokens are always active and never counted in the rate; padding tokens are never active."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyt
from dyt.dispatchers import Place
from dyt.registry import adapters, dispatchers, executors
from dyt.route import activation_rate
from dyt.site import Site
from dyt.steer import Key, steered
from laws.models import Case, shaken, spec
from laws.strategies import SEEDS, cases, component, names

each_dispatcher = pytest.mark.parametrize("name", names("dispatchers"))


@each_dispatcher
@given(case=cases(), data=st.data(), training=st.booleans())
def test_prefix_tokens(name: str, case: Case, data: st.DataObject, training: bool) -> None:
    chosen = {"dispatcher": data.draw(component("dispatchers", name))}
    model = shaken(dyt.build(spec(**chosen), backbone=case.backbone()), 1.0).train(training)
    with case.precision(), dyt.record(model) as routes:
        model(case.images())
    prefix = case.vit["reg_tokens"] + case.vit["class_token"]
    patches = [route.active[:, prefix:] for route in routes]
    assert all(route.prefix == prefix and bool(route.active[:, :prefix].all()) for route in routes)
    assert all(route.gate is None or torch.equal(route.gate.bool(), route.active) for route in routes)
    active, total = activation_rate(routes)
    assert active.item() == sum(int(p.sum()) for p in patches)
    assert total.item() == sum(p.numel() for p in patches)


@each_dispatcher
@given(data=st.data(), seed=SEEDS, prefix=st.integers(0, 5), training=st.booleans(), complete=st.booleans())
def test_padding_tokens(name: str, data: st.DataObject, seed: int, prefix: int, training: bool, complete: bool) -> None:
    torch.manual_seed(seed)
    plain = data.draw(component("dispatchers", name))
    dispatcher, adapter = dispatchers.get(name), adapters.get("none")
    both = (executors.get("masked")(), executors.get("sparse")())
    parts = dispatcher(dispatcher.Spec(**plain), Place(8)), adapter(adapter.Spec(), 8)
    key = Key()
    site = Site(0, "blocks.0.mlp", *parts, prefix, key, both).train(training)
    x, padding = torch.randn(3, prefix + 6, 8), torch.rand(3, prefix + 6) < 0.4
    padding[:, :prefix] = False
    with steered(key, complete=complete):
        route = site.route(x, padding)
        # What stands in padding tokens is nobody's business: the route of the others does not change with it.
        torch.manual_seed(seed + 1)
        first = site.route(x, padding)
        torch.manual_seed(seed + 1)
        other = site.route(torch.where(padding[..., None], torch.full_like(x, 1e3), x), padding)
    assert not bool((route.active & padding).any())
    assert bool(route.active[:, :prefix].all())
    assert not route.dense or not bool(padding.any())
    assert route.gate is None or bool((route.gate[padding] == 0).all())
    assert torch.equal(first.active, other.active)
    counted, total = route.counts()
    assert total.tolist() == (~padding[:, prefix:]).sum(1).tolist()
    assert counted.tolist() == route.active[:, prefix:].sum(1).tolist()
