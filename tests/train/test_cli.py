"""`dyt train`, `dyt eval` and `dyt predict`, end to end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import dyt
from commands import said
from dyt.cli.bench import bench
from dyt.cli.main import app
from dyt.cli.train import run_spec
from dyt.config.files import dump_yaml
from dyt.errors import CheckpointError, DyTError, SpecError
from dyt.train import RunSpec, evaluation

from .conftest import ARGS, NAME, Runs


@pytest.fixture(scope="module")
def trained(images: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a run that the command line made."""
    out = tmp_path_factory.mktemp("cli") / "run"
    options = ["--data", str(images), "--backbone", NAME, "--weights", str(weights), "--out", str(out)]
    changes = [f"model.backbone.args={json.dumps(ARGS)}", "train.batch_size=8", "train.epochs=2", "data.workers=0"]
    output = said("train", *options, *(word for change in changes for word in ("--set", change)))
    assert "at inference" in output
    assert "blocks.1.mlp" in output
    return out


def test_eval_says_what_train_said(trained: Path) -> None:
    report = json.loads(said("eval", str(trained / "model.safetensors"), "--json"))
    assert report == json.loads((trained / "result.json").read_text())["test"]


def test_eval_elsewhere_at_another_rate(trained: Path, images: Path) -> None:
    model = str(trained / "model.safetensors")
    found = said("eval", model, "--data", str(images), "--split", "train", "--rate", "0.25", "--json")
    assert json.loads(found)["active_rate"] == pytest.approx(0.25, abs=0.02)
    assert "active tokens" in said("eval", model)


