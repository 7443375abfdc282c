"""`dyt export` writes the file and says how far it is from the model."""

import pytest
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

import dyt
from dyt.cli.main import app
from laws.models import TINY, shaken, tiny


def run(*args):
    return CliRunner().invoke(app, ["export", *(str(arg) for arg in args)])


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.delenv("DYT_DEBUG", raising=False)


def test_a_merged_model_as_timm_s_weights(model, tmp_path):
    file = tmp_path / "plain.safetensors"
    result = run(model, "--timm", file)
    assert result.exit_code == 2
    assert "dispatcher 'learned' may skip tokens; adapter 'bottleneck' adds a branch" in result.stderr
    assert not file.exists()
    small = {"name": "vit_tiny_patch16_224", "weights": "none", "args": TINY}
    spec = {"backbone": small, "head": {"num_classes": 5}, "dispatcher": "always", "adapter": "none"}
    linear = shaken(dyt.build({**spec, "modules_to_save": ["norm"]}))
    dyt.save(linear, tmp_path / "linear.safetensors", whole=True)
    result = run(tmp_path / "linear.safetensors", "--timm", file)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{file}: largest difference 0.00e+00")
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=5, checkpoint_path=str(file), **TINY).eval()
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x), linear(x), atol=1e-5, rtol=1e-5)
    assert run(tmp_path / "linear.safetensors", "--timm", tmp_path / "plain.pth").exit_code == 2


def test_lora_as_a_folder_of_peft(tmp_path):
    pytest.importorskip("peft")
    small = {"name": "vit_tiny_patch16_224", "weights": "none", "args": TINY}
    spec = {"backbone": small, "head": {"num_classes": 5}, "dispatcher": "always", "adapter": "none", "tuner": "lora"}
    dyt.save(dyt.build(spec), tmp_path / "lora.safetensors", whole=True)
    result = run(tmp_path / "lora.safetensors", "--peft", tmp_path / "folder")
    assert result.exit_code == 0, result.output
    assert sorted(path.name for path in (tmp_path / "folder").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    result = run(tmp_path / "lora.safetensors", "--peft", tmp_path / "folder", "--dtype", "bfloat16")
    assert result.exit_code == 2
    assert "leave --dtype out" in result.stderr


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
