"""The detectors: shapes, gradients, files, costs, and what they refuse. Tiny plain ViTs, global and windowed."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

import dyt
from dyt.core.context import changed
from dyt.errors import DyTError, SpecError, UnsupportedError
from dyt.measure.flops import MacCounter
from dyt.measure.macs import tokens_alone
from dyt.testing.laws import executed

TINY: dict[str, Any] = {"img_size": 64, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
BACKBONES: dict[str, dict[str, Any]] = {
    "global": {"name": "vit_tiny_patch16_224", "args": TINY},
    "in windows": {"name": "vit_tiny_patch16_224", "args": TINY, "window_size": 3, "global_attn_indexes": [1]},
    "windowed": {"name": "samvit_base_patch16", "args": {**TINY, "window_size": 3, "global_attn_indexes": [1]}},
}
HEAD = {"channels": 8, "hidden": 16, "anchors": [8, 16, 32, 48, 64], "proposals": 20, "proposals_training": 40}


def spec(kind: str = "faster_rcnn", backbone: str = "global", **more: Any) -> dict[str, Any]:
    return {
        "backbone": {**BACKBONES[backbone], "weights": "none"},
        "adapter": {"type": "bottleneck", "dim": 4},
        "head": {"type": kind, "num_classes": 2, **HEAD},
        "objective": {"complete": 0.0, "distill": 0.0},
        **more,
    }


def batch() -> tuple[torch.Tensor, list[dict[str, torch.Tensor]]]:
    """Two images; the second has no object."""
    masks = torch.zeros(2, 64, 64, dtype=torch.uint8)
    masks[0, 8:30, 8:30] = masks[1, 20:60, 30:50] = 1
    boxes = torch.tensor([[8.0, 8, 30, 30], [30, 20, 50, 60]])
    some = {"boxes": boxes, "labels": torch.tensor([1, 2]), "masks": masks}
    none = {"boxes": boxes[:0], "labels": torch.zeros(0, dtype=torch.int64), "masks": masks[:0]}
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), [some, none]


def built(*args: Any, **kwargs: Any) -> dyt.DynamicModel:
    torch.manual_seed(0)
    return dyt.build(spec(*args, **kwargs))


@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_weights_in_bfloat16(kind: str) -> None:
    """Regions are found in float32 all the same, and gradients have the weights' dtype."""
    model = built(kind).to(torch.bfloat16).train()
    images, targets = batch()
    loss, _ = dyt.TuningStep(model)(images.bfloat16(), targets)
    loss.backward()
    assert loss.dtype == torch.float32
    grads = [p.grad for p in model.head.parameters() if p.grad is not None]
    assert len(grads) == len(list(model.head.parameters()))
    assert all(g.dtype == torch.bfloat16 and g.isfinite().all() for g in grads)
    for found in model.eval()(images.bfloat16()):
        assert found["boxes"].dtype == found["scores"].dtype == torch.float32
    with dyt.execution(model, "complete"):  # routes may differ by rounding
        assert torch.equal(dyt.count_macs(model, images.bfloat16()), dyt.count_macs(model.float(), images))


@pytest.mark.parametrize("backbone", BACKBONES)
@pytest.mark.parametrize("kind", ["faster_rcnn", "mask_rcnn"])
def test_gradients_reach_everything_that_is_trained_and_nothing_else(kind: str, backbone: str) -> None:
    model = built(kind, backbone).train()
    images, targets = batch()
    for site in model.sites:  # adapters start at zero, behind which nothing has a gradient
        torch.nn.init.normal_(site.adapter.up.weight)
    loss, parts = dyt.TuningStep(model)(images, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert parts["cls"] > 0
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    reached = {name for name, p in model.named_parameters() if p.grad is not None}
    moved = {name for name in reached if model.get_parameter(name).grad.abs().sum() > 0}
    assert reached == trained
    assert moved == trained
    assert all(name.startswith("head.") or ".dispatcher." in name or ".adapter." in name for name in trained)


def test_without_any_object_the_loss_is_finite_and_reaches_everything() -> None:
    model = built("mask_rcnn").train()
    images, targets = batch()
    loss, _ = dyt.TuningStep(model)(images[:1], targets[1:])
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters() if p.requires_grad)


