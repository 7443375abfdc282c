"""Backbones from the hub, from local files, at random: what fits, what is refused and how."""

import json
import socket
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

import dyt
from dyt.assembly import hub
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


HUB_MODEL = "test_vit.r160_in1k"
"""A small model with weights on the hub."""


def cache(root: Path, name: str = HUB_MODEL) -> dict[str, torch.Tensor]:
    """Weights of a timm model as huggingface_hub's cache has them after a download."""
    state = dict(timm.create_model(name, pretrained=False).state_dict())
    repository, commit = root / f"models--timm--{name}", "0123456789abcdef0123456789abcdef01234567"
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text(commit)
    save_file(state, repository / "snapshots" / commit / "model.safetensors")
    return state


@pytest.fixture
def requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An empty cache, and what was tried on a network that refuses everything."""
    tried: list[str] = []

    def refuse(name: str) -> Any:
        def refused(*args: Any, **kwargs: Any) -> Any:
            tried.append(name)
            raise OSError("no network in this test")

        return refused

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    for name in ("socket", "create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse(name))
    return tried


def test_cached_weights_are_taken_without_a_request(tmp_path: Path, requests: list[str]) -> None:
    state = cache(tmp_path)
    model = dyt.build({"backbone": {"name": HUB_MODEL}, "head": {"num_classes": 1000}})
    assert requests == []
    ours = model.backbone.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in state.items())
    assert hub.cached(HUB_MODEL)
    assert constants.HF_HUB_OFFLINE is False


def test_weights_that_are_nowhere_are_refused_in_one_line(requests: list[str]) -> None:
    with pytest.raises(dyt.WeightsError, match="hub is out of reach and they are not in its cache; go online"):
        dyt.build({"backbone": {"name": HUB_MODEL}})
    assert requests  # it was tried, so what the test above counts can be other than nothing
    assert not hub.cached(HUB_MODEL)
    assert constants.HF_HUB_OFFLINE is False


def test_weights_that_are_not_cached_come_from_a_hub_that_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "reachable", lambda: True)
    fetched: list[str] = []
    state = timm.create_model(HUB_MODEL, pretrained=False).state_dict()
    save_file(dict(state), tmp_path / "model.safetensors")
    look = timm.models._hub.hf_hub_download

    def download(repo_id: str, filename: str, **kwargs: Any) -> str:
        if constants.HF_HUB_OFFLINE:
            return look(repo_id, filename, **kwargs)
        fetched.append(f"{repo_id}/{filename}")
        return str(tmp_path / "model.safetensors")

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)
    model = dyt.build({"backbone": {"name": HUB_MODEL}})
    assert fetched == [f"timm/{HUB_MODEL}/model.safetensors"]
    assert torch.equal(model.backbone.cls_token, state["cls_token"])


@pytest.mark.parametrize("revision", ["", "@main"])
def test_a_name_with_a_scheme_is_cached_with_its_config(tmp_path: Path, requests: list[str], revision: str) -> None:
    name, state = f"hf-hub:timm/{HUB_MODEL}{revision}", cache(tmp_path)
    with pytest.raises(dyt.WeightsError, match="the model hub is out of reach and they are not in its cache"):
        dyt.build({"backbone": {"name": name}})
    requests.clear()
    (weights,) = tmp_path.rglob("model.safetensors")
    config = {"architecture": "test_vit", "num_classes": 1000, "pretrained_cfg": {"classifier": "head"}}
    (weights.parent / "config.json").write_text(json.dumps(config))
    model = dyt.build({"backbone": {"name": name}})
    assert requests == []
    assert torch.equal(model.backbone.cls_token, state["cls_token"])


def test_a_file_that_the_cache_turns_out_to_lack_is_asked_for(
    requests: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "cached", lambda name: True)
    with pytest.raises(dyt.WeightsError, match="the model hub is out of reach and they are not in its cache"):
        dyt.build({"backbone": {"name": HUB_MODEL}})
    assert requests


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("vit_base_patch16_224.augreg_in21k", ("timm/vit_base_patch16_224.augreg_in21k", "")),
        ("hf-hub:someone/vit@v2", ("someone/vit", "v2")),
        ("no_such_model", None),
    ],
)
def test_the_repository_of_timm_s_weights(name: str, found: tuple[str, str] | None) -> None:
    assert hub.repository(name) == found
