"""`dyt export` writes the file and says how far it is from the model."""

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dyt
from dyt.cli.main import app
from laws.models import tiny


def run(*args):
    return CliRunner().invoke(app, ["export", *(str(arg) for arg in args)])


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.delenv("DYT_DEBUG", raising=False)


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.safetensors"
    dyt.save(tiny({"depth": 1, "global_pool": "avg"}, trainable="full"), path)
    return path


def test_onnx_and_pt2_of_random_images(model, tmp_path):
    pytest.importorskip("onnxruntime", reason="ONNX needs pip install 'dyt[export]'")
    onnx, pt2 = tmp_path / "model.onnx", tmp_path / "model.pt2"
    result = run(model, "--onnx", onnx, "--pt2", pt2, "--executor", "masked")
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if "largest difference" in line]
    assert [line.split(":")[0] for line in lines] == [str(onnx), str(pt2)]
    assert all("same class for 5 of 5 images; a batch of 5 (random noise)" in line for line in lines)
    assert onnx.is_file()
    assert pt2.is_file()


def test_calibrated_on_images_in_bfloat16(model, tmp_path):
    picture = tmp_path / "image.png"
    Image.fromarray((torch.rand(32, 32, 3) * 255).byte().numpy()).save(picture)
    result = run(model, picture, "--pt2", tmp_path / "model.pt2", "--calibrate", "--dtype", "bfloat16")
    assert result.exit_code == 0, result.output
    assert "from 1 images" in result.stdout
    assert "a batch of 5 (1 images given), executor capacity, bfloat16" in result.stdout


@pytest.mark.parametrize(
    "args",
    [
        (),
        ("--pt2", "model.pt"),
        ("--onnx", "model.onnx", "--dtype", "bfloat16"),
        ("--pt2", "model.pt2", "--calibrate"),
        ("--pt2", "model.pt2", "--executor", "capcity"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(model, args, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(model, *args)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("dyt: ")
    assert result.stderr.count("\n") == 1
