"""Law 3: the frozen backbone is bit-identical after training; what is to learn has gradients, non-zero as stated."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dyt
from dyt.checkpoint import plain_state
from dyt.model import head_keys
from laws.models import CLASSES, Case, shaken, spec
from laws.strategies import cases, names

# Of rate and asked rate the square's slope is zero only if they are equal, which no number of tokens here makes 0.3717.
OBJECTIVE = {"rate": 0.3717}
trained = cases(pooled=True, stochastic=True).filter(lambda case: case.vit["img_size"] > case.vit["patch_size"])


def labels(case: Case) -> torch.Tensor:
    return torch.arange(case.batch) % CLASSES


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("dispatcher", names("dispatchers"))
@pytest.mark.parametrize("adapter", names("adapters"))
@settings(max_examples=5)
@given(case=trained, checkpointing=st.booleans())
def test_the_backbone_does_not_change(
    variant: str, dispatcher: str, adapter: str, case: Case, checkpointing: bool
) -> None:
    chosen: dict[str, Any] = {"dispatcher": {"type": dispatcher}, "adapter": {"type": adapter}}
    backbone = case.backbone()
    model = dyt.build(spec(variant={"type": variant}, objective=OBJECTIVE, **chosen), backbone=backbone)
    model.set_grad_checkpointing(checkpointing)
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    head = {f"backbone.{key}" for key in head_keys(model.backbone)}
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    assert learning == {k for k, _ in model.named_parameters() if ".sites." in k} | head
    step = dyt.TuningStep(model).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(2):
        with case.precision():
            loss, parts = step(case.images(), labels(case))
        assert bool(torch.isfinite(loss))
        assert torch.equal(loss, parts["total"])
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed <= learning
    assert head <= changed
    assert set(plain_state(backbone)) == set(case.backbone().state_dict())


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("rate_weight", [0.0, 2.0])
@given(case=cases(dtypes=("float32",), pooled=True))
def test_which_gradients_are_zero(fresh: bool, rate_weight: float, case: Case) -> None:
    chosen = {"adapter": {"type": "bottleneck", "dim": 32, "dropout": 0.0}}
    objective = OBJECTIVE | {"rate_weight": rate_weight}
    model = dyt.build(spec(objective=objective, **chosen), backbone=case.backbone())
    model = model if fresh else shaken(model, 0.3)
    loss, _ = dyt.TuningStep(model).train()(case.images(), labels(case))
    loss.backward()
    zero = {name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()}
    expected = {k for k, _ in model.named_parameters() if ".adapter.down." in k} if fresh else set()
    if case.vit["global_pool"] == "token" and rate_weight == 0:
        # Only the class token is read after the last block: which patches its MLP runs on changes nothing.
        expected |= {
            k for k, _ in model.named_parameters() if f"blocks.{case.vit['depth'] - 1}.sites.mlp.dispatcher" in k
        }
    assert zero == expected


def test_full_training_trains_everything() -> None:
    case = Case({"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}, (16, 16), 2, 0)
    model = shaken(dyt.build(spec(trainable="full", objective=OBJECTIVE), backbone=case.backbone()))
    loss, _ = dyt.TuningStep(model).train()(case.images(), labels(case))
    loss.backward()
    assert all(p.requires_grad and p.grad is not None and p.grad.any() for p in model.parameters())
