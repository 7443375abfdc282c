"""A damaged resume checkpoint is refused, whatever is wrong with it: the small form of `scripts/attack_runs.py`."""

import json
import random
import runpy
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dyt.io import tensor_file
from dyt.model.origin import CHECKSUM, checksum
from dyt.train import RunError, fit, loop
from dyt.train.keeper import Keeper
from dyt.train.nested import put_together, taken_apart
from dyt.train.resume import read_state
from dyt.train.state import CHECKPOINT, RunDir

from .conftest import Runs, short_run
from .test_resume import interrupted, outcome

ATTACK = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "attack_runs.py"))
Restore = Callable[[], Any]


@pytest.fixture(scope="module")
def stopped(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Keeper, Restore]:
    """A run stopped after step 4 of 6, its keeper, and a function that restores what lies in its directory."""
    out, made = tmp_path_factory.mktemp("stopped") / "out", list[tuple[Keeper, Any]]()

    class Watched(Keeper):
        def restored(self, *given: Any) -> Any:
            made.append((self, given))
            return super().restored(*given)

    run = short_run(images, weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "Keeper", Watched)
        interrupted(run, out, 4, signal.SIGINT, patch)
        interrupted(run, out, 1, signal.SIGINT, patch)  # its optimiser has the state of the first
    keeper, given = made[-1]
    return out, keeper, lambda: keeper.restored(*given)


@pytest.fixture
def directory(stopped: tuple[Path, Keeper, Restore], tmp_path: Path) -> Path:
    """The stopped run's directory, given back as it was afterwards."""
    return shutil.copytree(stopped[0], tmp_path / "copy")


def put_back(copy: Path, out: Path) -> None:
    shutil.copytree(copy, out, dirs_exist_ok=True)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", ATTACK["CHANGES"])
def test_a_wrong_field_under_a_right_checksum(
    stopped: tuple[Path, Keeper, Restore], directory: Path, kind: str
) -> None:
    out, _, restore = stopped
    ATTACK["changed"](directory / CHECKPOINT, out / CHECKPOINT, kind, random.Random(0))
    before = files(out)
    with pytest.raises(RunError) as caught:
        restore()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1200
    assert files(out) == before
    put_back(directory, out)


def test_damaged_bytes(stopped: tuple[Path, Keeper, Restore], directory: Path) -> None:
    """Of every kind, at places drawn from the whole file and from its head."""
    out, _, restore = stopped
    draw, content = random.Random(1), (directory / CHECKPOINT).read_bytes()
    seen = set()
    for _ in range(60):
        kind, bad = ATTACK["damaged"](content, draw)
        (out / CHECKPOINT).write_bytes(bad)
        seen.add(kind)
        with pytest.raises(RunError, match=r"resume\.safetensors'"):
            restore()
    assert seen == set(ATTACK["DAMAGES"])
    put_back(directory, out)
    assert restore().header.step == 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("step beyond the end", r"is at step 1000000 of 6, the run has 6; put back a copy of it, or give --fresh"),
        ("step negative", r"does not fit its schema \(step: Input should be greater than or equal to 0"),
        ("a field lost", r"does not fit its schema \(.*: Field required"),
        ("a row without loss", r"does not fit its schema \(loss: Field required"),
        ("a row's loss", r"line 1 of '.*metrics\.jsonl' is not what the run wrote; remove the file"),
        ("tensors of the model exchanged", r"is damaged: tensor 'model\..*' is not the one that was saved"),
        ("another weight decay", r"does not fit the optimizer of this run: weight_decay of group 0"),
        ("other processes", r"the number of processes was 2, is 1; put that back, or give --accept-changes"),
        ("another torch", r"torch was 1\.0\.0, is "),
    ],
)
def test_what_is_wrong_is_named(stopped: tuple[Path, Keeper, Restore], directory: Path, change: str, said: str) -> None:
    out, _, restore = stopped
    ATTACK["changed"](directory / CHECKPOINT, out / CHECKPOINT, change, random.Random(0))
    with pytest.raises(RunError, match=said):
        restore()
    put_back(directory, out)


