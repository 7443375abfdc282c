"""`bottleneck` computes s * up(relu(down(x))) and starts as the released code's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dyt.adapters import Bottleneck, BottleneckSpec


@given(dim=st.integers(1, 12), width=st.integers(1, 9), scale=st.floats(-2, 2), seed=st.integers(0, 99))
def test_the_formula(dim: int, width: int, scale: float, seed: int) -> None:
    torch.manual_seed(seed)
    adapter = Bottleneck(BottleneckSpec(dim=width, scale=scale), dim).eval()
    x = torch.randn(2, 3, dim)
    assert torch.equal(adapter(x), torch.zeros_like(x))
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    hidden = (x @ adapter.down.weight.T + adapter.down.bias).clamp_min(0)
    torch.testing.assert_close(adapter(x), scale * (hidden @ adapter.up.weight.T + adapter.up.bias))


def test_its_start() -> None:
    adapter = Bottleneck(BottleneckSpec(dim=256), 400)
    bound = 1 / math.sqrt(400)  # Kaiming-uniform with a = sqrt 5
    assert bound * 0.99 < adapter.down.weight.abs().max().item() <= bound
    assert all(not p.any() for p in (adapter.down.bias, adapter.up.weight, adapter.up.bias))


def test_dropout_is_a_module_on_the_hidden_units() -> None:
    adapter = Bottleneck(BottleneckSpec(dim=1000, dropout=0.25, scale=1.0), 1).train()
    torch.nn.init.ones_(adapter.down.bias)
    torch.nn.init.zeros_(adapter.down.weight)
    torch.nn.init.constant_(adapter.up.weight, 0.75 / 1000)  # so that the delta is the share of units that are kept
    assert adapter.dropout.p == 0.25
    assert adapter(torch.zeros(1, 1, 1)).item() == pytest.approx(0.75, abs=0.06)
    assert adapter(torch.zeros(1, 1, 1)).item() != 0.75
    assert adapter.eval()(torch.zeros(1, 1, 1)).item() == pytest.approx(0.75)
