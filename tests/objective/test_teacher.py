"""Features of the pretrained teacher that were computed before are those that a step computes itself."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import dyt
from dyt.objective import teacher
from dyt.objective.teacher import TeacherFeatures, teacher_rows
from dyt.testing.cases import tiny

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(6) % 5
TAUGHT = {"features": 2.0, "teacher": "pretrained", "complete": 0.0, "distill": 0.0}
POOLED = {"args": {"global_pool": "avg", "class_token": False}}


def model(**changes: Any) -> dyt.DynamicModel:
    torch.manual_seed(0)
    made = tiny(**{"objective": TAUGHT, "adapter": {"type": "bottleneck", "dropout": 0.0}} | changes).train()
    for site in made.sites:
        torch.nn.init.normal_(site.adapter.up.weight, std=0.1)
    return made


def kept(made: dyt.DynamicModel, scratch: Path, batch: int = 4) -> TeacherFeatures:
    found: TeacherFeatures | None = None
    for first in range(0, len(IMAGES), batch):
        positions = range(first, min(first + batch, len(IMAGES)))
        rows = teacher_rows(made, IMAGES[first : first + batch])
        found = found or TeacherFeatures(len(IMAGES), rows, len(positions), scratch)
        found.put(positions, rows)
    assert found is not None
    return found


@pytest.mark.parametrize("large", [False, True], ids=["in memory", "in a file"])
@pytest.mark.parametrize("changes", [{}, POOLED], ids=["class token", "every patch"])
def test_a_step_with_kept_features_is_the_step(
    changes: dict[str, Any], large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if large:
        monkeypatch.setattr(teacher, "IN_MEMORY", 0)
    found = []
    order = [3, 0, 5, 1]
    for given in (False, True):
        made = model(**changes)
        step = dyt.TuningStep(made)
        rows = kept(made, tmp_path).rows(order, torch.device("cpu")) if given else None
        passes: list[int] = []
        made.backbone.patch_embed.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        torch.manual_seed(1)
        loss, parts = step(IMAGES[order], LABELS[order], teacher=rows)
        loss.backward()
        assert float(parts["features"].detach()) > 0.01
        found.append([loss.detach(), *(p.grad for p in made.parameters() if p.grad is not None)])
        assert len(passes) == 1 + (not given)
    for ours, wanted in zip(*found, strict=True):
        torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)
    assert not list(tmp_path.iterdir())  # the file has no name


def test_parts_take_their_own_kept_features(tmp_path: Path) -> None:
    found = []
    for given in (False, True):
        made = model()
        features, step, losses = kept(made, tmp_path), dyt.TuningStep(made), []
        rows = [
            features.rows(positions, torch.device("cpu")) if given else None for positions in ([0, 1, 2], [3, 4, 5])
        ]
        torch.manual_seed(1)
        parts = list(zip(IMAGES.chunk(2), LABELS.chunk(2), rows, strict=True))
        with step.accumulating([images for images, _, _ in parts], teachers=rows):
            for images, labels, each in parts:
                loss, _ = step(images, labels, teacher=each)
                (loss / 2).backward()
                losses.append(float(loss.detach()))
        found.append(losses)
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_no_room_is_said_in_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teacher, "IN_MEMORY", 0)
    with pytest.raises(dyt.DyTError, match=r"No such file or directory; make room, .* train.keep_teacher: false"):
        TeacherFeatures(3, [torch.zeros(2, 4)], 2, tmp_path / "nowhere")


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="this system reserves no room for a file")
def test_room_is_reserved_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a full disk would end the process, with SIGBUS, at a later write."""
    asked: list[int] = []

    def full(file: int, offset: int, length: int) -> None:
        asked.append(length)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(teacher, "IN_MEMORY", 0)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(dyt.DyTError, match="No space left on device; make room"):
        TeacherFeatures(3, [torch.zeros(2, 4)], 2, tmp_path)
    assert asked == [3 * 4 * 4]
    assert not list(tmp_path.iterdir())
