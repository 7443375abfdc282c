"""`always` is the complete model: dense routes, nothing drawn, nothing learned."""

import torch

import dyt
from laws.models import tiny


def test_always_equals_complete() -> None:
    model, x = tiny(dispatcher={"type": "always"}), torch.randn(2, 3, 32, 32)
    assert not [name for name, _ in model.named_parameters() if "dispatcher" in name]
    with torch.no_grad():
        with dyt.record(model) as routes:
            out = model(x)
        assert all(route.dense and bool(route.active.all()) for route in routes)
        with dyt.execution(model, "complete"):
            assert torch.equal(model(x), out)