def test_the_loss_is_the_weighted_sum_of_its_terms() -> None:
    names = ["objectness_weight", "proposal_weight", "class_weight", "box_weight", "mask_weight"]
    images, targets = batch()
    found = {}
    for on in [*names, "all"]:
        plain = spec("mask_rcnn")
        plain["head"] |= {name: float(on in {name, "all"}) for name in names}
        torch.manual_seed(0)
        model = dyt.build(plain).train()
        torch.manual_seed(1)
        outputs = model(images)
        torch.manual_seed(2)
        found[on] = model.head.loss(outputs, targets).item()
    assert all(found[name] > 0 for name in names)
    assert sum(found[name] for name in names) == pytest.approx(found["all"], rel=1e-5)


def test_outputs_in_both_modes() -> None:
    model = built("mask_rcnn")
    model.head.roi_heads.score_thresh = 0.0
    images, targets = batch()
    maps = model.train()(images)
    assert {name: tuple(each.shape) for name, each in maps.maps.items()} == {
        "0": (2, 8, 32, 32),
        "1": (2, 8, 16, 16),
        "2": (2, 8, 8, 8),
        "3": (2, 8, 4, 4),
        "pool": (2, 8, 2, 2),
    }
    assert maps.size == (64, 64)
    with torch.no_grad():
        found = model.eval()(images)
    assert len(found) == 2
    for one in found:
        n = len(one["boxes"])
        assert 0 < n <= 100
        assert one["masks"].shape == (n, 28, 28)
        assert set(one["labels"].tolist()) <= {1, 2}
        assert bool((one["boxes"] >= 0).all())
        assert bool((one["boxes"] <= 64).all())
    with pytest.raises(DyTError, match=r"call model\.train"):
        model.head.loss(found, targets)


def test_saved_and_loaded_is_equal(tmp_path: Path) -> None:
    plain = spec("mask_rcnn", trainable="full")
    model = dyt.build(plain)
    dyt.save(model, tmp_path / "model.safetensors")
    loaded = dyt.load(tmp_path / "model.safetensors")
    images, _ = batch()
    for one, other in zip(model.eval()(images), loaded.eval()(images), strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_macs_are_those_of_the_flop_counter_without_the_regions(backbone: str) -> None:
    model = built(backbone=backbone).eval()
    images, _ = batch()
    whole = executed(model, images[:1])
    with torch.no_grad(), changed(model.key, executor=tokens_alone()), MacCounter() as everything:
        model(images[:1])
    assert int(dyt.count_macs(model, images[:1])) == whole
    per_region = 8 * 7 * 7 * 16 + 16 * 16 + 16 * 3 + 16 * 3 * 4
    rest, left = divmod(everything.total - whole, per_region)
    assert left == 0
    assert 0 < rest <= HEAD["proposals"]


def test_refusals() -> None:
    tiny = {"name": "vit_tiny_patch16_224", "weights": "none", "args": {**TINY, "img_size": 28, "patch_size": 14}}
    swin = {"name": "swin_tiny_patch4_window7_224", "weights": "none"}
    for plain, said in (
        ({**spec(), "backbone": tiny}, "its patch is 14 px"),
        ({**spec(), "backbone": swin}, "strides 4, 8, 16, 32"),
        (spec(reducer={"type": "tome", "r": 1}), "reducer 'tome' does not leave"),
    ):
        with pytest.raises(UnsupportedError, match=re.escape(said)):
            dyt.build(plain)
    with pytest.raises(SpecError, match=r"proposes? different regions.*set distill: 0"):
        dyt.build(spec(objective={"distill": 1.0}))
    model = built("mask_rcnn").train()
    images, targets = batch()
    bare = [{name: each for name, each in target.items() if name != "masks"} for target in targets]
    with pytest.raises(DyTError, match=r"no masks given; set data\.masks: true"):
        model.head.loss(model(images), bare)
    with pytest.raises(DyTError, match="from 1 on"):
        dyt.build({**spec(), "head": {"type": "faster_rcnn", "num_classes": 0}})
