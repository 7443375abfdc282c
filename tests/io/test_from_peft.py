"""`dyt.from_peft`: PEFT's own folders give the same logits; what does not fit or is hostile is refused by name."""

from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from peft_models import CASE, CONFIG, TENSORS, adapted, lora, said
from safetensors.torch import load_file, save_file
from torch import nn

import dyt
from dyt.io.peft_config import OF_ELSEWHERE, SHOWN_BY_TENSORS, USED, WITHOUT_EFFECT, read_config
from guard import guarded

peft = pytest.importorskip("peft")
close = torch.testing.assert_close


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peft")
    adapted(folder)
    return folder


@pytest.fixture
def folder(sound: Path, tmp_path: Path) -> Path:
    for name in (CONFIG, TENSORS):
        (tmp_path / name).write_bytes((sound / name).read_bytes())
    return tmp_path


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"target_modules": r".*\.(attn\.qkv|mlp\.fc1)", "lora_dropout": 0.5, "init_lora_weights": "gaussian"},
        {"modules_to_save": ["norm", "head"], "target_modules": ["qkv", "fc2"]},
        {"modules_to_save": None, "exclude_modules": ["head"]},
    ],
    ids=["qkv", "pattern", "norm", "no head"],
)
def test_a_folder_of_peft_gives_the_same_logits(config: dict[str, Any], tmp_path: Path) -> None:
    theirs, x = adapted(tmp_path / "a", **config), CASE.images()
    model = dyt.from_peft(tmp_path / "a", backbone=CASE.backbone())
    assert not model.training
    assert (model.spec.dispatcher.type, model.spec.adapter.type, model.spec.tuner.type) == ("always", "none", "lora")
    assert (model.spec.tuner.rank, model.spec.tuner.alpha) == (4, 8)
    assert model.spec.modules_to_save == (("norm",) if "norm" in (config.get("modules_to_save") or ()) else ())
    with torch.no_grad():
        close(model(x), theirs(x), atol=1e-5, rtol=1e-5)
    dyt.save(model, tmp_path / "a.safetensors")
    again = dyt.load(tmp_path / "a.safetensors", backbone=CASE.backbone())
    dyt.to_peft(again, tmp_path / "b")
    theirs_saved, ours = (load_file(tmp_path / name / TENSORS) for name in "ab")
    assert theirs_saved.keys() <= ours.keys()  # the classifier is always among ours
    assert all(torch.equal(tensor, ours[key]) for key, tensor in theirs_saved.items())
    with torch.no_grad():
        close(dyt.merge(model)(x), theirs.merge_and_unload()(x), atol=1e-5, rtol=1e-5)


def test_the_classifier_of_the_folder_replaces_the_backbone_s(folder: Path) -> None:
    backbone = CASE.backbone()
    backbone.reset_classifier(9)
    model = dyt.from_peft(folder, backbone=backbone)
    assert model(CASE.images()).shape == (2, 5)
    assert model.spec.head.num_classes == 5
    assert {name for name, p in model.named_parameters() if p.requires_grad} >= {"backbone.head.weight"}


NEUTRAL = {"bias": "none", "init_lora_weights": True, "fan_in_fan_out": False}


