"""Every kind's package is whole: it installs, its component is found, and its own tests pass."""

import ast
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import dyt
from distributions import install, run
from dyt.cli.main import app
from dyt.scaffold import PLURALS, new_plugin


def test_there_is_one_for_every_kind() -> None:
    assert set(PLURALS.values()) == set(dyt.registry.KINDS)


def test_the_packages_pass_their_own_tests(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """With entry points, in a process of its own, warnings as errors."""
    if not request.config.getoption("--full"):
        pytest.skip("takes minutes; `.ci/run` runs it, use --full")
    site = tmp_path / "site"
    folders = [new_plugin(f"fresh_{kind}", kind, tmp_path / "made") for kind in PLURALS]
    for folder in folders:
        install(folder, site)
    said = run("-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *folders, cwd=tmp_path, path=site)
    assert "27 passed" in said, said


@pytest.mark.parametrize("kind", PLURALS)
def test_what_a_package_has(kind: str, tmp_path: Path) -> None:
    folder = new_plugin("top_half2", kind, tmp_path)
    assert folder == tmp_path / "dyt-top-half2"
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    wanted = {"pyproject.toml", "README.md", ".gitignore", "src/dyt_top_half2/__init__.py", "tests/test_top_half2.py"}
    assert files == wanted | ({"tests/small_vit.py"} if kind == "family" else set())
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    ((group, offers),) = project["project"]["entry-points"].items()
    assert group == f"dyt_{PLURALS[kind]}"
    module, _, component = offers["top_half2"].partition(":")
    tree = ast.parse((folder / "src" / module / "__init__.py").read_text())
    classes = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)}
    assert all(ast.get_docstring(node) for node in (tree, classes[component]))
    assert not any("$" in (folder / file).read_text() for file in files)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("Top", "dispatcher", "'Top' cannot name a component; allowed: lower-case"),
        ("top-half", "dispatcher", "cannot name"),
        ("top__half", "adapter", "cannot name"),
        ("top_", "adapter", "cannot name"),
        ("2top", "family", "cannot name"),
        ("../top", "family", "cannot name"),
        ("", "variant", "cannot name"),
        ("learned", "dispatcher", "dispatchers 'learned' is taken by dyt; choose another name"),
        ("top", "dispatchers", "no kind of plug-in 'dispatchers'; did you mean 'dispatcher'?"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(name: str, kind: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(dyt.DyTError) as caught:
        new_plugin(name, kind, tmp_path)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "dyt-top").mkdir()
    result = CliRunner().invoke(app, ["new-plugin", "top", "--kind", "adapter", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "exists; choose another name" in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*")] == ["dyt-top"]


def test_a_failure_in_the_middle_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="No space"):
        new_plugin("top", "adapter", tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_command_says_where_and_what_next(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["new-plugin", "top", "--kind", "executor", "--out", str(tmp_path / "deep" / "er")]
    )
    assert result.exit_code == 0, result.output
    folder = tmp_path / "deep" / "er" / "dyt-top"
    assert str(folder) in result.stdout
    assert (folder / "src" / "dyt_top" / "__init__.py").is_file()