def test_eval_in_bfloat16(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On nine images the numbers may be those of float32; so the weights' dtype is looked at as well."""
    seen, plain = [], evaluation.evaluate

    def watched(model: dyt.DynamicModel, *args: Any) -> evaluation.Evaluation:
        seen.append({parameter.dtype for parameter in model.parameters()})
        return plain(model, *args)

    monkeypatch.setattr(evaluation, "evaluate", watched)
    model = str(trained / "model.safetensors")
    full, half = (json.loads(said("eval", model, "--dtype", dtype, "--json")) for dtype in ("float32", "bfloat16"))
    assert seen == [{torch.float32}, {torch.bfloat16}]
    assert half["images"] == full["images"]
    assert half["active_rate"] == pytest.approx(full["active_rate"], abs=0.05)


def test_eval_with_int8_weights(trained: Path) -> None:
    pytest.importorskip("torchao", reason="the extra dyt[int8]")
    model = str(trained / "model.safetensors")
    full, short = (json.loads(said("eval", model, "--dtype", dtype, "--json")) for dtype in ("float32", "int8"))
    assert short["images"] == full["images"]
    assert short["active_rate"] == pytest.approx(full["active_rate"], abs=0.05)
    assert short["gmacs"] == pytest.approx(full["gmacs"], rel=0.05)
    assert short["gmacs_complete"] == full["gmacs_complete"]


def test_weights_that_have_moved(trained: Path, weights: Path, images: Path, tmp_path: Path) -> None:
    file = shutil.copytree(trained, tmp_path / "run") / "model.safetensors"
    moved = shutil.copy(weights, tmp_path / "moved.safetensors")
    dyt.save(dyt.load(file, weights=moved), file)
    Path(moved).rename(tmp_path / "again.safetensors")
    with pytest.raises(CheckpointError, match=r"names '.*moved.safetensors' .* not opened .* or --weights that file"):
        said("eval", str(file))
    with pytest.raises(DyTError, match=r"no file '.*moved.safetensors'; give load\(..., weights=\) or --weights"):
        said("eval", str(file), "--trust-paths")
    found = json.loads(said("eval", str(file), "--weights", str(tmp_path / "again.safetensors"), "--json"))
    assert found == json.loads((trained / "result.json").read_text())["test"]
    with pytest.raises(DyTError, match="is not a VisionTransformer of this size"):
        said("eval", str(file), "--weights", str(file))


@pytest.mark.parametrize(
    "arguments",
    [("eval",), ("predict", "x.png"), ("calibrate",), ("plot", "x.png"), ("export", "--pt2", "x.pt2"), ("bench",)],
    ids=lambda arguments: arguments[0],
)
def test_every_command_that_loads_a_model_is_told_where_its_weights_are(
    arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(path: str, weights: str | None, trust_paths: bool | tuple[str, ...]) -> None:
        raise DyTError(f"loaded {path} with {weights} and {trust_paths}")

    monkeypatch.setattr("dyt.train.saved.load", refused)
    command, *others = arguments
    model = ("--model", "m.safetensors") if command == "bench" else ("m.safetensors",)
    with pytest.raises(DyTError, match=r"loaded m\.safetensors with there\.pth and \(\)"):
        said(command, *model, *others, "--weights", "there.pth")
    with pytest.raises(DyTError, match=r"loaded m\.safetensors with None and True"):
        said(command, *model, *others, "--trust-paths")


def test_weights_are_no_matter_of_an_untrained_model() -> None:
    with pytest.raises(typer.BadParameter, match="leave out --weights"):
        bench(weights="there.pth")
    with pytest.raises(typer.BadParameter, match="and --trust-paths"):
        bench(trust_paths=True)


def test_calibrate_writes_into_the_file(trained: Path, weights: Path, tmp_path: Path) -> None:
    """Only the break-even of each site is new; without images, and so for an unwritable answer, nothing is."""
    shutil.copytree(trained, tmp_path / "run")
    file = tmp_path / "run" / "model.safetensors"
    before = dyt.load(file, weights=weights)
    printed = said("calibrate", str(file), "--batch", "2", "--batch", "1", "--threads", str(torch.get_num_threads()))
    after = dyt.load(file, weights=weights)
    assert [site.break_even is None for site in before.sites] == [True] * len(before.sites)
    for site in after.sites:
        assert site.break_even is not None
        assert site.break_even.batches == (1, 2)
        assert f"{site.name}: computes every token above" in printed
    assert all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )
    content = file.read_bytes()
    with pytest.raises(DyTError):
        said("calibrate", str(file), "--data", str(tmp_path / "nowhere"))
    assert file.read_bytes() == content


def test_predict(trained: Path, images: Path) -> None:
    model, image = str(trained / "model.safetensors"), str(images / "test" / "red" / "0.png")
    row = json.loads(said("predict", model, image, "--top", "9", "--json"))
    assert row["image"] == image
    assert {found["class"] for found in row["top"]} == {"red", "green", "blue"}
    assert sum(found["probability"] for found in row["top"]) == pytest.approx(1)
    assert row["top"][0]["class"] in said("predict", model, image)


def test_predict_with_other_names_and_without_any(trained: Path, images: Path, weights: Path, tmp_path: Path) -> None:
    image, there = str(images / "test" / "red" / "0.png"), ("--weights", str(weights))
    model = dyt.load(trained / "model.safetensors", weights=weights)
    del model.backbone.data_config  # as of a loop of one's own, which does not say it
    dyt.save(model, tmp_path / "alone.safetensors")
    row = json.loads(said("predict", str(tmp_path / "alone.safetensors"), image, "--json", *there))
    assert row["top"][0]["class"] in {"0", "1", "2"}
    (tmp_path / "names.txt").write_text("x\ny\n")
    with pytest.raises(DyTError, match="has 2 class names, the model 3 outputs"):
        said("predict", str(tmp_path / "alone.safetensors"), image, "--classes", str(tmp_path / "names.txt"), *there)
    with pytest.raises(DyTError, match="give --data"):
        said("eval", str(tmp_path / "alone.safetensors"), *there)
    report = json.loads(said("eval", str(tmp_path / "alone.safetensors"), "--data", str(images), "--json", *there))
    assert report["images"] == 9


def test_a_file_and_changes_over_it(runs: Runs, tmp_path: Path) -> None:
    run = runs()
    (tmp_path / "run.yaml").write_text(dump_yaml(run.model_dump(mode="json", exclude_unset=True)))
    assert run_spec(tmp_path / "run.yaml", None, None, {}, []) == run
    changed = run_spec(tmp_path / "run.yaml", None, "linear", {"data.root": "there"}, ["train.lr=1e-2"])
    assert (changed.data.root, changed.train.lr, changed.model.adapter.type) == ("there", 0.01, "none")
    assert isinstance(changed, RunSpec)
    with pytest.raises(typer.BadParameter, match="not both"):
        run_spec(tmp_path / "run.yaml", "default", None, {}, [])


@pytest.mark.parametrize(
    ("recipe_name", "changes", "warmup"),
    [
        (None, ["train.epochs=1"], 0.1),
        ("default", ["train.epochs=2"], 1),  # it fits
        ("images", ["train.epochs=20"], 4),
        ("vtab1k", ["train={epochs: 5, warmup_epochs: 2}"], 2),
        (None, ["train.epochs=1", "train.warmup_epochs=0.5"], 0.5),
    ],
)
def test_a_recipe_s_warm_up_fits_into_the_epochs(recipe_name: str | None, changes: list[str], warmup: float) -> None:
    run = run_spec(None, recipe_name, None, {"data.root": "x"}, changes)
    assert run.train.warmup_epochs == pytest.approx(warmup)


def test_a_warm_up_of_the_user_s_is_not_changed(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"warmup_epochs \(1\) must be below epochs \(1\); lower it"):
        run_spec(None, None, None, {"data.root": "x"}, ["train.epochs=1", "train.warmup_epochs=1"])
    file = tmp_path / "run.yaml"
    file.write_text("data: {root: x}\ntrain: {epochs: 10, warmup_epochs: 1}\n")
    with pytest.raises(SpecError, match=r"warmup_epochs \(1\) must be below epochs \(1\)"):
        run_spec(file, None, None, {}, ["train.epochs=1"])


def test_a_run_s_directory_stands_for_its_model(trained: Path, images: Path, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    folder, image = str(tmp_path / "run"), str(images / "test" / "red" / "0.png")
    assert json.loads(said("eval", folder, "--json")) == json.loads((trained / "result.json").read_text())["test"]
    assert json.loads(said("predict", folder, image, "--json"))["top"][0]["class"] in {"red", "green", "blue"}
    assert "1 images" in said("plot", folder, image, "--out", str(tmp_path / "activity.png"))
    assert f"stored in {tmp_path / 'run' / 'model.safetensors'}" in said("calibrate", folder, "--batch", "1")
    bench = ("--pairs", "1", "--batch", "1", "--no-peers")
    export = ("export", folder, "--pt2", str(tmp_path / "x.pt2"), "--executor", "masked")
    for verb in (export, ("bench", "--model", folder, *bench)):
        done = CliRunner().invoke(app, verb)
        assert done.exit_code == 0, done.output


@pytest.mark.parametrize(
    "verb", [("eval",), ("predict", "x.png"), ("plot", "x.png"), ("calibrate",), ("export",), ("bench", "--model")]
)
def test_a_directory_without_a_model_is_answered(verb: tuple[str, ...], tmp_path: Path) -> None:
    name, *rest = verb
    words = [name, *rest, str(tmp_path)] if name == "bench" else [name, str(tmp_path), *rest]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert f"'{tmp_path}' has no finished run; give a model.safetensors, or the directory of a run" in done.stderr
    (tmp_path / "resume.safetensors").touch()
    assert "a run that is not finished: run the same dyt train again" in CliRunner().invoke(app, words).stderr


def test_train_says_what_is_accepted(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, bool]] = []

    def noting(spec: RunSpec, out: Path, **options: bool) -> None:
        given.append(options)
        raise DyTError("enough")

    monkeypatch.setattr("dyt.train.loop.fit", noting)
    for words in ((), ("--accept-changes",), ("--fresh",)):
        CliRunner().invoke(app, ("train", "--data", str(images), *words))
    assert [(one["resume"], one["accept_changes"]) for one in given] == [(True, False), (True, True), (False, False)]


def test_data_is_needed() -> None:
    with pytest.raises(typer.BadParameter, match="--data"):
        run_spec(None, None, None, {"data.root": None}, [])


@pytest.mark.parametrize(
    ("task", "head"),
    [("classification", "classifier"), ("video", "query"), ("segmentation", "pixel"), ("detection", "faster_rcnn")],
)
def test_a_task_brings_its_head(task: str, head: str) -> None:
    run = run_spec(None, None, None, {"data.root": "x"}, ["train.epochs=3"], task)
    assert (run.data.task, run.model.head.type, run.train.epochs) == (task, head, 3)


def test_a_head_of_the_task_stays_and_an_unknown_task_is_answered() -> None:
    run = run_spec(None, "segmentation", None, {"data.root": "x"}, [], "segmentation")
    assert run.model.head.type == "upernet"
    with pytest.raises(SpecError, match="no task 'segmentatoin'; did you mean 'segmentation'"):
        run_spec(None, None, None, {"data.root": "x"}, [], "segmentatoin")


def test_errors_of_files_are_one_line(trained: Path, tmp_path: Path) -> None:
    for arguments in (
        ("predict", str(trained / "model.safetensors"), str(tmp_path / "none.jpg")),
        ("predict", str(tmp_path / "none.safetensors"), "x.jpg"),
        ("eval", str(trained / "model.safetensors"), "--data", str(tmp_path / "none")),
        ("eval", str(trained / "model.safetensors"), "--split", "nope"),
    ):
        with pytest.raises(DyTError) as caught:
            said(*arguments)
        assert "\n" not in str(caught.value)
