"""`bottleneck` computes s * up(act(down(x))) and starts as the released code's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

import dyt
from dyt.adapters import Bottleneck, BottleneckSpec
from laws.models import CLASSES, tiny

ACTIVATIONS = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "silu": lambda x: x * torch.sigmoid(x),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "elu": F.elu,
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "tanh": torch.tanh,
}


@given(
    dim=st.integers(1, 12),
    width=st.integers(1, 9),
    scale=st.floats(-2, 2),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    seed=st.integers(0, 99),
)
def test_the_formula(dim: int, width: int, scale: float, activation: str, seed: int) -> None:
    torch.manual_seed(seed)
    spec = BottleneckSpec.model_validate({"dim": width, "scale": scale, "activation": activation})
    adapter = Bottleneck(spec, dim).eval()
    x = torch.randn(2, 3, dim)
    assert not adapter(x).any()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    hidden = ACTIVATIONS[activation](x @ adapter.down.weight.T + adapter.down.bias)
    torch.testing.assert_close(adapter(x), scale * (hidden @ adapter.up.weight.T + adapter.up.bias))


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_every_activation_is_by_timm_s_name(activation: str) -> None:
    x = torch.linspace(-3, 3, 9)
    found = Bottleneck(BottleneckSpec.model_validate({"activation": activation}), 2).activation(x)
    torch.testing.assert_close(found, ACTIVATIONS[activation](x))


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


@pytest.mark.parametrize("kind", ["bottleneck", "moe"])
def test_a_learnable_scale_starts_at_the_spec_s_and_learns(kind: str) -> None:
    adapter = {"type": kind, "dim": 4, "scale": 0.3, "dropout": 0.0}
    fixed = tiny(adapter=adapter)
    assert "scale" not in dict(fixed.sites[0].adapter.named_parameters())
    model = tiny(adapter=adapter | {"scale_learnable": True})
    fresh = dyt.build(model.spec).sites[0].adapter.scale
    assert torch.equal(fresh, torch.tensor(0.3))
    model.load_state_dict(fixed.state_dict(), strict=False)
    with torch.no_grad():
        for site in model.sites:
            site.adapter.scale.fill_(0.3)
    x = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(x), fixed(x))
    loss, _ = dyt.TuningStep(model).train()(x, torch.arange(3) % CLASSES)
    loss.backward()
    assert all(site.adapter.scale.grad is not None and site.adapter.scale.grad != 0 for site in model.sites)


def test_a_scale_that_could_never_learn_is_refused() -> None:
    with pytest.raises(dyt.SpecError, match=r"adapter: .* a learnable scale must not start at 0"):
        tiny(adapter={"type": "bottleneck", "scale": 0.0, "scale_learnable": True})


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(dyt.SpecError, match=r"adapter\.activation: .*'relu', 'gelu'.*given 'rlu'"):
        tiny(adapter={"type": "bottleneck", "activation": "rlu"})
