"""From list files to a trained model: `fit` with resume, `dyt eval`, `dyt predict`."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

import dyt
from commands import said
from dyt.cli.errors import explained
from dyt.config.spec import parse
from dyt.errors import DyTError, SpecError
from dyt.tasks.kinds import TASKS
from dyt.tasks.video import VideoError, VideoWarning
from dyt.train import RunSpec, fit
from dyt.train.named_runs import recipe
from dyt.train.saved import loaded

from .conftest import film

ARGS: dict[str, Any] = {"img_size": 16, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def plain(videos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A short run as plain data."""
    weights = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    torch.manual_seed(1)
    save_file(timm.create_model(NAME, num_classes=0, **ARGS).state_dict(), weights)
    return {
        "model": {
            "backbone": {"name": NAME, "weights": str(weights), "args": ARGS},
            "head": {"type": "query"},
            "adapter": {"type": "bottleneck", "dim": 4},
        },
        "data": {"task": "video", "root": str(videos), "frames": 3, "temporal_views": 2, "workers": 0},
        "train": {"epochs": 4, "batch_size": 6, "lr": 0.02, "label_smoothing": 0.1},
    }


@pytest.fixture(scope="module")
def trained(plain: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("video") / "run"
    fit(parse(RunSpec, plain), out, progress=False)
    return out


def test_it_learns_and_counts_all_views(trained: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    assert result["test"]["images"] == 6
    assert result["test"]["accuracy"] == 1.0
    model = loaded(trained / "model.safetensors")
    with dyt.execution(model, "complete"):
        of_one_view = int(dyt.count_macs(model, torch.zeros(1, 3, 3, 16, 16)))
    assert result["test"]["gmacs_complete"] * 1e9 == pytest.approx(2 * of_one_view)
    assert result["trainable"] - result["trainable_without_head"] == sum(p.numel() for p in model.head.parameters())


def test_an_interrupted_run_goes_on_to_the_same_end(
    plain: dict[str, Any], trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dyt.train import loop

    steps = iter(range(100))
    with monkeypatch.context() as patched:
        patched.setattr(loop._Run, "_interrupted", lambda self: next(steps) == 2)
        with pytest.raises(loop.Interrupted):
            fit(parse(RunSpec, plain), tmp_path / "run", progress=False)
    fit(parse(RunSpec, plain), tmp_path / "run", progress=False)
    ended, whole = (loaded(run / "model.safetensors").state_dict() for run in (tmp_path / "run", trained))
    assert all(torch.equal(ended[key], whole[key]) for key in whole)


@pytest.mark.parametrize(
    ("spoil", "short"),
    [("empty", "pad"), ("truncated", "pad"), ("text", "pad"), ("short", "pad"), ("short", "refuse")],
)
def test_a_run_meets_a_file_that_cannot_be_used(
    spoil: str, short: str, plain: dict[str, Any], videos: Path, tmp_path: Path
) -> None:
    """In a loader process: `refuse` stops it in one line, `skip` goes on without the file; `pad` takes a short one."""
    root = tmp_path / "videos"
    shutil.copytree(videos, root)
    file = root / "train/3.mp4"
    whole = file.read_bytes()
    contents = {"empty": b"", "truncated": whole[: len(whole) // 2], "text": b"no video " * 99}
    film(file, 2) if spoil == "short" else file.write_bytes(contents[spoil])
    fine = spoil == "short" and short == "pad"
    data = {**plain["data"], "root": str(root), "workers": 1, "short": short}
    run = {**plain, "data": data, "train": {**plain["train"], "epochs": 1}}
    if fine:
        assert fit(parse(RunSpec, run), tmp_path / "out", progress=False).test.images == 6
        return
    with pytest.raises(VideoError) as caught:
        fit(parse(RunSpec, run), tmp_path / "out", progress=False)
    answer = explained(caught.value)
    assert answer is not None
    assert answer[0].startswith(f"dyt: {file}: ")
    assert "Traceback" not in str(caught.value)
    assert "leave it out" in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.warns(VideoWarning, match=r"train\.txt: 1 of 12 videos are left out: .*train/3\.mp4"):
        result = fit(parse(RunSpec, {**run, "data": {**data, "corrupt": "skip"}}), tmp_path / "new", progress=False)
    assert result.test.images == 6


def test_eval_says_what_train_said(trained: Path) -> None:
    report = json.loads(said("eval", str(trained / "model.safetensors"), "--json"))
    assert report == json.loads((trained / "result.json").read_text())["test"]


def test_eval_at_another_rate(trained: Path) -> None:
    found = json.loads(said("eval", str(trained / "model.safetensors"), "--rate", "0.25", "--json"))
    assert found["active_rate"] == pytest.approx(0.25, abs=0.1)


def test_predict_tells_and_draws(trained: Path, videos: Path, tmp_path: Path) -> None:
    clips = [str(videos / split / "1.mp4") for split in ("test", "train")]
    printed = said("predict", str(trained / "model.safetensors"), *clips, "--out", str(tmp_path / "out"))
    for clip, line in zip(clips, printed.splitlines(), strict=True):
        assert line.startswith(f"{clip}: 1 ")
        assert line.count("0.") + line.count("1.00") >= 4  # the share of all, and of each of three frames
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["1-2_activity.png", "1_activity.png"]
    told = ("--out", str(tmp_path / "out"), "--json", "--top", "9")
    rows = [
        json.loads(line) for line in said("predict", str(trained / "model.safetensors"), *clips, *told).splitlines()
    ]
    for clip, row in zip(clips, rows, strict=True):
        assert row["clip"] == clip
        assert [found["class"] for found in row["top"]] == ["1", "0"]
        assert sum(found["probability"] for found in row["top"]) == pytest.approx(1)
        assert row["active_rate"] == pytest.approx(sum(row["active_rates"]) / 3)
        assert Path(row["picture"]).is_file()


def test_a_plot_of_images_is_refused(trained: Path, videos: Path, tmp_path: Path) -> None:
    with pytest.raises(DyTError, match="takes clips, not images; dyt predict draws the frames"):
        said(
            "plot", str(trained / "model.safetensors"), str(videos / "test" / "0.mp4"), "--out", str(tmp_path / "x.png")
        )


def test_a_run_from_the_short_recipe(plain: dict[str, Any], tmp_path: Path) -> None:
    """Its routers start from importance, which reads the frames."""
    short = recipe("default")
    model = {**short["model"], **{name: plain["model"][name] for name in ("backbone", "head", "adapter")}}
    train = {**short["train"], **plain["train"], "epochs": 2}
    result = fit(parse(RunSpec, {"model": model, "data": plain["data"], "train": train}), tmp_path, progress=False)
    assert 0 < result.test.active_rate < 1


@pytest.mark.parametrize("mixing", ["mixup", "cutmix"])
def test_mixing_is_refused(mixing: str, plain: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"train\.mixup and train\.cutmix .* video"):
        parse(RunSpec, {**plain, "train": {**plain["train"], mixing: 0.5}})


def test_an_unknown_task_is_refused(plain: dict[str, Any]) -> None:
    with pytest.raises(SpecError, match=r"data: .*classification.*video"):
        parse(RunSpec, {**plain, "data": {"task": "audio", "root": "x"}})


@pytest.mark.parametrize(("name", "views"), [("k400", 3), ("ssv2", 3)])
def test_the_papers_recipes(name: str, views: int) -> None:
    data = recipe(name)
    run = parse(RunSpec, {**data, "data": {**data["data"], "root": "x"}})
    assert run.data.task == "video"
    assert run.data.frames == 8
    assert run.data.temporal_views * run.data.spatial_views == views
    assert run.train.peak_lr == pytest.approx(5e-4)


def test_views_are_averaged() -> None:
    def model(view: torch.Tensor) -> torch.Tensor:
        return view.flatten(1)[:, :2]

    inputs = torch.randn(2, 3, 1, 3, 2, 2)
    found = TASKS["video"].infer(model, inputs, None)  # type: ignore[arg-type]
    assert torch.allclose(found, inputs[:, :, 0, 0, 0].mean(1))
