"""`dyt.to_peft`: PEFT loads what is written, with the same logits and bits, or it is refused what PEFT cannot hold."""

from __future__ import annotations

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from peft_models import CONFIG, TENSORS, lora
from safetensors.torch import load_file

import dyt

peft = pytest.importorskip("peft")
close = torch.testing.assert_close

SMALL = {"img_size": 32, "num_classes": 5}
NAMED: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {**SMALL, "depth": 2, "embed_dim": 24}, {"modules_to_save": ["norm"]}),
    "distilled": ("deit_tiny_distilled_patch16_224", {**SMALL, "depth": 2, "embed_dim": 24}, {}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {**SMALL, "window_size": 2, "depths": (1, 1), "embed_dim": 12, "num_heads": (2, 2)},
        {"tuner": {"type": "lora", "rank": 2, "targets": ["attn.qkv", "mlp.fc2"]}},
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_peft_loads_what_is_written(name: str, tmp_path: Path) -> None:
    timm_name, args, changes = NAMED[name]
    torch.manual_seed(0)
    plain = timm.create_model(timm_name, **args).eval()
    model, x = lora(copy.deepcopy(plain), **changes), torch.randn(2, 3, 32, 32)
    dyt.to_peft(model, tmp_path / "new" / "folder")
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(plain), tmp_path / "new" / "folder").eval()
    again = dyt.from_peft(tmp_path / "new" / "folder", backbone=copy.deepcopy(plain))
    with torch.no_grad():
        assert not torch.allclose(plain(x), model(x), atol=1e-3)
        close(loaded(x), model(x), atol=1e-5, rtol=1e-5)
        assert torch.equal(again(x), model(x))
    assert again.spec.tuner == model.spec.tuner or model.spec.tuner.alpha is None
    assert again.spec.modules_to_save == model.spec.modules_to_save
    kept = {k.replace(".default", ""): v for k, v in loaded.state_dict().items()}
    for key, tensor in load_file(tmp_path / "new" / "folder" / TENSORS).items():
        parent, _, leaf = key.rpartition(".")
        assert torch.equal(kept[key] if key in kept else kept[f"{parent}.modules_to_save.{leaf}"], tensor)


def test_it_is_written_alike_each_time(tmp_path: Path) -> None:
    dyt.to_peft(lora(), tmp_path / "a")
    dyt.to_peft(lora(), tmp_path / "b")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [CONFIG, TENSORS]
    for name in (CONFIG, TENSORS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    config = json.loads((tmp_path / "a" / CONFIG).read_text())
    assert config["base_model_name_or_path"] is None
    assert (config["r"], config["lora_alpha"]) == (2, 3)
    assert config["target_modules"] == ["blocks.0.attn.qkv", "blocks.1.attn.qkv"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dispatcher": "learned", "adapter": "bottleneck"}, "dispatcher 'learned' may skip tokens; adapter 'bottlen"),
        ({"tuner": "vpt"}, "its tuner is 'vpt', not 'lora', which PEFT's LoRA cannot hold; dyt.save_pretrained keeps"),
        ({"tuner": None}, "its tuner is none, not 'lora'"),
        ({"reducer": "tome"}, "reducer 'tome' takes tokens out"),
        ({"modules_to_save": ["cls_token"]}, "cls_token"),
        ({"modules_to_save": ["blocks.1"]}, "PEFT trains no 'blocks.1.attn.qkv.lora_A.weight' beside its adapted"),
    ],
)
def test_what_peft_cannot_hold_is_refused_by_name(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(dyt.UnsupportedError) as caught:
        dyt.to_peft(lora(**changes), tmp_path / "a")
    assert words in str(caught.value)
    assert str(caught.value).startswith("to_peft is not available for this model: ")
    assert not (tmp_path / "a").exists()


def test_what_was_done_to_the_model_past_its_spec_is_refused(tmp_path: Path) -> None:
    model = lora()
    with torch.no_grad():
        model.backbone.norm.weight.add_(1)
    scaled, merged, off = lora(), lora(), lora()
    scaled.backbone.blocks[0].attn.qkv.set_scale("default", 2)
    merged.backbone.blocks[1].attn.qkv.merge()
    off.backbone.blocks[1].attn.qkv.enable_adapters(False)
    cases = {
        "'norm.weight' of its backbone was trained or changed by hand": model,
        "the update of 'blocks.0.attn.qkv' is scaled by another factor": scaled,
        "the update of 'blocks.1.attn.qkv' was merged by hand": merged,
        "the update of 'blocks.1.attn.qkv' is off": off,
    }
    for words, each in cases.items():
        with pytest.raises(dyt.UnsupportedError, match=words):
            dyt.to_peft(each, tmp_path / "a")
        if each is not model:  # whose changed tensor would be in the file
            with pytest.raises(dyt.CheckpointError, match=f"cannot save this model .*{words}"):
                dyt.save(each, tmp_path / "a.safetensors", whole=True)
    (tmp_path / "file").touch()
    with pytest.raises(dyt.CheckpointError, match=r"no folder '.*file' can be made"):
        dyt.to_peft(lora(), tmp_path / "file")
    with pytest.raises(dyt.UnsupportedError, match="rewritten for inference or taken apart"):
        dyt.to_peft(dyt.optimize(lora()), tmp_path / "a")


def test_an_unwrapped_backbone_is_plain_to_peft() -> None:
    backbone = dyt.unwrap(lora())
    assert not hasattr(backbone, "peft_config")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        peft.get_peft_model(backbone, peft.LoraConfig(target_modules=["qkv"]))