def test_other_files_are_named(stopped: tuple[Path, Keeper, Restore], directory: Path) -> None:
    path = stopped[0] / CHECKPOINT
    with safe_open(directory / CHECKPOINT, "pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(directory / CHECKPOINT)
    for entries, said in (
        ({}, "is not a resume checkpoint"),
        ({**metadata, "version": "9"}, "has format version 9, this dyt reads 1; go on with the dyt that wrote it"),
        ({**metadata, "seen": "x"}, "is damaged: its checksum does not match"),
        ({k: v for k, v in metadata.items() if k != "header"}, "has no 'header'"),
        ({**metadata, "header": "{"}, "does not fit its schema"),
    ):
        if "seen" not in entries:
            entries[CHECKSUM] = checksum(tensors, entries)
        save_file(tensors, path, entries)
        with pytest.raises(RunError, match=said):
            read_state(path)
    put_back(directory, stopped[0])


def test_metrics_are_those_of_the_checkpoint(stopped: tuple[Path, Keeper, Restore], directory: Path) -> None:
    """Lines that are missing are written anew, those that are too many dropped, and another one is refused."""
    out, _, restore = stopped
    path, right = out / "metrics.jsonl", (directory / "metrics.jsonl").read_bytes()
    for found in (b"", right[:20], right + right, right + b'{"epoch": 2'):
        path.write_bytes(found)
        restore()
        assert path.read_bytes() == right
    path.unlink()
    restore()
    assert path.read_bytes() == right
    for found in (right.replace(b'"epoch": 1', b'"epoch": 2'), b"\xff\n", b"[" * 9000 + b"\n"):
        path.write_bytes(found)
        with pytest.raises(RunError, match="line 1 of"):
            restore()
    put_back(directory, out)


def test_a_checkpoint_of_an_earlier_dyt_says_what_to_do(runs: Runs, tmp_path: Path) -> None:
    torch.save({"step": 1}, tmp_path / "resume.pt")
    RunDir(tmp_path).become(runs(train={"epochs": 1}).with_classes(3))
    with pytest.raises(
        RunError, match=r"resume\.pt' is of dyt 0\.2 or before .* finish the run with that dyt, or give"
    ):
        fit(runs(train={"epochs": 1}), tmp_path, progress=False)
    fit(runs(train={"epochs": 1}), tmp_path, progress=False, resume=False)
    assert not (tmp_path / "resume.pt").exists()


def test_a_disk_that_is_full_leaves_the_last_checkpoint(
    runs: Runs, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same run goes on from it to the result of an unbroken one."""
    run, write, count = runs(), tensor_file.write, [0]

    def full(*args: Any) -> None:
        count[0] += 1
        if count[0] == 2:
            Path(args[2]).write_bytes(b"the beginning")
            raise OSError(28, "No space left on device")
        write(*args)

    with monkeypatch.context() as patch:
        patch.setattr(tensor_file, "write", full)
        with pytest.raises(RunError, match=r"step 6 is lost: cannot write .*No space.* step 3 of 6 is kept in"):
            fit(run, tmp_path / "out", progress=False)
    fit(run, tmp_path / "out", progress=False)
    assert outcome(tmp_path / "out") == outcome(unbroken)
    assert not list((tmp_path / "out").glob(".resume*"))


def test_nested_data_comes_back() -> None:
    given = {"a": [1, 2.5, None, True], 3: {"t": torch.ones(2), "d": torch.float16}, "pair": (1e-8, float("inf"))}
    tensors: dict[str, torch.Tensor] = {}
    plain = json.loads(json.dumps(taken_apart(given, "o", tensors)))
    assert list(tensors) == ["o.3.t"]
    found = put_together(plain, "o", dict(tensors))
    assert torch.equal(found[3].pop("t"), torch.ones(2))
    assert found == {"a": [1, 2.5, None, True], 3: {"d": torch.float16}, "pair": (1e-8, float("inf"))}
    with pytest.raises(ValueError, match=r"tensor 'o\.3\.t' as p\.3\.t"):
        put_together(plain, "p", dict(tensors))
    with pytest.raises(
        RunError.__mro__[1], match=r"o\.x is a set, which a run cannot save; use another train\.optimizer"
    ):
        taken_apart({"x": {1}}, "o", {})
