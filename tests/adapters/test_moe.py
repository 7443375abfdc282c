"""`moe` equals a plain reference image by image, costs one adapter plus router and mixing, and starts at zero."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import dyt
from dyt.adapters import Bottleneck, BottleneckSpec, MoE, MoESpec
from dyt.measure.flops import MacCounter
from laws.models import CLASSES, tiny

NORMALISATIONS = ("softmax", "sigmoid", "none")


def made(channels: int, **fields: Any) -> MoE:
    """Off its start in every parameter, in eval mode."""
    adapter = MoE(MoESpec(**fields), channels).eval()
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    return adapter


def reference(adapter: MoE, x: Tensor, padding: Tensor | None, spec: MoESpec) -> Tensor:
    """Equation 7 as the paper writes it: one image at a time, one expert at a time."""
    out = []
    for i, image in enumerate(x):
        real = image if padding is None else image[~padding[i]]
        logits = adapter.router.weight @ real.mean(0) + adapter.router.bias
        alpha = {"softmax": logits.softmax(0), "sigmoid": logits.sigmoid(), "none": logits}[spec.normalisation]
        mixed = []
        for experts in (adapter.down, adapter.up):
            weight = sum(alpha[e] * experts.weight[e] for e in range(spec.experts))
            bias = sum(alpha[e] * experts.bias[e] for e in range(spec.experts))
            mixed.append((weight, bias))
        (down, down_bias), (up, up_bias) = mixed
        hidden = getattr(F, spec.activation)(image @ down.T + down_bias)
        out.append(spec.scale * (hidden @ up.T + up_bias))
    return torch.stack(out)


@given(
    dim=st.integers(1, 9),
    width=st.integers(1, 7),
    experts=st.integers(1, 5),
    normalisation=st.sampled_from(NORMALISATIONS),
    activation=st.sampled_from(["relu", "gelu", "silu"]),
    padded=st.booleans(),
    seed=st.integers(0, 99),
)
def test_equals_the_reference_image_by_image(
    dim: int, width: int, experts: int, normalisation: Any, activation: Any, padded: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    spec = MoESpec(dim=width, experts=experts, normalisation=normalisation, activation=activation, scale=0.7)
    adapter, x = made(dim, **spec.model_dump()), torch.randn(3, 5, dim)
    padding = torch.rand(3, 5) < 0.4 if padded else None
    if padding is not None:
        padding[:, 0] = False
    torch.testing.assert_close(adapter(x, padding), reference(adapter, x, padding, spec), atol=1e-4, rtol=1e-4)


def test_what_stands_in_padding_does_not_matter_to_the_others() -> None:
    adapter, x, padding = made(6, dim=3), torch.randn(2, 5, 6), torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    other = x.clone()
    other[1, 3:] = torch.inf
    assert torch.equal(adapter.alpha(x, padding), adapter.alpha(other, padding))
    assert torch.equal(adapter(x, padding)[~padding], adapter(other, padding)[~padding])


def test_without_normalisation_it_is_cubic_in_its_tokens() -> None:
    spec, x = {"dim": 4, "scale": 1.0, "activation": "relu", "dropout": 0.0}, torch.randn(2, 5, 8)
    for normalisation, power in {"none": 3, "softmax": 1}.items():
        adapter = made(8, normalisation=normalisation, **spec)
        with torch.no_grad():
            for bias in (adapter.router.bias, adapter.down.bias, adapter.up.bias):
                bias.zero_()
            if normalisation == "softmax":
                adapter.router.weight.zero_()
            torch.testing.assert_close(adapter(4 * x), 4**power * adapter(x), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("expert", [0, 1, 2])
def test_one_hot_routing_is_that_expert_s_plain_bottleneck(expert: int) -> None:
    adapter, x = made(8, dim=4, experts=3), torch.randn(2, 5, 8)
    with torch.no_grad():
        adapter.router.weight.zero_()
        adapter.router.bias.fill_(-1e4)[expert] = 1e4
    plain = Bottleneck(BottleneckSpec(dim=4), 8).eval()
    for name in ("down", "up"):
        experts = getattr(adapter, name)
        values = {"weight": experts.weight[expert], "bias": experts.bias[expert]}
        getattr(plain, name).load_state_dict(values)
    assert torch.equal(adapter.alpha(x), F.one_hot(torch.tensor([expert] * 2), 3).float())
    torch.testing.assert_close(adapter(x), plain(x))


def macs(adapter: torch.nn.Module, x: Tensor) -> int:
    with torch.no_grad(), MacCounter() as counter:
        adapter(x)
    return counter.total


@pytest.mark.parametrize("experts", [1, 2, 4, 12])
def test_it_costs_one_adapter_plus_router_and_mixing(experts: int) -> None:
    images, tokens, dim, width = 3, 197, 48, 8
    x = torch.randn(images, tokens, dim)
    plain = macs(Bottleneck(BottleneckSpec(dim=width), dim), x)
    assert plain == images * tokens * 2 * dim * width
    router, mixing = dim * experts, experts * (2 * dim * width + dim + width)
    assert macs(made(dim, dim=width, experts=experts), x) == plain + images * (router + mixing)


def test_the_mixing_is_booked_to_each_image() -> None:
    """`count_macs`: the same for every image, whatever its routes, and in any company."""
    x = torch.randn(3, 3, 32, 32)
    models = [tiny(adapter={"type": name, "dim": 4}) for name in ("bottleneck", "moe")]
    masks = [torch.rand(3, 17) < torch.tensor([[0.1], [0.5], [0.9]]) for _ in models[0].sites]
    for mask in masks:
        mask[:, 0] = True
    found = []
    for model in models:
        with dyt.forced(model, masks):
            found.append(dyt.count_macs(model, x))
            with dyt.forced(model, [mask[2:] for mask in masks]):
                assert dyt.count_macs(model, x[2:])[0] == found[-1][2]
    extra = len(models[0].sites) * (32 * 4 + 4 * (2 * 32 * 4 + 32 + 4))
    assert (found[1] - found[0]).tolist() == [extra] * 3


def test_no_image_sees_another() -> None:
    adapter, x = made(8, dim=4, experts=3), torch.randn(4, 5, 8)
    for i in range(4):
        torch.testing.assert_close(adapter(x[i : i + 1]), adapter(x)[i : i + 1])


@pytest.mark.parametrize(("experts", "millions"), [(2, 2.4), (4, 4.8), (8, 9.6), (12, 14.4)])
def test_the_parameters_of_table_2(experts: int, millions: float) -> None:
    """ViT-B/16, d = 64; without head and dispatchers, in millions, as the paper prints them."""
    with torch.device("meta"):
        adapter = MoE(MoESpec(experts=experts), 768)
    assert round(12 * sum(p.numel() for p in adapter.parameters()) / 1e6, 1) == millions


def test_its_start() -> None:
    adapter = MoE(MoESpec(dim=128, experts=3), 400)
    bound = 1 / math.sqrt(400)  # Kaiming-uniform with a = sqrt 5, the fan-in of one expert
    for expert in adapter.down.weight:
        assert bound * 0.99 < expert.abs().max().item() <= bound
    assert len({expert.sum().item() for expert in adapter.down.weight}) == 3
    assert adapter.router.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert all(not p.any() for p in (adapter.down.bias, adapter.up.weight, adapter.up.bias, adapter.router.bias))
    assert not adapter(torch.randn(2, 3, 400)).any()


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("pure", [True, False])
def test_alpha_is_float32_in_any_precision(normalisation: Any, pure: bool) -> None:
    adapter, x = made(8, dim=4, normalisation=normalisation), torch.randn(2, 5, 8)
    if pure:
        adapter, x = adapter.bfloat16(), x.bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=not pure):
        alpha, out = adapter.alpha(x), adapter(x)
    assert alpha.dtype == torch.float32
    assert out.dtype == torch.bfloat16
    exact = made(8, dim=4, normalisation=normalisation)
    exact.load_state_dict({key: value.float() for key, value in adapter.state_dict().items()})
    torch.testing.assert_close(alpha, exact.alpha(x.float()))


def test_router_and_experts_learn() -> None:
    model = tiny(adapter={"type": "moe", "dim": 4, "experts": 3, "dropout": 0.0}).train()
    loss, _ = dyt.TuningStep(model)(torch.randn(4, 3, 32, 32), torch.arange(4) % CLASSES)
    loss.backward()
    assert all(p.grad is not None and p.grad.any() for site in model.sites for p in site.adapter.parameters())
