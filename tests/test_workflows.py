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


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """What the package says of its release, as it is to be when it is tagged: with nothing under *Unreleased*."""
    for file in ("src/dyt/__init__.py", "CITATION.cff", "CHANGELOG.md"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    notes = tmp_path / "CHANGELOG.md"
    text = re.sub(r"(?s)(^## \[Unreleased\]\n).*?(?=^## \[\d)", r"\1\n", notes.read_text("utf-8"), flags=re.MULTILINE)
    notes.write_text(text, "utf-8")
    return tmp_path


def test_a_tag_that_is_not_the_version_is_refused(release: Path) -> None:
    faults = runpy.run_path(str(ROOT / "scripts" / "check_release.py"))["faults"]
    assert faults(f"v{dyt.__version__}", release) == []
    assert len(faults(dyt.__version__, release)) == 4
    assert faults("v9.0.0", release)[0] == f"the tag is v9.0.0, and src/dyt/__init__.py has {dyt.__version__}"
    assert faults("v9.0", release)[0] == "the tag is 'v9.0'; allowed: v1.2.3, or v1.2.3rc1"


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        ("CHANGELOG.md", r"(\[\d.+\]) - .*", r"\1", "write '## ["),
        ("CHANGELOG.md", r"(\[\d.+\]) - .*", r"\1 - 2026-13-01", "write '## ["),
        ("CHANGELOG.md", r"(\[\d.+\]) - .*", r"\1 - 2020-01-02", "has the date '2020-01-02', and CITATION.cff has 2"),
        ("CITATION.cff", r"date-released: .*\n", "", "CITATION.cff has no date-released"),
        ("CITATION.cff", r"\nversion: .*", "\nversion: 9", "and CITATION.cff has 9"),
        ("CHANGELOG.md", r"(?<=\[Unreleased\]\n)", "\n- more\n", "has entries under [Unreleased]"),
        ("CHANGELOG.md", r"## \[\d", "## [x", "and CHANGELOG.md has no version"),
    ],
)
def test_a_release_that_contradicts_itself_is_refused(release: Path, file: str, old: str, new: str, said: str) -> None:
    faults = runpy.run_path(str(ROOT / "scripts" / "check_release.py"))["faults"]
    path = release / file
    text, changed = re.subn(old, new, path.read_text("utf-8"), count=0 if "x" in new else 1)
    assert changed
    path.write_text(text, "utf-8")
    assert any(said in fault for fault in faults(f"v{dyt.__version__}", release))


def test_the_dates_of_the_changelog_are_its_links() -> None:
    """The links at its end lead to its headings, as the documentation site names them."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## \[(.+?)\](?: - (\S+))?$", text, re.MULTILINE)
    links = dict(re.findall(r"^\[(.+)\]: #(.+)$", text, re.MULTILINE))
    assert links == {
        version: "-".join(filter(None, [version.replace(".", "").lower(), date])) for version, date in headings
    }


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
