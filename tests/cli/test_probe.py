"""Plug-ins that hang or end the process that imports them: listings name them and go on."""

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import dyt
from dyt.cli import probe
from dyt.cli.main import app
from dyt.errors import DyTError
from dyt.registry import KINDS, PluginWarning, Registry

Install = Callable[..., None]
GOOD = "class Good: pass"
HANGS = "import time\ntime.sleep(600)"
LIGHT = (
    "import sys, types; face = sys.modules['dyt'] = types.ModuleType('dyt')\n"
    f"face.__path__ = [{str(Path(dyt.__file__).parent)!r}]\n"
    "import dyt.cli.probe; dyt.cli.probe.main()"
)
"""The child without the library's face, which takes seconds to import; the plug-ins of these tests do not need it."""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Writes a distribution with entry points of a group, and puts it on the path."""
    before = set(sys.modules)

    def write(dist: str, offers: dict[str, str], group: str = "dyt_gadgets", **modules: str) -> None:
        root = tmp_path / dist
        (root / f"{dist}-1.0.dist-info").mkdir(parents=True)
        (root / f"{dist}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: 1.0\n")
        lines = [f"{name} = {value}" for name, value in offers.items()]
        (root / f"{dist}-1.0.dist-info" / "entry_points.txt").write_text("\n".join([f"[{group}]", *lines, ""]))
        for name, source in modules.items():
            (root / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(root))

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """The only kind, and a light child with little patience."""
    made: Registry[Any] = Registry("gadgets", group="dyt_gadgets")
    monkeypatch.setattr(probe, "KINDS", {"gadgets": made})
    monkeypatch.setattr(probe, "COMMAND", [sys.executable, "-c", LIGHT])
    monkeypatch.setattr(probe, "PATIENCE", 1.0)
    return made


def test_without_plug_ins_no_child_is_started(registry: Registry[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "COMMAND", ["no such program"])
    registry("own")(type("Own", (), {"__module__": "dyt.own"}))
    probe.probe()
    assert registry.problems() == ()


def test_one_that_hangs_and_one_that_ends_its_process_are_named(registry: Registry[Any], install: Install) -> None:
    install("first", {"first": "plug_first:Good"}, plug_first=GOOD)
    install("hanging", {"hanging": "plug_hanging:Good"}, plug_hanging=HANGS)
    install("ending", {"ending": "plug_ending:Good"}, plug_ending="import os\nos._exit(7)")
    install("failing", {"failing": "plug_failing:Good"}, plug_failing="raise KeyboardInterrupt")
    install("noisy", {"noisy": "plug_noisy:Good"}, plug_noisy=f"print('3\\n' * 99)\n{GOOD}")
    begun = time.monotonic()
    probe.probe()
    assert time.monotonic() - begun < 60
    assert "plug_first" not in sys.modules  # the child has imported it, and not this process
    with pytest.warns(PluginWarning):
        assert registry.names() == ["first", "noisy"]
    told = {problem.name: str(problem) for problem in registry.problems()}
    assert told["hanging"] == (
        "gadgets 'hanging' of hanging 1.0 is disabled: plug_hanging:Good cannot be imported: timed out after 1 s; "
        "update or uninstall hanging"
    )
    assert told["ending"] == (
        "gadgets 'ending' of ending 1.0 is disabled: plug_ending:Good cannot be imported: it ended its process with "
        "code 7; update or uninstall ending"
    )
    assert "plug_failing:Good cannot be imported: KeyboardInterrupt" in told["failing"]
    assert "plug_hanging" not in sys.modules
    assert "plug_ending" not in sys.modules


def test_a_child_that_cannot_start_is_an_error_of_one_line(
    registry: Registry[Any], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    install("first", {"first": "plug_first:Good"}, plug_first=GOOD)
    monkeypatch.setattr(probe, "COMMAND", [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(DyTError, match="plug-ins cannot be tried"):
        probe.probe()


def test_a_listing_and_the_doctor_name_it(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    """A family, which everything that lists asks for, and an executor by a wrong class."""
    monkeypatch.setattr("dyt.assembly.hub.reachable", lambda: False)
    monkeypatch.setattr(probe, "COMMAND", [sys.executable, "-c", LIGHT])
    monkeypatch.setattr(probe, "PATIENCE", 1.0)
    install("hanging", {"hanging": "plug_hanging:Good"}, group="dyt_families", plug_hanging=HANGS)
    install("wrong", {"wrong": "plug_wrong:Good"}, group="dyt_executors", plug_wrong=GOOD)
    said = "families 'hanging' of hanging 1.0 is disabled: plug_hanging:Good cannot be imported: timed out after 1 s"
    with KINDS["families"].temporary(), KINDS["executors"].temporary():
        listed = CliRunner().invoke(app, ["list"])
        assert listed.exit_code == 0, listed.output
        assert f"dyt: {said}" in listed.stderr
        assert "dyt: executors 'wrong' of wrong 1.0 is disabled: " in listed.stderr
        assert "hanging" not in listed.stdout
        assert "  vit\n" in listed.stdout
    with KINDS["families"].temporary(), KINDS["executors"].temporary():
        found = CliRunner().invoke(app, ["doctor"])
        assert found.exit_code == 1
        assert said in found.stdout
        assert "2 broken: " in found.stdout


def test_the_child_itself(install: Install, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that is really started, with a plug-in that needs the library."""
    if not request.config.getoption("--full"):
        pytest.skip("imports the library in a process of its own; with --full")
    monkeypatch.setattr(probe, "PATIENCE", 3.0)
    good = "import dyt\nclass Good(dyt.dispatchers.Dispatcher):\n    def decide(self, tokens, context): ..."
    install("good", {"good": "plug_good:Good"}, group="dyt_dispatchers", plug_good=good)
    install("hanging", {"hanging": "plug_hanging:Good"}, group="dyt_dispatchers", plug_hanging=HANGS)
    with KINDS["dispatchers"].temporary():
        listed = CliRunner().invoke(app, ["list", "dispatchers"])
        assert listed.exit_code == 0, listed.output
        assert "good  (good 1.0)" in listed.stdout
        assert "timed out after 3 s" in listed.stderr
