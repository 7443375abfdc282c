"""Every verb answers; bad input is one line on stderr and exit code 2."""

import json

import pytest
import torch
import typer
from PIL import Image
from rich.markup import render
from typer.testing import CliRunner

import dyt
from dyt.cli.main import app
from dyt.cli.output import console
from dyt.train.evaluation import Evaluation
from dyt.train.progress import Bar
from dyt.train.result import report_table

TINY = "backbone.args={img_size: 32, patch_size: 8, embed_dim: 32, depth: 2, num_heads: 2}"
NAME = "backbone.name=vit_tiny_patch16_224"


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    monkeypatch.delenv("DYT_DEBUG", raising=False)


def test_help_and_version():
    assert "demo" in run("--help").stdout
    assert run().exit_code == 0
    assert run("--version").stdout == f"dyt {dyt.__version__}\n"


@pytest.mark.parametrize(
    "args",
    [
        ("nosuchverb",),
        ("list", "dispatcher"),
        ("supports", "vit_tiny_patch16_223"),
        ("spec", "nosuchpreset"),
        ("spec", "dyt", "--set", "objective.rate=2"),
        ("spec", "dyt", "--bogus"),
        ("macs", "dyt", "--rate", "2"),
        ("eval", "model.safetensors", "--rate", "0"),
        ("eval", "model.safetensors", "--rate", "1.5"),
        ("eval", "model.safetensors", "--rate", "half"),
        ("bench", "dyt", "image.png"),
        ("bench", "none.safetensors"),
        ("bench", "--model", "none.safetensors"),
        ("bench", "--data", "images"),
        ("bench", "--executor", "nosuch", "--set", NAME, "--set", TINY),
        ("bench", "--plot", "picture.nosuch"),
        ("plot", "none.safetensors", "x.png"),
        ("train",),
        ("eval", "none.safetensors"),
        ("predict", "none.safetensors", "x.png"),
        ("demo", "--epochs", "0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(args):
    result = run(*args)
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("dyt: ")
    assert result.stderr.count("\n") == 1


def test_the_refused_rate_is_named():
    assert "0 is not a rate above 0 and at most 1" in run("eval", "model.safetensors", "--rate", "0").stderr
    assert "above 0, at most 1" in flat(run("eval", "--help").stdout)


@pytest.mark.parametrize("rate", [0, 1])
def test_forced_masks_have_every_rate_of_the_help_text(rate):
    tiny = ("--set", NAME, "--set", TINY)
    assert f"{rate:.0%} active" in run("macs", "dyt", "--rate", rate, *tiny).stdout
    result = run("bench", "dyt", "--rate", rate, *tiny, "--pairs", 1, "--batch", 1, "--no-peers")
    assert f"rate {rate}" in result.stdout, result.output


def flat(shown):
    """Without frames and line breaks."""
    return " ".join(shown.replace("│", " ").split())


def texts():
    """Every help text as it is written."""
    group = typer.main.get_command(app)
    yield group.help
    for verb in group.commands.values():
        yield verb.help
        yield from (parameter.help for parameter in verb.params if getattr(parameter, "help", None))


def test_help_texts_keep_their_brackets():
    written = list(texts())
    assert len(written) > 50
    for text in written:
        assert render(text).plain == text.replace("\\[", "[")
    assert "pip install 'dyt[export]'" in flat(run("export", "--help").stdout)


def test_printed_names_keep_their_brackets(capsys):
    table = report_table(
        Evaluation(
            images=1, metrics={"iou/[red] wall": None}, active_rate=1, active_rates={}, gmacs=1, gmacs_complete=1
        ),
        "test of /data/[old]",
    )
    console().print(table)
    console().print("pip install 'dyt[lora]' :x:")
    bar = Bar(shown=True)
    bar.say("reading [bold]")
    shown = capsys.readouterr()
    for words in ("iou/[red] wall", "none", "/data/[old]", "dyt[lora]", ":x:"):
        assert words in shown.out
    assert "reading [bold]" in shown.err


def test_debug_keeps_the_error():
    assert isinstance(run("spec", "nosuchpreset", "--debug").exception, dyt.SpecError)


def test_spec_round_trips_and_has_a_schema(tmp_path):
    file = tmp_path / "spec.yaml"
    file.write_text(run("spec", "dyt", "--set", "objective.rate=0.7").stdout)
    assert "rate: 0.7" in run("spec", file).stdout
    assert "objective" in json.loads(run("spec", "--schema").stdout)["properties"]


def test_help_of_spec_explains_a_field_or_the_command():
    alone = run("spec", "--help")
    assert alone.exit_code == 0
    assert "Usage" in alone.stdout
    assert "--schema" in alone.stdout
    for args in (("spec", "--help", "objective.rate"), ("spec", "dyt", "-h", "objective.rate")):
        shown = run(*args)
        assert shown.exit_code == 0
        lines = shown.stdout.splitlines()
        assert lines[0] == "objective.rate"
        assert "  The target activation rate r" in lines[1]
        assert [line.strip() for line in lines[-3:]] == ["type: number", "allowed: above 0, at most 1", "default: 0.5"]
    assert "Usage" in run("spec", "--help", "--schema").stdout
    assert "dynamicvit" in run("spec", "--help", "reducer.keep").stdout
    assert "allowed: classifier, " in run("spec", "--help", "head.type").stdout
    assert "fields of learned: type, level, " in run("spec", "--help", "dispatcher").stdout
    assert "default: 100" in run("spec", "--help", "train.epochs").stdout


def test_help_of_spec_refuses_an_unknown_field():
    refused = run("spec", "--help", "objective.rte")
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("dyt: no field 'rte' in objective; did you mean 'rate'? allowed: ")
    assert refused.stderr.count("\n") == 1


def test_list_and_supports():
    assert "learned" in run("list", "dispatchers").stdout
    assert "recipes:" in run("list").stdout
    assert "mlp: yes" in run("supports", "vit_tiny_patch16_224").stdout
    assert run("supports", "resnet18").exit_code == 1


def test_macs_and_bench(tmp_path):
    result = run("macs", "dyt", "--set", NAME, "--set", TINY)
    assert "trainable without head" in result.stdout, result.output
    file = tmp_path / "bench.json"
    picture = tmp_path / "bench.png"
    args = ("--batch", 2, "--batch", 3, "--pairs", 1, "--threads", 1, "--json", file, "--plot", picture)
    result = run("bench", "dyt", "--set", NAME, "--set", TINY, *args)
    assert "forced random masks of rate 0.5" in result.stdout, result.output
    assert [point["batch"] for point in json.loads(file.read_text())["points"]] == [2, 3]
    with Image.open(picture) as drawn:
        assert drawn.width > 500


def test_plot_draws_a_saved_model(tmp_path, monkeypatch):
    args = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    backbone = {"name": "vit_tiny_patch16_224", "weights": "none", "args": args}
    model = dyt.build({"backbone": backbone, "head": {"num_classes": 3}, "trainable": "full"})
    dyt.save(model, tmp_path / "model.safetensors")
    Image.fromarray((torch.rand(32, 32, 3) * 255).byte().numpy()).save(tmp_path / "image.png")
    for extra in ((), ("--chart",)):
        out = tmp_path / f"out{len(extra)}.png"
        result = run("plot", tmp_path / "model.safetensors", tmp_path / "image.png", "--out", out, *extra)
        assert result.exit_code == 0, result.output
        with Image.open(out) as picture:
            assert picture.width > 200


def test_doctor_reports_without_a_network(monkeypatch):
    monkeypatch.setattr("dyt.assembly.hub.reachable", lambda: False)
    result = run("doctor")
    assert result.exit_code == 0, result.output
    assert "all is well" in result.stdout
