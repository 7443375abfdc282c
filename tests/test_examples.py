"""Each example runs as a user would run it, in a process of its own, on tiny settings and without a network."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"

RUNS = {
    "quickstart.py": ([], "GMACs of an image"),
    "custom_training_loop.py": (["--epochs", "1", "--train-images", "128"], "epoch 1"),
    "finetune_folder.py": (["--epochs", "2", "--images-per-class", "16"], "a model of 3 sites was loaded"),
}
"""For each script: tiny settings, and what it says when it has done its work."""


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_every_example_is_run() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(RUNS)


@pytest.mark.parametrize("script", RUNS)
def test_example(script: str, tmp_path: Path) -> None:
    arguments, said = RUNS[script]
    assert said in run(EXAMPLES / script, *arguments, cwd=tmp_path)


def test_plug_in(tmp_path: Path) -> None:
    """The plug-in's own tests, with its package and the entry point of its pyproject.toml where pip would put them."""
    source = EXAMPLES / "own_dispatcher"
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    site = tmp_path / "site"
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, offers in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in offers.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for package in (source / "src").iterdir():
        (site / package.name).symlink_to(package)
    assert "4 passed" in run("-m", "pytest", "-p", "no:cacheprovider", source, cwd=tmp_path, path=site)
