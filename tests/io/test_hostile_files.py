"""A hostile file is one clear CheckpointError: nothing runs, and nothing else is read, written, fetched or made."""

import json
import os
import pickle
import runpy
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import DATA, FETCHES, FILES, VALUES, changed, sound
from PIL import Image
from typer.testing import CliRunner

import dyt
from commands import APP, said
from dyt.io import kept
from dyt.tasks.layouts import DataError
from guard import guarded

ATTACK: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "attack_files.py"))
WORDS = {
    "an address in pretrained_cfg": "'pretrained_cfg' is not an argument here",
    "a folder to fetch into": "'cache_dir' is not an argument here",
    "a repository": "'hf-hub:stranger/model', which is no name of a timm model; give load(..., backbone=)",
    "weights from the environment": "names '/proc/self/environ' as the file of its backbone's weights, which is not",
    "weights that are not there": "names '/no/such/file' as the file of its backbone's weights, which is not opened",
    "a path for a module": "names '/etc/passwd' in its modules_to_save",
    "a class for a block": "sets backbone.args.block_fn, which is no plain value of a vit_tiny_patch16_224; allowed",
    "a call for a layer": "sets backbone.args.norm_layer to __import__",
    "escapes in a name": r"'\x1b[31mred line'",
    "a wide adapter": "adapter.dim: Input should be less than or equal to",
    "a million experts": "adapter.experts: Input should be less than or equal to",
    "a backbone of 400 layers": "backbone.args.depth makes 400 layers, and the file has",
    "a wide frozen layer": "its backbone takes",
    "a layer that is not there": "variant.layers: no block 99",
    "a nested break-even": "its break_even cannot be used: it is nested too deep",
    "a deep break-even": "nested deeper than 32 levels",
    "a break-even of no site": "has a break-even of 'blocks.7.mlp', which is no site of its model",
    "labels with escapes": r"a name with control characters: '\x1b]0;owned\x07'",
    "a weight that is NaN": "has infinities or NaNs in backbone.head.weight",
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = sound(tmp_path_factory.mktemp("files") / "sound.safetensors")
    dyt.load(path)  # imports what a first load imports
    return path


@pytest.fixture(scope="module")
def picture(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "a.png"
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)
    said("predict", str(base), str(path))  # imports what a first one imports
    return path


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = changed(base, tmp_path / "a.safetensors", FILES[name])
    monkeypatch.setattr(kept, "create", None)  # no backbone with memory is made, and no weights are asked for
    with guarded(path), pytest.raises(dyt.CheckpointError) as caught:
        dyt.load(path)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) <= 700 + len(str(path))
    assert WORDS.get(name, "") in message


@pytest.mark.parametrize("name", [*FETCHES, "a wide adapter", "a nested break-even", "labels with escapes"])
def test_predict_refuses_it_as_well(base: Path, tmp_path: Path, picture: Path, name: str) -> None:
    path = changed(base, tmp_path / "a.safetensors", FILES[name])
    with guarded(path, picture, written=[tmp_path / "out"]):
        done = CliRunner().invoke(APP, ["predict", str(path), str(picture), "--out", str(tmp_path / "out")])
    assert type(done.exception) is dyt.CheckpointError
    assert done.stdout == ""


def test_a_sound_file_loads_and_predicts_under_the_guard(base: Path, tmp_path: Path, picture: Path) -> None:
    labels = {"label_names": list("abcde"), "data": {"task": "classification", "test": "test"}}
    path = changed(
        base, tmp_path / "a.safetensors", lambda spec, meta, t: meta.update(data_config=json.dumps(DATA | labels))
    )
    with guarded(path, picture):
        assert len(dyt.load(path).sites) == 2
        assert str(picture) in said("predict", str(path), str(picture))


@pytest.mark.parametrize("place", ["/etc/passwd", "../up", "~/mine", "a\\b", "http://a"])
def test_data_outside_of_its_directory_is_not_opened(base: Path, tmp_path: Path, picture: Path, place: str) -> None:
    """It says what the model was trained on, and is no reason not to predict."""
    said_of = {**DATA, "data": {"task": "classification", "test": place}}
    path = changed(base, tmp_path / "a.safetensors", lambda spec, meta, t: meta.update(data_config=json.dumps(said_of)))
    with guarded(path, picture):
        assert str(picture) in said("predict", str(path), str(picture))
    with guarded(path), pytest.raises(dyt.CheckpointError, match=r"says that its test is '.*not opened.*--trust-paths"):
        said("eval", str(path), "--data", str(tmp_path))
    with pytest.raises(DataError):  # opened, and found to be no data
        said("eval", str(path), "--data", str(tmp_path), "--trust-paths")


