"""Each example runs as a user would run it, in a process of its own, on tiny settings and without a network."""

from pathlib import Path

import pytest

from distributions import install, run

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

RUNS = {
    "quickstart.py": ([], "GMACs of an image"),
    "custom_training_loop.py": (["--epochs", "1", "--train-images", "128", "--parts", "2"], "epoch 1"),
    "segmentation.py": (["--epochs", "1", "--images", "16"], "0_mask.png"),
    "detect_shapes.py": (["--epochs", "1", "--images", "16"], "boxes drawn"),
    "benchmark_sweep.py": (["--epochs", "1", "--images", "32"], "| colours |"),
    "finetune_folder.py": (["--epochs", "2", "--images-per-class", "16"], "a model of 3 sites was loaded"),
    "cheaper_vision_tower.py": (["--steps", "2"], "generate says the same: True"),
    "video_clips.py": (["--epochs", "1", "--films", "8"], "pictures are in pictures/"),
}
"""For each script: tiny settings, and what it says when it has done its work."""
ALWAYS = {"quickstart.py"}
"""The others take ten seconds and more each, and `.ci/run` runs all of them whole."""


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("script", RUNS)
def test_example(script: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if script not in ALWAYS and not request.config.getoption("--full"):
        pytest.skip("`.ci/run` runs it whole; use --full")
    arguments, said = RUNS[script]
    assert said in run(EXAMPLES / script, *arguments, cwd=tmp_path)


def test_plug_in(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The plug-in's own tests, with its package and the entry point of its pyproject.toml where pip would put them."""
    if not request.config.getoption("--full"):
        pytest.skip("`.ci/run` installs it with pip and runs them; use --full")
    source, site = EXAMPLES / "own_dispatcher", tmp_path / "site"
    install(source, site)
    assert "5 passed" in run("-m", "pytest", "-p", "no:cacheprovider", source, cwd=tmp_path, path=site)
