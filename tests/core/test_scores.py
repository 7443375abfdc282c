"""Routers decide in float32, and are called as modules: hooks and other libraries' low-rank updates see them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyt
from dyt.core.calls import bare
from dyt.core.scores import Router, routed
from dyt.families.attention import outputs
from laws.models import tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
ROUTED: dict[str, dict[str, Any]] = {
    "learned": {},
    "topk": {"dispatcher": {"type": "topk"}},
    "moe": {"adapter": {"type": "moe", "dim": 4}, "dispatcher": {"type": "always"}},
}


def routers(model: nn.Module) -> dict[str, Router]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Router)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_in_float32_also_under_autocast(dtype: torch.dtype) -> None:
    router, x = Router(8, 2).to(dtype), torch.randn(3, 8).to(dtype)
    plain = nn.functional.linear(x.float(), router.weight.float(), router.bias.float())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(router(x), plain)
        assert torch.equal(routed(router, x), plain)
    assert router(x).dtype == torch.float32


def test_keys_and_start_are_those_of_a_linear_layer() -> None:
    torch.manual_seed(0)
    ours = Router(8, 2)
    torch.manual_seed(0)
    theirs = nn.Linear(8, 2)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    assert list(ours.state_dict()) == list(theirs.state_dict())


@pytest.mark.parametrize("name", ROUTED)
@pytest.mark.parametrize("training", [False, True])
def test_a_forward_hook_on_every_router_fires(name: str, training: bool) -> None:
    model = tiny(**ROUTED[name]).train(training)
    heard: list[str] = []
    for path, router in routers(model).items():
        router.register_forward_hook(lambda _, __, ___, path=path: heard.append(path))
    model(IMAGES)
    assert heard == list(routers(model))
    assert len(heard) == 2


@pytest.mark.parametrize("name", ROUTED)
def test_low_rank_updates_of_routers_train_and_are_used(name: str) -> None:
    peft = pytest.importorskip("peft", reason="the extra dyt[lora]")
    model = tiny({"global_pool": "avg"}, **ROUTED[name])
    with torch.no_grad():
        before = model(IMAGES)
    config = peft.LoraConfig(r=2, target_modules=r".*\.router", init_lora_weights=False)
    peft.inject_adapter_in_model(config, model)
    with torch.no_grad():
        assert not torch.allclose(model(IMAGES), before, atol=1e-4)
    loss, _ = dyt.TuningStep(model.train())(IMAGES, torch.arange(3))
    loss.backward()
    grads = {path: p.grad for path, p in model.named_parameters() if ".lora_" in path}
    assert len(grads) == 4
    assert all(grad is not None and bool(grad.abs().sum() > 0) for grad in grads.values())


def test_a_part_of_a_layer_that_others_hear_of_is_cut_out_of_a_call() -> None:
    linear, x, heard = nn.Linear(8, 6), torch.randn(2, 8), []
    whole = linear(x)
    assert bare(linear)
    torch.testing.assert_close(outputs(linear, x, 2, 4), whole[:, 2:4])
    linear.register_forward_hook(lambda _, __, out: heard.append(out) or 2 * out)
    assert not bare(linear)
    torch.testing.assert_close(outputs(linear, x, 2, 4), 2 * whole[:, 2:4])
    assert len(heard) == 1


def test_a_replaced_forward_is_called() -> None:
    linear, x = nn.Linear(8, 6), torch.randn(2, 8)

    def replaced(x: Tensor) -> Tensor:
        return torch.ones(2, 6)

    linear.forward = replaced  # type: ignore[method-assign]
    assert not bare(linear)
    assert torch.equal(outputs(linear, x, 2, 4), torch.ones(2, 2))
