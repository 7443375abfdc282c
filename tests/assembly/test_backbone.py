"""Backbones from the hub, from local files, at random: what fits, what is refused and how."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import dyt
from laws.models import CLASSES, TINY, Case, spec, tiny_backbone

PLAIN = Case(TINY, (32, 32), 2, 0)


def built(weights: Path | str, classes: int = CLASSES, **args: Any) -> dyt.DynamicModel:
    return dyt.build(spec(backbone=tiny_backbone(**args) | {"weights": str(weights)}, head={"num_classes": classes}))


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return dict(PLAIN.backbone().state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_matching_head_is_kept(tmp_path: Path, state: dict[str, torch.Tensor], suffix: str) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, path)
    else:
        save_file(state, path)
    model = built(path)
    assert all(torch.equal(model.backbone.state_dict()[key], value) for key, value in state.items())
    with torch.no_grad(), dyt.execution(model, "complete"):
        torch.testing.assert_close(model(PLAIN.images()), PLAIN.backbone()(PLAIN.images()))


@pytest.mark.parametrize("drop", [False, True])
def test_another_head_or_none_is_replaced(tmp_path: Path, state: dict[str, torch.Tensor], drop: bool) -> None:
    if drop:
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
    save_file(state, tmp_path / "w.safetensors")
    model = built(tmp_path / "w.safetensors", classes=CLASSES if drop else 3)
    ours = model.backbone.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in state.items() if not key.startswith("head."))
    assert not model.get_classifier().bias.any()
    assert model.get_classifier().weight.std().item() == pytest.approx(0.01, rel=0.3)


def test_no_head_is_wanted(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    assert built(tmp_path / "w.safetensors", classes=0).num_classes == 0


def test_position_embeddings_are_resampled(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file(state, tmp_path / "w.safetensors")
    model = built(tmp_path / "w.safetensors", img_size=48)
    assert model.backbone.pos_embed.shape == (1, 37, 32)
    assert torch.equal(model.backbone.blocks[1].mlp.fc1.weight, state["blocks.1.mlp.fc1.weight"])


def test_half_precision_weights_are_read(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    save_file({key: value.half() for key, value in state.items()}, tmp_path / "w.safetensors")
    model = built(tmp_path / "w.safetensors")
    assert model.backbone.cls_token.dtype == torch.float32
    assert torch.equal(model.backbone.cls_token, state["cls_token"].half().float())


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "w.safetensors"
    save_file(state, path)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"depth": 3}, r"12 missing \(blocks.2.attn.proj.bias, ...\)"),
        ({"depth": 1}, r"12 unknown \(blocks.1.attn.proj.bias, ...\)"),
        ({"embed_dim": 48, "num_heads": 3}, "of another shape"),
    ]
    for args, words in cases:
        with pytest.raises(
            dyt.WeightsError, match=f"is not a VisionTransformer of this size: tensors .*{words}"
        ) as caught:
            built(path, **args)
        assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"a": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("trap.pth", "junk.safetensors", "empty.pth"):
        with pytest.raises(dyt.WeightsError, match="is not a readable weights file") as caught:
            built(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()
    for absent in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(
            dyt.WeightsError, match=r"no file '.*; give a .safetensors or .pth file, 'pretrained', or 'none'"
        ):
            built(absent)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"depht": 2}, "timm refused .*depht"),
        ({"embed_dim": 33}, "should be divisible"),
        ({"global_pool": "mean"}, "for vit_tiny_patch16_224: .*pool"),
        ({"depth": "two"}, "timm refused"),
    ],
)
def test_arguments_that_timm_refuses(args: dict[str, Any], words: str) -> None:
    with pytest.raises(dyt.SpecError, match=f"^backbone.args: .*{words}") as caught:
        built("none", **args)
    assert "\n" not in str(caught.value)


def test_lists_become_tuples() -> None:
    assert built("none", img_size=[32, 48]).backbone.patch_embed.img_size == (32, 48)


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(dyt.SpecError, match="has no model 'vit_tiny_patch16_225'; did you mean 'vit_tiny_patch16_224'"):
        dyt.build({"backbone": {"name": "vit_tiny_patch16_225", "weights": "none"}})


def test_no_hub_is_a_one_line_error_that_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(dyt.WeightsError) as caught:
        dyt.build({"backbone": {"name": "vit_tiny_patch16_224.augreg_in21k"}})
    message = str(caught.value)
    assert "\n" not in message
    for words in (
        "no pretrained weights for 'vit_tiny_patch16_224.augreg_in21k'",
        "go online",
        "'none'",
        ".safetensors",
    ):
        assert words in message


def test_a_model_without_published_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(dyt.WeightsError, match="no pretrained weights for 'vit_base_patch16_gap_224'"):
        dyt.build({"backbone": {"name": "vit_base_patch16_gap_224"}})


def test_timm_s_own_head_is_kept_when_it_has_the_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As timm loads pretrained weights: the head stays if the number of classes is that of the weights."""
    original = timm.create_model

    def pretrained(name: str, pretrained: bool = False, **args: Any) -> Any:
        model = original(name, **args)
        torch.nn.init.ones_(model.head.bias)
        return model

    monkeypatch.setattr(timm, "create_model", pretrained)
    for classes, kept in ((1000, True), (7, False)):
        args = {"name": "vit_tiny_patch16_224.augreg_in21k_ft_in1k", "args": TINY}
        model = dyt.build({"backbone": args, "head": {"num_classes": classes}})
        assert bool(model.get_classifier().bias.any()) == kept
