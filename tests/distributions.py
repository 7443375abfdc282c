"""An installed distribution without pip: packages, metadata and entry points where pip would put them."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path


def install(source: Path, site: Path) -> None:
    """Makes the project in `source` (src layout) importable, and its entry points known, from the folder `site`."""
    project = tomllib.loads((source / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = project["entry-points"].items()
    lines = [line for group, offers in groups for line in (f"[{group}]", *(f"{k} = {v}" for k, v in offers.items()))]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for package in (source / "src").iterdir():
        (site / package.name).symlink_to(package)


def run(*command: str | Path, cwd: Path, path: Path | None = None) -> str:
    """The output of a Python process without a network, with `path` in front of what it imports from."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    if path is not None:
        environment["PYTHONPATH"] = os.pathsep.join([str(path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
