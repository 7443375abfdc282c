"""Law 3: the frozen backbone is bit-identical after training; what is to learn has gradients, non-zero as stated."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dyt
from dyt.testing import laws
from dyt.testing.laws import OBJECTIVE
from laws.models import Case, shaken, spec
from laws.strategies import cases, names


def several_patches(case: Case) -> bool:
    """So that the rate is no whole number of tokens."""
    return bool(case.vit["img_size"] > case.vit["patch_size"])


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("dispatcher", names("dispatchers"))
@pytest.mark.parametrize("adapter", names("adapters"))
@settings(max_examples=5)
@given(data=st.data(), checkpointing=st.booleans(), listed=st.sampled_from([[], ["blocks.0.mlp", "patch_embed"]]))
def test_the_backbone_does_not_change(
    variant: str, dispatcher: str, adapter: str, data: st.DataObject, checkpointing: bool, listed: list[str]
) -> None:
    case = data.draw(cases(pooled=True, stochastic=True, dispatcher=dispatcher).filter(several_patches))
    chosen = {"variant": {"type": variant}, "dispatcher": {"type": dispatcher}, "adapter": {"type": adapter}}
    laws.training_keeps_the_backbone(case, chosen | {"modules_to_save": listed}, checkpointing)


@pytest.mark.parametrize("fresh", [True, False])
@pytest.mark.parametrize("rate_weight", [0.0, 2.0])
@pytest.mark.parametrize("adapter", ["bottleneck", "moe"])
@given(case=cases(dtypes=("float32",), pooled=True))
def test_which_gradients_are_zero(fresh: bool, rate_weight: float, adapter: str, case: Case) -> None:
    """While `up` is zero nothing reaches what stands before it: `down`, and the router of a mixture."""
    chosen = {"adapter": {"type": adapter, "dim": 32, "dropout": 0.0}}
    objective = OBJECTIVE | {"rate_weight": rate_weight}
    model = dyt.build(spec(objective=objective, **chosen), backbone=case.backbone())
    model = model if fresh else shaken(model, 0.3)
    loss, _ = dyt.TuningStep(model).train()(case.images(), case.labels())
    loss.backward()
    zero = {name for name, p in model.named_parameters() if p.requires_grad and not p.grad.any()}
    expected = {k for k, _ in model.named_parameters() if ".adapter." in k and ".up." not in k} if fresh else set()
    if case.vit["global_pool"] == "token" and rate_weight == 0:
        # Only the class token is read after the last block: which patches its MLP runs on changes nothing.
        expected |= {
            k for k, _ in model.named_parameters() if f"blocks.{case.vit['depth'] - 1}.sites.mlp.dispatcher" in k
        }
    assert zero == expected


def test_full_training_trains_everything() -> None:
    case = Case({"img_size": 16, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}, (16, 16), 2, 0)
    model = shaken(dyt.build(spec(trainable="full", objective=OBJECTIVE), backbone=case.backbone()))
    loss, _ = dyt.TuningStep(model).train()(case.images(), case.labels())
    loss.backward()
    assert all(p.requires_grad and p.grad is not None and p.grad.any() for p in model.parameters())