@pytest.mark.parametrize("name", VALUES)
def test_nonfinite_tensors_load_on_request(base: Path, tmp_path: Path, name: str) -> None:
    path = changed(base, tmp_path / "a.safetensors", VALUES[name])
    model = dyt.load(path, allow_nonfinite=True)
    assert sum(int((~t.isfinite()).sum()) for t in model.state_dict().values()) == 1


def test_what_the_file_names_may_be_trusted(base: Path, tmp_path: Path) -> None:
    """Refused as what it is, then: the named files are opened."""
    path = changed(base, tmp_path / "a.safetensors", FETCHES["weights that are not there"])
    for trusted in (True, ["/no/such/file"], "/no/such/file"):
        with pytest.raises(dyt.WeightsError, match="no file '/no/such/file'"):
            dyt.load(path, trust_paths=trusted)
    with pytest.raises(dyt.CheckpointError, match="not opened on a file's word"):
        dyt.load(path, trust_paths=["/no/such"])
    path = changed(base, tmp_path / "b.safetensors", FETCHES["a folder with a model"])
    with pytest.raises(dyt.CheckpointError, match=r"/etc/config.json"):
        dyt.load(path, trust_paths=True)


def test_a_given_backbone_makes_a_path_of_weights_unread(base: Path, tmp_path: Path) -> None:
    path = changed(base, tmp_path / "a.safetensors", FETCHES["weights that are not there"])
    with guarded(path), pytest.raises(dyt.CheckpointError, match="another backbone"):  # it has no fingerprint
        dyt.load(path, backbone=dyt.unwrap(dyt.load(base)))


def test_the_guard_notices(tmp_path: Path) -> None:
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_text("a")
    other.write_text("b")
    unheard = socket.socket()
    deeds = {
        "read": other.read_text,
        "write": lambda: (tmp_path / "new").write_text("c"),
        "os.remove": other.unlink,
        "os.mkdir": (tmp_path / "folder").mkdir,
        "socket.connect": lambda: unheard.connect(("127.0.0.1", 9)),
        "socket.getaddrinfo": lambda: socket.getaddrinfo("127.0.0.1", 9),
        "subprocess.Popen": lambda: subprocess.run(["true"], check=True),
        "pickle.find_class": lambda: pickle.loads(pickle.dumps(print)),
        "os.system": lambda: os.system("true"),
    }
    for event, deed in deeds.items():
        with pytest.raises(AssertionError, match=event), guarded(mine), suppress(OSError):  # nobody listens there
            deed()
    unheard.close()
    with guarded(mine):
        assert mine.read_text() == "a"
        assert dyt.presets()


@pytest.mark.parametrize("folder", ["/proc/self/environ", "/etc/passwd"])
def test_the_guard_notices_the_system(folder: str) -> None:
    with pytest.raises(AssertionError, match=f"read {folder}"), guarded():
        Path(folder).read_bytes()


def test_changed_bytes_are_refused_or_change_nothing(base: Path, request: pytest.FixtureRequest) -> None:
    count = 2000 if request.config.getoption("--full") else 100
    found = ATTACK["attacked"](base, ATTACK["byte_mutants"](base.read_bytes(), count, seed=1))
    assert (found.mutations, found.wrong, found.foreign) == (count, 0, 0), found.examples
    assert found.refused > 0.9 * count


def test_changed_words_are_refused_or_loaded_as_they_are(base: Path, request: pytest.FixtureRequest) -> None:
    count = 400 if request.config.getoption("--full") else 10
    found = ATTACK["attacked"](base, ATTACK["word_mutants"](base, count, seed=2))
    assert (found.mutations, found.wrong, found.foreign) == (count, 0, 0), found.examples
    assert found.refused > 0


def test_the_attack_counts_what_it_finds(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content, names = base.read_bytes(), ATTACK["attacked"].__globals__
    same = ATTACK["attacked"](base, [content, content[:-1]])
    assert (same.refused, same.equal, same.wrong, same.foreign) == (1, 1, 0, 0)

    def other(path: Path) -> dyt.DynamicModel:
        model = dyt.load(path)
        with torch.no_grad():
            model.sites[0].threshold.add_(1)
        return model

    def broken(path: Path) -> dyt.DynamicModel:
        raise KeyError("x")

    for load, kind in ((other, "wrong"), (broken, "foreign")):
        monkeypatch.setitem(names, "load", load)
        found = ATTACK["attacked"](base, [content])
        assert getattr(found, kind) == 1
        assert len(found.examples) == 1
    rows = ATTACK["table"]({"bytes": same})
    assert rows[-1].split("|")[1:7] == [" bytes ", " 2 ", " 1 ", " 1 ", " 0 ", " 0 "]
