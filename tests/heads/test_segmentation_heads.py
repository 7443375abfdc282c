"""`upernet` and `pixel` on a plain ViT and on Swin: shapes, gradients, saved files, multiply-accumulates, terms."""

import math
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import dyt
from dyt.errors import DyTError, UnsupportedError
from dyt.heads import pyramid
from dyt.heads.pixelwise import Pixelwise
from dyt.measure.flops import MacCounter
from dyt.testing.laws import executed
from laws.models import shaken, spec

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 3, "num_heads": 2, "dynamic_img_size": True}
SWIN = {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4}
MODELS: dict[str, tuple[str, dict[str, Any], int]] = {
    "vit": ("vit_tiny_patch16_224", VIT, 32),
    "swin": ("swin_tiny_patch4_window7_224", SWIN | {"strict_img_size": False}, 64),
}
HEADS: dict[str, dict[str, Any]] = {"upernet": {"type": "upernet", "channels": 8}, "pixel": {"type": "pixel"}}
CASES = [pytest.param(m, h, id=f"{m}-{h}") for m in MODELS for h in HEADS]


def plain(model: str) -> torch.nn.Module:
    name, args, _ = MODELS[model]
    torch.manual_seed(0)
    return timm.create_model(name, num_classes=0, **args).eval()


def made(model: str, head: str, **chosen: Any) -> dyt.DynamicModel:
    return dyt.build(spec(**{"head": {**HEADS[head], "num_classes": 5}, **chosen}), backbone=plain(model))


def batch(model: str, count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    size = MODELS[model][2]
    drawn = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 5, (count, size, size), generator=drawn)
    labels[:, :5] = 255
    return torch.randn(count, 3, size, size, generator=drawn), labels


@pytest.mark.parametrize(("model", "head"), CASES)
def test_logits_have_the_images_size(model: str, head: str) -> None:
    """At the backbone's own size and at a wide one."""
    dynamic, size = made(model, head).eval(), MODELS[model][2]
    for shape in ((size, size), (size, 2 * size)):
        assert dynamic(torch.randn(1, 3, *shape)).shape == (1, 5, *shape)


@pytest.mark.parametrize("trainable", ["adapters", "full"])
@pytest.mark.parametrize(("model", "head"), CASES)
def test_gradient_reaches_everything_trained(model: str, head: str, trainable: str) -> None:
    dynamic = shaken(made(model, head, trainable=trainable))
    step = dyt.TuningStep(dynamic).train()
    loss, parts = step(*batch(model), 0.5)
    assert torch.equal(loss, parts["total"])
    loss.backward()
    trained = {name: p for name, p in dynamic.named_parameters() if p.requires_grad}
    assert [name for name, p in trained.items() if p.grad is None] == []
    assert any(name.startswith("head.") for name in trained)
    if trainable == "adapters":
        assert all(".sites." in name or name.startswith("head.") for name in trained)
    assert all(bool(p.grad.isfinite().all()) for p in trained.values() if p.grad is not None)


@pytest.mark.parametrize(("model", "head"), CASES)
def test_a_saved_file_loads_equal(model: str, head: str, tmp_path: Path) -> None:
    """With the running statistics of batch norms, which a training pass has moved."""
    dynamic, (images, labels) = shaken(made(model, head)), batch(model)
    dyt.TuningStep(dynamic).train()(images, labels, 0.5)
    dyt.save(dynamic.eval(), tmp_path / "x.safetensors")
    loaded = dyt.load(tmp_path / "x.safetensors", backbone=plain(model))
    with torch.no_grad():
        assert torch.equal(loaded(images), dynamic(images))
    moved = [b for name, b in loaded.head.named_buffers() if name.endswith("num_batches_tracked")]
    assert all(int(count) > 0 for count in moved)
    assert bool(moved) == (head == "upernet")


def test_the_pretrained_teacher_leaves_the_batch_norms_alone() -> None:
    objective = {"complete": 0.0, "distill": 0.0, "features": 1.0, "teacher": "pretrained"}
    dynamic, (images, labels) = shaken(made("vit", "upernet", objective=objective)), batch("vit")
    _, parts = dyt.TuningStep(dynamic).train()(images, labels, 0.5)
    assert parts["features"].item() > 0
    seen = {int(b) for name, b in dynamic.head.named_buffers() if name.endswith("num_batches_tracked")}
    assert seen == {1}