@pytest.mark.parametrize("name", [field.name for field in fields(peft.LoraConfig)])
def test_every_field_of_peft_s_config_is_used_or_refused(name: str, folder: Path) -> None:
    """Those that a PEFT of tomorrow adds as well: what is not known is refused unless it is off."""
    if name in USED | SHOWN_BY_TENSORS | OF_ELSEWHERE | WITHOUT_EFFECT or name == "runtime_config":
        return
    for value in ("pissa", {"a": 1}, [1], 2):
        said(folder, **{name: value})
        with pytest.raises(dyt.CheckpointError, match=f"sets {name} to .*, which dyt's tuner lora does not have"):
            read_config(folder / CONFIG)
    said(folder, **{name: NEUTRAL.get(name)})
    read_config(folder / CONFIG)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "rank-stabilised": ({"use_rslora": True}, "sets use_rslora to True, which dyt's tuner lora does not have; allowed"),
    "dora": ({"use_dora": True}, "sets use_dora to True"),
    "ranks": ({"rank_pattern": {"blocks.0": 8}}, "sets rank_pattern to {'blocks.0': 8}"),
    "alphas": ({"alpha_pattern": {"blocks.0": 8}}, "sets alpha_pattern"),
    "biases": ({"bias": "all"}, "sets bias to 'all', which dyt's tuner lora does not have; allowed: 'none'"),
    "layers": ({"layers_to_transform": [0]}, "sets layers_to_transform to [0]"),
    "another start": ({"init_lora_weights": "pissa"}, "init_lora_weights to 'pissa'"),
    "transposed": ({"fan_in_fan_out": True}, "sets fan_in_fan_out"),
    "a field of tomorrow": ({"use_xlora": {"a": 1}}, "sets use_xlora"),
    "a long name": ({"x" * 9999: 1}, "sets xxx"),
    "another method": ({"peft_type": "VERA"}, "is of peft_type 'VERA'; from_peft reads LORA"),
    "no rank": ({"r": None}, "tuner.rank"),
    "a rank of text": ({"r": "4"}, "tuner.rank"),
    "a huge rank": ({"r": 10**9}, "tuner.rank"),
    "another rank": ({"r": 5}, "of another shape"),
    "an endless alpha": ({"lora_alpha": 1e999}, "no number here"),
    "an alpha of nothing": ({"lora_alpha": 0}, "tuner.alpha"),
    "a dropout of one": ({"lora_dropout": 1.0}, "tuner.dropout"),
    "modules by number": ({"modules_to_save": [1]}, "modules_to_save [1]; allowed: null, or a list"),
    "too many modules": ({"modules_to_save": ["a"] * 1001}, "a list of up to 1000 names"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_tuner_does_not_have_is_refused_by_name(name: str, folder: Path) -> None:
    changes, words = REFUSED[name]
    said(folder, **changes)
    refused(folder, words)


def refused(folder: Path, words: str) -> None:
    """One bounded line; nothing but the folder's two files is read, and the backbone is as it was."""
    backbone = CASE.backbone()
    modules, state = list(backbone.modules()), copy.deepcopy(backbone.state_dict())
    with guarded(folder / CONFIG, folder / TENSORS), pytest.raises(dyt.CheckpointError) as caught:
        dyt.from_peft(folder, backbone=backbone)
    message = str(caught.value)
    assert words in message
    assert message.isprintable()
    assert len(message) <= 700 + len(str(folder))
    assert all(a is b for a, b in zip(modules, backbone.modules(), strict=True))
    assert all(torch.equal(state[key], tensor) for key, tensor in backbone.state_dict().items())


A, B = (f"base_model.model.blocks.{i}.attn.qkv.lora_A.weight" for i in (0, 1))
NAMES: dict[str, tuple[dict[str, Any], str]] = {
    "a missing matrix": ({B.replace("_A", "_B"): None}, "1 missing (tuner.blocks.1.attn.qkv.lora_B.weight)"),
    "a missing layer": ({B: None, B.replace("_A", "_B"): None}, "'attn.qkv' in blocks.0 and not in blocks.1"),
    "a missing bias": ({"base_model.model.head.bias": None}, "1 missing (backbone.head.bias)"),
    "a wrong shape": ({A: torch.zeros(4, 31)}, "1 of another shape (tuner.blocks.0.attn.qkv.lora_A.weight)"),
    "a scalar head": ({"base_model.model.head.weight": torch.zeros(())}, "of another shape"),
    "a wrong dtype": ({A: torch.zeros(4, 32, dtype=torch.float64)}, "is torch.float64, not torch.float32"),
    "a stranger": ({"base_model.model.blocks.0.x": torch.zeros(1)}, "'base_model.model.blocks.0.x', which is no part"),
    "no prefix": ({"blocks.0.x": torch.zeros(1)}, "which is none of PEFT's"),
    "a magnitude": (
        {A.replace("lora_A.weight", "lora_magnitude_vector"): torch.zeros(96)},
        "lora_magnitude_vector', which is no part of LoRA",
    ),
    "an unnamed module": ({"base_model.model.norm.weight": torch.zeros(32)}, "of a module that its modules_to_save"),
    "outside of blocks": (
        {f"base_model.model.patch_embed.proj.lora_{part}.weight": torch.zeros(4, 4) for part in "AB"},
        "adapts 'patch_embed.proj', which is in no block",
    ),
    "a NaN": ({A: torch.full((4, 32), torch.nan)}, "has infinities or NaNs in base_model.model.blocks.0.attn.qkv"),
    "no layer at all": (dict.fromkeys(x.replace("_A", f"_{y}") for x in (A, B) for y in "AB"), "no low-rank update"),
}


@pytest.mark.parametrize("name", NAMES)
def test_tensors_that_do_not_fit_are_refused_by_name(name: str, folder: Path) -> None:
    changes, words = NAMES[name]
    tensors = {k: v for k, v in (load_file(folder / TENSORS) | changes).items() if v is not None}
    save_file(tensors, folder / TENSORS)
    refused(folder, words)


TEXTS = {
    "nothing": ("", "its JSON cannot be used"),
    "a list": ("[]", "is no JSON object"),
    "deep": ('{"r":' + "[" * 5000 + "]" * 5000 + "}", "nested"),
    "long": (" " * (1 << 20) + "{}", "has more than 1048576 bytes"),
    "no text": (b"\xff\xfe\x00", "is no text in UTF-8"),
    "escapes": ('{"peft_type": "\x7f\\u001b[31m"}', "is of peft_type"),
    "without rank": ('{"peft_type": "LORA"}', "has no lora_alpha"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_config_that_is_none(name: str, folder: Path) -> None:
    text, words = TEXTS[name]
    (folder / CONFIG).write_bytes(text if isinstance(text, bytes) else text.encode())
    refused(folder, words)


def test_nothing_that_a_folder_names_is_opened(folder: Path) -> None:
    said(
        folder,
        base_model_name_or_path="/etc/passwd",
        auto_mapping={"base_model_class": "system", "parent_library": "os"},
        revision="http://127.0.0.1:9/x",
        target_modules="(a+)+" * 20 + "$",  # which would not end
        peft_version="\x1b",
    )
    with guarded(folder / CONFIG, folder / TENSORS):
        model = dyt.from_peft(folder, backbone=CASE.backbone())
    assert "passwd" not in model.spec.model_dump_json()


def test_folders_and_backbones_that_are_none(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    with pytest.raises(dyt.CheckpointError, match=r"no file 'adapter_config\.json' in folder"):
        dyt.from_peft(other, backbone=CASE.backbone())
    (other / CONFIG).write_bytes((folder / CONFIG).read_bytes())
    torch.save({}, other / "adapter_model.bin")
    with pytest.raises(dyt.CheckpointError, match=r"its 'adapter_model\.bin' is a pickle, which is not read"):
        dyt.from_peft(other, backbone=CASE.backbone())
    for given in (other / "absent", other / CONFIG, "\0"):
        with pytest.raises(dyt.CheckpointError, match="no folder"):
            dyt.from_peft(given, backbone=CASE.backbone())
    with pytest.raises(dyt.CheckpointError, match="takes a folder, not 3"):
        dyt.from_peft(3, backbone=CASE.backbone())  # type: ignore[arg-type]
    with pytest.raises(dyt.CheckpointError, match="already dynamic"):
        dyt.from_peft(folder, backbone=lora())
    with pytest.raises(dyt.CheckpointError, match="not a plain timm model"):
        dyt.from_peft(folder, backbone=nn.Linear(2, 2))
    (folder / TENSORS).write_bytes((folder / TENSORS).read_bytes()[:-9])
    refused(folder, "is not a safetensors file, or is cut off")


def test_nonfinite_tensors_load_on_request(folder: Path) -> None:
    tensors = load_file(folder / TENSORS)
    tensors[A][0, 0] = torch.inf
    save_file(tensors, folder / TENSORS)
    refused(folder, "from_peft(..., allow_nonfinite=True) loads it all the same")
    model = dyt.from_peft(folder, CASE.backbone(), allow_nonfinite=True)
    assert sum(int((~t.isfinite()).sum()) for t in model.state_dict().values()) == 1


def test_models_of_transformers_are_left_to_peft_itself(folder: Path, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    plain = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=8, num_labels=5))
    with pytest.raises(dyt.CheckpointError, match="takes a timm model, not one of transformers"):
        dyt.from_peft(folder, backbone=plain)
    blocks = dyt.build({"head": {"num_classes": 5}}, backbone=copy.deepcopy(plain)).backbone
    layer = next(name for name, _ in blocks.named_modules() if name.endswith(("query", "q_proj")))
    target = layer.partition("layer.0.")[2] or layer.partition("layers.0.")[2]
    model = lora(plain, tuner={"type": "lora", "targets": [target]})
    with pytest.raises(dyt.UnsupportedError, match="stands on a model of transformers, whose layers PEFT calls other"):
        dyt.to_peft(model, tmp_path / "a")
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        close(dyt.merge(model)(x), model(x), atol=1e-5, rtol=1e-5)
