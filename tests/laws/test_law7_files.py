"""Law 7: a saved file loads into an equal model, or is refused whole; the given backbone is then as it was."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

import dyt
from dyt.io.checkpoint import CHECKSUM, checksum
from dyt.model.block import DynamicBlock
from dyt.testing import laws
from laws.models import TINY, Case, shaken, spec, tiny, tiny_backbone
from laws.strategies import cases, chosen, names, parts_of

CASE = Case(TINY, (32, 32), 2, 0)


def tensors_and_metadata(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118


def refused(path: Path, backbone: nn.Module | None = None) -> str:
    """The message that refuses the file; the given backbone must be what it was."""
    backbone = CASE.backbone() if backbone is None else backbone
    before, modules, grads = copy.deepcopy(backbone.state_dict()), list(backbone.modules()), requires_grad(backbone)
    with pytest.raises(dyt.CheckpointError) as caught:
        dyt.load(path, backbone=backbone)
    after = backbone.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert [id(module) for module in backbone.modules()] == [id(module) for module in modules]
    assert requires_grad(backbone) == grads
    assert not any(isinstance(module, DynamicBlock) for module in backbone.modules())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def requires_grad(module: nn.Module) -> list[bool]:
    return [parameter.requires_grad for parameter in module.parameters()]


@pytest.mark.parametrize("dispatcher", names("dispatchers"))
@pytest.mark.parametrize("variant", names("variants"))
@settings(max_examples=8)
@given(data=st.data(), full=st.booleans(), other_head=st.sampled_from([None, 0, 9]))
def test_a_file_loads_into_an_equal_model(
    dispatcher: str, variant: str, data: st.DataObject, full: bool, other_head: int | None
) -> None:
    case = data.draw(cases(dispatcher=dispatcher))
    picked = data.draw(chosen(variant=variant, dispatcher=dispatcher)) | {"trainable": "full" if full else "adapters"}
    parts = parts_of(case.backbone())
    listed = [] if full else data.draw(parts, label="modules_to_save")
    laws.file_loads_equal(
        case,
        picked | {"modules_to_save": listed},
        other_head,
        data.draw(parts, label="trained though the spec does not say so"),
        data.draw(st.sampled_from([None, True]), label="whole"),
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("law7") / "a.safetensors"
    dyt.save(shaken(dyt.build(spec(adapter={"type": "bottleneck", "dim": 4}), backbone=CASE.backbone())), path)
    return path.read_bytes()


def with_bytes(content: bytes, check: Callable[[Path], Any]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        path.write_bytes(content)
        check(path)


@settings(max_examples=60)
@given(position=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), header=st.booleans())
def test_a_flipped_bit_is_noticed(saved: bytes, position: float, bit: int, header: bool) -> None:
    size = int.from_bytes(saved[:8], "little") + 8 if header else len(saved)
    damaged = bytearray(saved)
    damaged[int(position * size)] ^= 1 << bit
    with_bytes(bytes(damaged), refused)


@settings(max_examples=30)
@given(length=st.floats(0, 1, exclude_max=True), tail=st.binary(max_size=20))
def test_a_cut_off_or_overwritten_file_is_refused(saved: bytes, length: float, tail: bytes) -> None:
    content = saved[: int(length * len(saved))] + tail
    if content != saved:
        with_bytes(content, refused)


def test_a_longer_file_is_refused(saved: bytes) -> None:
    with_bytes(saved + b"\0", refused)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t, m: t.pop("sites.blocks.1.mlp.adapter.up.bias"), "1 missing (sites.blocks.1.mlp.adapter.up.bias)"),
        (lambda t, m: t.pop("backbone.head.weight"), "1 missing (backbone.head.weight)"),
        (lambda t, m: t.pop("sites.blocks.0.mlp.threshold"), "1 missing (sites.blocks.0.mlp.threshold)"),
        (lambda t, m: t.update({"sites.blocks.2.mlp.threshold": torch.zeros(())}), "1 unknown (sites.blocks.2.mlp"),
        (lambda t, m: t.update({"backbone.cls_token": torch.zeros(1, 1, 32)}), "1 unknown (backbone.cls_token)"),
        (lambda t, m: t.update({"backbone.head.bias": torch.zeros(6)}), "1 of another shape (backbone.head.bias)"),
        (
            lambda t, m: t.update({"backbone.head.bias": torch.zeros(5).double()}),
            "head.bias is torch.float64, not torch.float32",
        ),
        (lambda t, m: m.update(backbone_sha256="0" * 64), "another backbone"),
        (lambda t, m: m.pop("backbone_sha256"), "another backbone"),
        (lambda t, m: m.pop("spec"), "its spec cannot be used"),
        (lambda t, m: m.update(spec="{"), "its spec cannot be used"),
        (lambda t, m: m.update(spec="[" * 100_000), "its spec cannot be used"),
        (lambda t, m: m.update(spec="{}" + " " * 3), "does not fit its spec"),
        (lambda t, m: m.update(spec=json.dumps({"adapter": "bottelneck"})), "did you mean 'bottleneck'?"),
        (lambda t, m: m.update(version="2"), "has format version 2, this dyt reads 1; upgrade dyt"),
        (lambda t, m: m.update(format="other"), "was not written by dyt.save"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_with_the_reason(
    saved: bytes, tmp_path: Path, change: Callable[[Any, Any], Any], words: str
) -> None:
    """Each with a right checksum: not damaged, but made by something else."""
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved)
    tensors, metadata = tensors_and_metadata(path)
    change(tensors, metadata)
    save_file(tensors, path, metadata | {CHECKSUM: checksum(tensors, metadata)})
    assert words in refused(path)


def test_another_backbone_is_refused(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved)
    other = CASE.backbone()
    with torch.no_grad():
        other.blocks[1].mlp.fc2.bias[3] += 1e-6
    assert "another backbone" in refused(path, other)
    assert "another backbone" in refused(path, Case(TINY | {"depth": 1}, (32, 32), 1, 0).backbone())
    assert "another backbone" in refused(path, CASE.backbone().bfloat16())
    assert "Linear" in refused(path, nn.Linear(2, 2))
    with pytest.raises(dyt.CheckpointError, match="DynamicModel, is already dynamic"):
        dyt.load(path, backbone=dyt.build(spec(), backbone=CASE.backbone()))


def test_random_weights_without_a_backbone_are_refused(saved: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(saved)
    with pytest.raises(dyt.CheckpointError, match=r"give load\(..., backbone=\)"):
        dyt.load(path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fully_trained_model_needs_no_backbone(tmp_path: Path, dtype: torch.dtype) -> None:
    model = tiny(trainable="full").to(dtype)
    dyt.save(model, tmp_path / "full.safetensors")
    again = dyt.load(tmp_path / "full.safetensors")
    x = CASE.images().to(dtype)
    with torch.no_grad():
        assert torch.equal(again(x), model(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backbone_from_a_file_is_found_again(tmp_path: Path, dtype: torch.dtype) -> None:
    weights = tmp_path / "backbone.safetensors"
    plain = Case(TINY, (32, 32), 1, 3).backbone()
    save_file(plain.state_dict(), weights)
    model = shaken(dyt.build(spec(backbone=tiny_backbone() | {"weights": str(weights)}))).to(dtype)
    dyt.save(model, tmp_path / "a.safetensors")
    x = CASE.images().to(dtype)
    with torch.no_grad():
        assert torch.equal(dyt.load(tmp_path / "a.safetensors", weights=weights)(x), model(x))
        assert torch.equal(dyt.load(tmp_path / "a.safetensors", trust_paths=[weights])(x), model(x))
    save_file(plain.state_dict() | {"cls_token": torch.zeros(1, 1, 32)}, weights)
    with pytest.raises(dyt.CheckpointError, match="another backbone"):
        dyt.load(tmp_path / "a.safetensors", weights=weights)
    weights.unlink()
    for there in ({"weights": weights}, {"trust_paths": True}):
        with pytest.raises(dyt.WeightsError, match="no file"):
            dyt.load(tmp_path / "a.safetensors", **there)
    with pytest.raises(
        dyt.CheckpointError, match=rf"names '{weights}'.*weights=.*--weights.*backbone=.*trust_paths=True"
    ):
        dyt.load(tmp_path / "a.safetensors")


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    torch.save({"a": torch.zeros(1), "b": print}, path)
    assert "not a safetensors file" in refused(path)
    assert "no file" in refused(tmp_path / "absent.safetensors")
    save_file({"a": torch.zeros(1)}, path)
    assert "was not written by dyt.save" in refused(path)
