"""Stored keys and the file itself. (Law 7 has what loads and what is refused.)"""

import json
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import dyt
from dyt.io import checkpoint, tensor_file
from dyt.io.checkpoint import fingerprint, plain_state
from laws.models import tiny


def test_the_stored_keys_are_a_format() -> None:
    site = {"threshold", "dispatcher.router.weight", "dispatcher.router.bias"}
    site |= {f"adapter.{part}.{kind}" for part in ("down", "up") for kind in ("weight", "bias")}
    expected = {f"sites.blocks.{i}.mlp.{name}" for i in range(2) for name in site}
    assert set(checkpoint.stored(tiny())) == expected | {"backbone.head.weight", "backbone.head.bias"}


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    model, path = tiny(), tmp_path / "a.safetensors"
    dyt.save(model, path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {"format", "version", "spec", "backbone_sha256", "resizable", "sha256"}
    assert (metadata["format"], metadata["version"]) == ("dyt", "1")
    assert json.loads(metadata["spec"]) == model.spec.model_dump(mode="json")
    assert metadata["backbone_sha256"] == fingerprint(model.backbone)
    assert stat.S_IMODE(path.stat().st_mode) & 0o600 == 0o600


def test_the_fingerprint_sees_everything_but_the_head_and_ours() -> None:
    model = tiny()
    before = fingerprint(model.backbone)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(1)
    assert fingerprint(model.backbone) == before
    frozen = {k: v for k, v in plain_state(model.backbone).items() if not k.startswith("head.")}
    for tensor in frozen.values():
        flat = tensor.data.view(-1)
        kept = flat[-1].clone()
        flat[-1] += 1
        assert fingerprint(model.backbone) != before
        flat[-1] = kept
    assert fingerprint(model.backbone) == before


def test_saving_replaces_the_file_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = tiny(), tmp_path / "a.safetensors"
    dyt.save(model, path)
    before = path.read_bytes()

    def interrupted(tensors: object, file: str, metadata: object) -> None:
        Path(file).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_file, "save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        dyt.save(model, path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_no_directory_to_save_in(tmp_path: Path) -> None:
    with pytest.raises(dyt.CheckpointError, match=r"no directory '.*absent'"):
        dyt.save(tiny(), tmp_path / "absent" / "a.safetensors")


def test_saving_leaves_the_model_alone(tmp_path: Path) -> None:
    model = tiny().train()
    tensors, grads = (
        [id(t) for t in model.state_dict(keep_vars=True).values()],
        [p.requires_grad for p in model.parameters()],
    )
    dyt.save(model, tmp_path / "a.safetensors")
    assert [id(t) for t in model.state_dict(keep_vars=True).values()] == tensors
    assert [p.requires_grad for p in model.parameters()] == grads
    assert model.training
