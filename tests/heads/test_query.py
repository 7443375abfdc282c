"""The query head: its clips do not see one another, it is trained whole, saved, and counted."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

import dyt
from dyt.errors import DyTError, UnsupportedError
from dyt.measure import frame_rates
from dyt.testing.cases import TINY
from dyt.testing.laws import executed

CLASSES, FRAMES = 5, 3
SWIN: dict[str, Any] = {
    "img_size": 32, "patch_size": 4, "window_size": 4, "embed_dim": 16, "depths": [2, 2], "num_heads": [2, 4]
}  # fmt: skip
BACKBONES = {"vit": ("vit_tiny_patch16_224", TINY), "swin": ("swin_tiny_patch4_window7_224", SWIN)}


def made(backbone: str = "vit", variant: str = "mlp", **head: Any) -> dyt.DynamicModel:
    """A small model whose routers decide by the tokens, and whose adapters add something."""
    torch.manual_seed(0)
    name, args = BACKBONES[backbone]
    model = dyt.build(
        {
            "backbone": {"name": name, "weights": "none", "args": args},
            "head": {"type": "query", "num_classes": CLASSES, **head},
            "variant": {"type": variant},
            "adapter": {"type": "bottleneck", "dim": 4},
        }
    )
    with torch.no_grad():
        for site in model.sites:
            for parameter in site.parameters():
                parameter.normal_(0, 0.3)
    return model


def clips(count: int = 2) -> torch.Tensor:
    return torch.randn(count, FRAMES, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(("backbone", "variant"), [("vit", "mlp"), ("vit", "attn"), ("swin", "mlp")])
def test_a_clip_does_not_depend_on_the_others(backbone: str, variant: str) -> None:
    model, batch = made(backbone, variant), clips(3)
    with torch.no_grad():
        together = model(batch)
        alone = torch.cat([model(batch[i : i + 1]) for i in range(3)])
    assert together.shape == (3, CLASSES)
    assert torch.allclose(together, alone, atol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-4)


def test_every_frame_is_read() -> None:
    model, batch = made(), clips(1).requires_grad_(True)
    model(batch).square().sum().backward()
    assert (batch.grad.abs().amax((0, 2, 3, 4)) > 0).all()


def test_gradients_reach_everything_trained() -> None:
    model = made().train()
    loss, parts = dyt.TuningStep(model)(clips(4), torch.tensor([0, 1, 2, 3]))
    loss.backward()
    assert parts["complete"] > 0
    assert parts["distill"] > 0
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert {name for name in trained if name.startswith("head.")} == {
        f"head.{n}" for n, _ in model.head.named_parameters()
    }
    assert [name for name, grad in trained.items() if grad is None or not grad.abs().sum() > 0] == []


def test_a_saved_file_loads_equal(tmp_path: Path) -> None:
    model = made()
    dyt.save(model, tmp_path / "m.safetensors")
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    frozen = {name: t for name, t in model.backbone.state_dict().items() if name in plain.state_dict()}
    plain.load_state_dict(frozen)
    loaded = dyt.load(tmp_path / "m.safetensors", backbone=plain)
    with torch.no_grad():
        assert torch.equal(loaded(clips()), model(clips()))


@pytest.mark.parametrize("variant", ["mlp", "attn"])
def test_macs_of_a_clip_are_those_of_its_frames_and_the_head(variant: str) -> None:
    model, batch = made(variant=variant), clips(2)
    found = dyt.count_macs(model, batch)
    dim = model.num_features
    tokens = 17 * FRAMES
    head = tokens * 2 * dim * dim + 2 * tokens * dim + dim * CLASSES
    frames = [sum(int(dyt.count_macs(_features(model), frame[None])) for frame in clip) for clip in batch]
    assert found.tolist() == [each + head for each in frames]
    if variant == "mlp":
        assert executed(model, batch[:1]) == found[0]


def _features(model: dyt.DynamicModel) -> dyt.DynamicModel:
    """The same backbone without what stands behind it: its own, empty classifier."""
    plain = dyt.DynamicModel(
        model.backbone, model.spec, model.key, dyt.heads.Classifier(model.spec.head, model.backbone)
    )
    return plain.eval()


def test_frame_rates() -> None:
    model, batch = made(), clips(2)
    found = frame_rates(model, [batch[:1], batch[1:]])
    with torch.no_grad(), dyt.record(model) as routes:
        model(batch)
    expected = torch.stack([r.active[:, 1:].float().reshape(2, FRAMES, -1).mean((0, 2)) for r in routes])
    assert torch.allclose(found, expected)
    for wrong in ([], [batch[0]], [batch, batch[:, :2]]):
        with pytest.raises(DyTError, match="frame_rates: "):
            frame_rates(model, wrong)


@pytest.mark.parametrize(
    ("head", "said"),
    [({"num_classes": 0}, "num_classes is 0"), ({"attention_heads": 5}, "attention_heads is 5, which does not divide")],
)
def test_refusals(head: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said):
        made(**head)


def test_images_are_refused() -> None:
    with pytest.raises(DyTError, match=r"takes clips .* given a tensor of shape \(2, 3, 32, 32\)"):
        made()(torch.zeros(2, 3, 32, 32))
