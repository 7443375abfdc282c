"""Every workflow parses, calls what there is and pins what it takes; a release is what its tag names."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import dyt

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = [ROOT / ".github" / "dependabot.yml", *sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))]


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path) -> list[dict[str, Any]]:
    return [step for job in read(path)["jobs"].values() for step in job["steps"]]


def parts() -> set[str]:
    (line,) = re.findall(r'case " (.*) " in', (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    return set(line.split())


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["ci", "nightly", "release"]


@pytest.mark.parametrize("path", [*WORKFLOWS, *FORMS], ids=lambda path: path.stem)
def test_it_parses(path: Path) -> None:
    assert isinstance(read(path), dict)


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_actions_are_pinned_and_jobs_end(path: Path) -> None:
    used = [step["uses"] for step in steps(path) if "uses" in step]
    assert used
    assert not [each for each in used if not re.fullmatch(r"[\w-]+/[\w-]+@v\d+\.\d+\.\d+", each)]
    assert all("timeout-minutes" in job for job in read(path)["jobs"].values())
    assert read(path)["permissions"] == {"contents": "read"}, "more is for the job that needs it"
    assert "secrets." not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_it_calls_only_what_there_is(path: Path) -> None:
    for job in read(path)["jobs"].values():
        for line in (step["run"] for step in job["steps"] if "run" in step):
            command, *words = line.split()
            if command == ".ci/run":
                given = job["strategy"]["matrix"]["part"] if words[0] == "${{" else [words[0]]
                assert set(given) <= parts(), line
            else:
                assert command == "python", line
                assert all((ROOT / word).exists() for word in words if "/" in word and "$" not in word), line


def test_every_part_is_a_section_of_the_script() -> None:
    text = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert set(re.findall(r"^section=(\w+)$", text, re.MULTILINE)) == parts() - {"all"}
    done = subprocess.run([ROOT / ".ci" / "run", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no part 'nothing'" in done.stderr


def test_a_tag_that_is_not_the_version_is_refused() -> None:
    faults = runpy.run_path(str(ROOT / "scripts" / "check_release.py"))["faults"]
    assert faults(f"v{dyt.__version__}") == []
    assert len(faults(dyt.__version__)) == 3
    assert faults("v9.0.0")[0] == f"the tag is v9.0.0, and src/dyt/__init__.py has {dyt.__version__}"


def test_the_hooks_have_the_locked_ruff() -> None:
    revisions = {
        repo["repo"].rpartition("/")[2]: repo["rev"] for repo in read(ROOT / ".pre-commit-config.yaml")["repos"]
    }
    locked = re.search(r"^ruff==(.+)$", (ROOT / "constraints" / "dev.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert locked is not None
    assert revisions["ruff-pre-commit"] == f"v{locked[1]}"


def test_nox_lists_its_sessions() -> None:
    nox = shutil.which("nox")
    if nox is None:
        pytest.skip("nox is a tool of its own, and not here")
    listed = subprocess.run([nox, "-l", "-f", ROOT / "noxfile.py"], capture_output=True, text=True, check=True).stdout
    assert {"tests", "lint", "types", "docs", "examples", "floor", "full"} <= set(
        re.findall(r"^[*-] (\w+)", listed, re.M)
    )
