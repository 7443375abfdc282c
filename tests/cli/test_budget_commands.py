"""`dyt calibrate --budgets` stores a table, and `dyt eval --budget` and `--gmacs` and `dyt bench --budget` use it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from matplotlib.figure import Figure
from PIL import Image

import dyt
from commands import said
from dyt.cli.bench import bench
from dyt.cli.plot import plot
from dyt.errors import DyTError
from dyt.measure.plots import Point
from dyt.measure.plots import costs as plots
from laws.models import tiny


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five classes of noise, of 32 x 32 pixels."""
    root = tmp_path_factory.mktemp("images")
    drawn = torch.Generator().manual_seed(0)
    for split in ("train", "test"):
        for name in "abcde":
            (root / split / name).mkdir(parents=True)
            for i in range(2):
                pixels = torch.randint(0, 256, (32, 32, 3), dtype=torch.uint8, generator=drawn)
                Image.fromarray(pixels.numpy()).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = tiny()
    for site in model.sites:
        torch.nn.init.normal_(site.dispatcher.router.weight, std=0.3)
    path = tmp_path_factory.mktemp("plain") / "model.safetensors"
    dyt.save(model, path, whole=True)
    return path


@pytest.fixture(scope="module")
def calibrated(plain: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("calibrated") / "model.safetensors"
    path.write_bytes(plain.read_bytes())
    printed = said("calibrate", str(path), "--data", str(images), "--budgets", "--batch", "10")
    assert f"stored in {path}; found on 10 training images" in printed
    assert "rate 0.4: reached 0.4" in printed
    return path


def test_the_file_is_written_anew_with_the_table_alone(plain: Path, calibrated: Path) -> None:
    before, after = dyt.load(plain), dyt.load(calibrated)
    assert before.budget_table is None
    assert after.budget_table is not None
    assert after.budget_table.range == (0.1, 1.0)
    assert after.budget is None
    assert all(
        torch.equal(a, b) for a, b in zip(before.state_dict().values(), after.state_dict().values(), strict=True)
    )


def test_eval_uses_it(calibrated: Path, images: Path) -> None:
    content = calibrated.read_bytes()
    for rate in (0.3, 1.0):
        found = json.loads(
            said("eval", str(calibrated), "--data", str(images), "--split", "train", "--budget", str(rate), "--json")
        )
        assert found["active_rate"] == pytest.approx(rate, abs=0.02)
    gmacs = found["gmacs"]  # of the complete model, and so within reach
    found = json.loads(
        said("eval", str(calibrated), "--data", str(images), "--split", "train", "--gmacs", f"{0.8 * gmacs}", "--json")
    )
    assert found["gmacs"] == pytest.approx(0.8 * gmacs, rel=0.03)
    assert calibrated.read_bytes() == content


@pytest.mark.parametrize("arguments", [("--budget", "0.4"), ("--gmacs", "0.001")])
def test_without_a_table_it_is_said_what_to_do(plain: Path, images: Path, arguments: tuple[str, str]) -> None:
    with pytest.raises(DyTError, match=r"calibrate first: dyt\.calibrate_budgets\(model, batches\)"):
        said("eval", str(plain), "--data", str(images), *arguments)


def test_two_of_them_are_refused(calibrated: Path, images: Path) -> None:
    with pytest.raises(AssertionError, match="--rate and --budget both say what an image may cost"):
        said("eval", str(calibrated), "--data", str(images), "--rate", "0.4", "--budget", "0.4")
    with pytest.raises(AssertionError, match="0 is not a rate above 0 and at most 1"):
        said("eval", str(calibrated), "--data", str(images), "--budget", "0")


def test_bench_uses_it(calibrated: Path, images: Path) -> None:
    arguments = ("--data", str(images), "--no-peers", "--pairs", "1", "--batch", "4")
    printed = said("bench", "--model", str(calibrated), *arguments, "--budget", "0.9")  # and 0.5 as it was trained
    (row,) = [line for line in printed.splitlines() if line.startswith("DyT, sparse")]
    assert float(row.split("%")[0].rpartition(" ")[2]) == pytest.approx(90, abs=8)
    with pytest.raises(typer.BadParameter, match="a budget is of a trained model; give its file as --model"):
        bench(budget=0.4)


def test_the_curve_is_drawn_over_the_rates(
    calibrated: Path, plain: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[list[Point], float | None]] = []

    def tradeoff(points: list[Point], title: str, dense: float | None, measure: str) -> Figure:
        drawn.append((points, dense))
        assert (title, measure) == ("test, 10 images", "accuracy")
        return plots.tradeoff(points, title, dense, measure)

    monkeypatch.setattr("dyt.measure.plots.tradeoff", tradeoff)
    monkeypatch.chdir(tmp_path)
    model = dyt.load(calibrated)
    dyt.calibrate_budgets(model, [torch.randn(8, 3, 32, 32)], (0.2, 0.6, 1.0))
    dyt.save(model, "few.safetensors", whole=True)
    assert said("plot", "few.safetensors", "--curve", "--data", str(images)) == "curve.png: 3 rates, 10 images\n"
    with Image.open("curve.png") as picture:
        assert picture.size[0] > 500
    ((points, dense),) = drawn
    costs = [point.gmacs for point in points]
    assert costs == sorted(set(costs))
    assert [point.label for point in points] == ["0.2", "0.6", "1"]
    assert dense is not None
    assert costs[0] < dense < costs[-1]  # adapters come on top of the dense model
    with pytest.raises(DyTError, match="calibrate first"):
        said("plot", str(plain), "--curve", "--data", str(images))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "give image files, or --curve"),
        ({"curve": True, "images": [Path("a.png")]}, "leave out image files and --chart"),
        ({"curve": True, "chart": True}, "leave out image files and --chart"),
        ({"images": [Path("a.png")], "data": "images"}, "--data and --split are of --curve"),
    ],
)
def test_what_does_not_go_together_is_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(typer.BadParameter, match=words):
        plot(Path("m.safetensors"), **arguments)
