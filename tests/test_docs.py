"""README and docs say only what is true: snippets run, commands exist, tables of specs are those of the models."""

import importlib.util
import re
import shlex
import sys
import types
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

import dyt
from dyt.config.fields import fields
from dyt.config.files import override
from dyt.config.spec import parse
from dyt.train import RunSpec, recipe
from dyt.train.named_runs import with_preset

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>[^\n`]*)\n(?P<body>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "Not run in the tests: "
"""A snippet's title starts with it when it is not executed; the reason follows, and readers see it as well."""


@dataclass(frozen=True)
class Fence:
    page: Path
    line: int
    language: str
    title: str
    body: str


def fences(page: Path) -> list[Fence]:
    text, found = page.read_text(encoding="utf-8"), []
    for match in FENCE.finditer(text):
        language, _, rest = match["info"].strip().partition(" ")
        title = re.search(r'title="([^"]*)"', rest)
        body = "\n".join(line.removeprefix(match["indent"]) for line in match["body"].splitlines())
        line = text.count("\n", 0, match.start()) + 2
        found.append(Fence(page, line, language, title[1] if title else "", body))
    return found


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_fences(language: str) -> list[Path]:
    return [page for page in PAGES if any(fence.language == language for fence in fences(page))]


@pytest.mark.parametrize("page", with_fences("python"), ids=name)
def test_python_snippets_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """In order, in one namespace, as a reader would type them; what they register is forgotten afterwards."""
    if name(page) == "README.md" and not request.config.getoption("--full"):
        pytest.skip("calibrates a model of full size, which takes half a minute; `.ci/run` runs it, use --full")
    module = types.ModuleType("snippets_of_the_docs")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    with ExitStack() as stack:
        for registry in dyt.registry.KINDS.values():
            stack.enter_context(registry.temporary())
        for fence in fences(page):
            if fence.language == "python" and not fence.title.startswith(NOT_RUN):
                code = "\n" * (fence.line - 1) + fence.body  # so that a traceback has the page's line
                exec(compile(code, str(page), "exec"), module.__dict__)


def test_a_snippet_that_is_not_run_says_why() -> None:
    reasons = [f.title.removeprefix(NOT_RUN) for page in PAGES for f in fences(page) if f.title.startswith(NOT_RUN)]
    assert reasons
    assert all(len(reason.split()) >= 3 for reason in reasons), reasons


def commands() -> list[Any]:
    found = []
    for page in PAGES:
        for fence in fences(page):
            if fence.language in {"bash", "sh", "shell", "console"}:
                joined = fence.body.replace("\\\n", " ")
                parts = re.split(r"&&|\|\||[|;\n]", joined)
                calls = [call[1] for part in parts if (call := re.search(r"(?:^|\s)(dyt(?:\s.*|$))", part))]
                found += [pytest.param(call, id=f"{name(page)}:{call}") for call in calls]
        prose = FENCE.sub("", page.read_text(encoding="utf-8"))
        spans = re.findall(r"`(dyt [a-z][^`]*)`", prose)
        spans += [f"dyt train {span}" for span in re.findall(r"`(--set [^`=]+=[^`]*)`", prose) if "a.b=c" not in span]
        found += [pytest.param(span, id=f"{name(page)}:{span}") for span in spans]
    return found


@pytest.mark.parametrize("line", commands())
def test_commands_exist(line: str) -> None:
    """The verb is one of the command line's, and every option that is written is an option of that verb."""
    from dyt.cli.main import app

    root = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    command: Any = root
    while words and not words[0].startswith("-") and hasattr(command, "commands"):
        assert words[0] in command.commands, f"no verb '{words[0]}'; there are {sorted(command.commands)}"
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    written = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)} - {"--help"}
    assert written <= known, f"no option {sorted(written - known)}; there are {sorted(known)}"


def options_of(words: list[str], name: str) -> list[str]:
    return [value for option, value in pairwise(words) if option == name]


@pytest.mark.parametrize("line", [c for c in commands() if "--set" in c.values[0] and "=..." not in c.values[0]])
def test_overrides_are_taken(line: str) -> None:
    """What stands behind `--set` changes a field that there is, and gives a spec that is valid."""
    words = shlex.split(line, comments=True)
    changes = options_of(words, "--set")
    if words[1] in {"train", "sweep"}:
        plain = recipe((options_of(words, "--recipe") or [{"train": "default", "sweep": "vtab1k"}[words[1]]])[0])
        for preset in options_of(words, "--preset"):
            plain = with_preset(plain, preset)
        parse(RunSpec, override(plain, ["data.root=images", *changes]))
    else:
        parse(dyt.DyTSpec, override(dyt.DyTSpec().model_dump(mode="json"), changes))


def test_the_two_commands_stand_alone_on_their_lines() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("pip install -e . && dyt demo", 'pip install -e ".[dev]" && pytest -n auto'):
        assert any(f.body.strip() == command for f in fences(ROOT / "README.md") if f.language == "bash"), command
        assert re.search(rf"^{re.escape(command)}$", readme, re.MULTILINE)
    assert 'pip install -e ".[dev]" && pytest -n auto' in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def tables() -> Any:
    """The script that writes the tables of specs' fields."""
    found = importlib.util.spec_from_file_location("spec_tables", ROOT / "scripts" / "spec_tables.py")
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", [*tables().pages()], ids=name)
def test_tables_of_specs_are_those_of_the_descriptions(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert tables().with_tables(text) == text, "run scripts/spec_tables.py"


def test_a_table_that_differs_is_written_anew() -> None:
    page = ROOT / "docs" / "specs.md"
    text = page.read_text(encoding="utf-8")
    changes = {"| `0.5` |": "| `0.6` |", "The target activation rate": "A rate", "| `rate_weight` |": "| `weight` |"}
    for old, new in changes.items():
        changed = text.replace(old, new, 1)
        assert changed != text
        assert tables().with_tables(changed) == text
    assert tables().with_tables("`dyt.Ramp`\n\n|\n").count("\n| `") == len(dyt.Ramp.model_fields)


def test_every_spec_has_a_table() -> None:
    script = tables()
    texts = [page.read_text(encoding="utf-8") for page in script.pages()]
    paths = [match["path"] for text in texts for match in script.TABLE.finditer(text)]
    assert len(paths) == len(set(paths)), "a spec has two tables"
    wanted = {spec for _, spec, _ in fields((dyt.DyTSpec, RunSpec))}
    for kind in dyt.registry.KINDS.values():
        wanted -= {cls.Spec for key, cls in kind.items() if kind.origin(key) != "dyt" and hasattr(cls, "Spec")}
    assert {script.spec_at(path) for path in paths} >= {spec for spec in wanted if script.shown(spec)}


def test_every_public_name_is_in_the_api_reference() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    assert set(re.findall(r"^::: dyt\.(\w+)$", text, re.MULTILINE)) >= set(dyt.__all__)