@pytest.mark.parametrize(("model", "head"), CASES)
def test_macs_are_what_a_flop_counter_sees(model: str, head: str) -> None:
    dynamic, (images, _) = shaken(made(model, head)).eval(), batch(model, 1)
    assert int(dyt.count_macs(dynamic, images)) == executed(dynamic, images)
    with dyt.execution(dynamic, "complete"):
        whole = int(dyt.count_macs(dynamic, images))
    with torch.no_grad(), MacCounter() as counter, dyt.execution(dynamic, "complete"):
        dynamic.forward_features(images)
    assert 0 < counter.total < whole


@pytest.mark.parametrize("head", HEADS)
def test_terms(head: str) -> None:
    """The loss is that of the labelled pixels; the divergence a mean over pixels; the tally counts labelled ones."""
    own = made("vit", head).head
    assert isinstance(own, Pixelwise)
    logits, other = torch.randn(2, 5, 4, 4), torch.randn(2, 5, 4, 4, requires_grad=True)
    labels = torch.randint(0, 5, (2, 4, 4))
    labels[0] = 255
    expected = -logits.log_softmax(1)[1].gather(0, labels[1][None]).mean()
    torch.testing.assert_close(own.loss(logits, labels), expected)
    assert float(own.loss(logits, torch.full_like(labels, 255))) == 0
    p, q = other.detach().softmax(1), logits.softmax(1)
    found = own.divergence(other, logits.requires_grad_(), 1.0)
    torch.testing.assert_close(found, (p * (p / q).log()).sum(1).mean())
    found.backward()
    assert other.grad is None
    right, of = own.tally(logits, labels)
    assert (int(right), of) == (int((logits.argmax(1)[1] == labels[1]).sum()), 16)


def test_layers_of_the_pyramid() -> None:
    """Layers 4, 6, 8 and 12 of 12; every depth has four; a hierarchical model gives its stages."""
    twelve = [pyramid.Layer(i, 8, 16) for i in range(12)]
    assert [layer.index for layer in pyramid.chosen(twelve)] == [3, 5, 7, 11]
    assert [layer.index for layer in pyramid.chosen(twelve[:1])] == [0, 0, 0, 0]
    assert [layer.stride for layer in pyramid.chosen(pyramid.layers_of(plain("swin")))] == [4, 8, 16, 32]
    found = pyramid.Pyramid([8] * 4)([torch.randn(2, 8, 3, 5) for _ in range(4)])
    assert [tuple(each.shape[2:]) for each in found] == [(12, 20), (6, 10), (3, 5), (2, 3)]


def test_maps_are_those_of_the_named_layers() -> None:
    backbone, images = plain("vit"), batch("vit")[0]
    layers = pyramid.layers_of(backbone)
    with torch.no_grad():
        every = backbone.forward_intermediates(images, intermediates_only=True)
        found = pyramid.maps(backbone, images, [layers[2], layers[0], layers[2]])
    assert all(torch.equal(a, every[i]) for a, i in zip(found, (2, 0, 2), strict=True))


def test_the_new_classifier_says_every_class_alike() -> None:
    dynamic = made("vit", "pixel").eval()
    with torch.no_grad():
        chances = dynamic(batch("vit")[0]).softmax(1)
    assert math.isclose(float(chances.mean()), 0.2, rel_tol=1e-5)
    assert float(chances.max()) < 0.4


def test_refusals() -> None:
    with pytest.raises(UnsupportedError, match=r"head\.layers: no layer 3; it has layers 0 to 2"):
        dyt.build(spec(head={"type": "upernet", "layers": (0, 1, 2, 3), "num_classes": 5}), backbone=plain("vit"))
    with pytest.raises(UnsupportedError, match="hierarchical"):
        dyt.build(spec(head={"type": "upernet", "layers": (0, 1, 2, 3), "num_classes": 5}), backbone=plain("swin"))
    with pytest.raises(UnsupportedError, match="reducer 'tome' does not leave"):
        made("vit", "pixel", reducer={"type": "tome", "r": 2})
    with pytest.raises(DyTError, match="at least two images"):
        made("vit", "upernet").train()(batch("vit", 1)[0])
