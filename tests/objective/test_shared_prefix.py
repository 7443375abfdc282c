"""What the passes of a step share: the same loss and gradients as without, and less of the work."""

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

import dyt
from dyt.executors import Masked
from dyt.objective.shared_prefix import Passes, first_block
from dyt.registry import variants
from laws.models import CLASSES, spec, tiny

X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
Y = torch.arange(4) % CLASSES
PRETRAINED = {"complete": 0.0, "distill": 0.0, "features": 2.0, "teacher": "pretrained"}
BOTH = {"complete": 0.5, "features": 2.0, "teacher": "pretrained"}


def result(model, objective, economical):
    """Loss, parts and gradients of one step, with noise and dropout drawn from one seed."""
    torch.manual_seed(3)
    model.zero_grad()
    loss, parts = dyt.TuningStep(model, objective, economical=economical)(X, Y)
    loss.backward()
    return loss, parts, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def same(model, objective):
    for ours, wanted in zip(*(result(model, objective, economical) for economical in (True, False)), strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("objective", [{}, PRETRAINED, BOTH, {"complete_share": 0.5}, {"features": 1.0}])
@pytest.mark.parametrize("variant", sorted(variants.names()))
def test_loss_and_gradients_are_those_of_whole_passes(variant, objective):
    model = tiny(variant=variant).train()
    assert first_block(model) is not None
    same(model, objective)


@pytest.mark.parametrize(
    "changed",
    [
        {"trainable": "full"},
        {"tuner": {"type": "vpt", "tokens": 2, "dropout": 0.5}},
        {"tuner": {"type": "bitfit"}},
        {"reducer": {"type": "tome", "r": 2}},
        {"reducer": {"type": "dynamicvit"}},
        {"args": {"drop_path_rate": 0.5}},
        {"args": {"pos_drop_rate": 0.5}},
        {"args": {"patch_drop_rate": 0.5}},
        {"args": {"attn_drop_rate": 0.5}},
        {"args": {"class_token": False, "global_pool": "avg"}},
        {"args": {"reg_tokens": 2, "dynamic_img_size": True}},
        {"variant": {"type": "mlp", "layers": [1]}},
        {"adapter": "moe"},
        {"dispatcher": {"type": "learned", "level": "sample"}},
        {"dispatcher": "attention"},
    ],
    ids=str,
)
def test_it_is_exact_whatever_else_the_model_has(changed):
    args = changed.pop("args", {}) if "args" in changed else {}
    args = {"depth": 3, **args}
    same(tiny(args, **changed).train(), {})


@pytest.mark.parametrize(
    "args",
    [
        {"pos_drop_rate": 0.5},
        {"patch_drop_rate": 0.5},
    ],
)
def test_noise_before_the_first_dispatcher_is_drawn_for_each_pass(args):
    assert first_block(tiny(args).train()) is None
    assert first_block(tiny(args).eval()) is not None


def test_tuners_and_reducers_are_not_known_to_agree():
    assert first_block(tiny(tuner={"type": "vpt", "tokens": 2}).train()) is None
    assert first_block(tiny(reducer={"type": "tome", "r": 2}).train()) is None


def test_families_that_do_not_say_so_compute_every_pass():
    class Own(VisionTransformer):
        def forward_features(self, x, attn_mask=None, is_causal=False):
            return super().forward_features(x, attn_mask, is_causal) * x.shape[0]

    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": CLASSES}
    model = dyt.build(spec(), backbone=Own(**args)).train()
    assert first_block(model) is None
    same(model, {})
    swin = {"name": "swin_tiny_patch4_window7_224", "weights": "none"}
    swin["args"] = {"img_size": 32, "window_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [1, 1]}
    model = dyt.build(spec(backbone=swin)).train()
    assert first_block(model) is None
    same(model, {})


def counted(model, module):
    """(images, gradient wanted) of every call of a module."""
    calls = []
    module.register_forward_pre_hook(lambda _, args: calls.append(len(args[0])))
    return calls


def test_the_stem_is_computed_once():
    model = tiny(variant={"type": "mlp", "layers": [1]}).train()
    plain, attention = counted(model, model.backbone.blocks[0]), counted(model, model.backbone.blocks[1].attn)
    embedding = counted(model, model.backbone.patch_embed)
    dyt.TuningStep(model, BOTH)(X, Y)
    assert embedding == plain == [4, 1, 1]
    assert attention == [4]  # that of the first dynamic block is shared as well


def test_a_part_of_the_batch_reads_its_own_images():
    model = tiny().eval()
    with torch.no_grad():
        run = Passes(model, X)
        first = run()
        torch.testing.assert_close(run(2), model(X[:2]))
        torch.testing.assert_close(run(), first)


def test_a_forward_between_the_passes_is_not_touched():
    """The hook answers only forwards that are in its forward context."""
    model, other = tiny().eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        wanted, found = model(other), []
        handle = model.backbone.norm.register_forward_hook(lambda *_: None)
        run = Passes(model, X)
        run()
        found.append(model(other))
        run()
        found.append(model(other))
        handle.remove()
    for one in found:
        torch.testing.assert_close(one, wanted)


def test_grad_checkpointing_goes_with_it():
    model = tiny().train()
    model.set_grad_checkpointing()
    same(model, BOTH)


def test_an_executor_that_is_named_is_the_one_that_runs(monkeypatch):
    model, ran = tiny().train(), []
    original = Masked.pointwise
    monkeypatch.setattr(Masked, "pointwise", lambda *args: (ran.append(1), original(*args))[1])
    dyt.TuningStep(model, {"complete": 0.0, "distill": 0.0})(X, Y)
    assert not ran
    with dyt.execution(model, "masked"):
        dyt.TuningStep(model, {"complete": 0.0, "distill": 0.0})(X, Y)
    assert len(ran) == 2
    with_noise = tiny({"drop_path_rate": 0.5}).train()
    dyt.TuningStep(with_noise, {"complete": 0.0, "distill": 0.0})(X, Y)
    assert len(ran) == 4


def test_nothing_frozen_is_given_a_gradient_and_the_stem_has_no_graph():
    model = tiny().train()
    entered = []
    model.backbone.blocks[0].register_forward_pre_hook(lambda _, args: entered.append(args[0]))
    loss, _ = dyt.TuningStep(model)(X, Y)
    loss.backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
    assert not any(tokens.requires_grad for tokens in entered)
