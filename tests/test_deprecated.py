"""Names of before: each still works, is the same thing as the new one, and says the new one."""

import importlib
import importlib.util
import pickle
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch

import dyt
from dyt import dispatchers, executors, reducers, train
from dyt.core.route import Route
from dyt.deprecated import MOVED, install
from dyt.heads import Classifier, Head
from dyt.inference import rewrites, thresholds
from dyt.inference.rewrites import report
from dyt.measure import bench
from dyt.paper import costs
from dyt.train import evaluation

STANDING_IN = {"bridges"}
"""Packages of before that are files now: a module of their own, with the names of the new one."""
INSIDE = [
    (dispatchers, "Place", "BuildContext"),
    (dispatchers, "Moment", "DecisionContext"),
    (reducers, "Position", "BuildContext"),
    (reducers, "Scene", "DecisionContext"),
    (executors, "Room", "TokenCapacity"),
    (rewrites, "Report", "OptimizationReport"),
    (report, "Report", "OptimizationReport"),
    (thresholds, "calibrate_rate", "calibrate_thresholds"),
    (bench, "Row", "BenchRow"),
    (costs, "Row", "PaperCosts"),
    (train, "calibrate_rate", "calibrate_thresholds"),
    (train, "Report", "Evaluation"),
    (evaluation, "Report", "Evaluation"),
]


@pytest.fixture(autouse=True)
def _not_yet_imported() -> Iterator[None]:
    """Old names are forgotten before each test, since only their first import warns, and after it."""
    forget()
    yield
    forget()


def forget() -> None:
    for old in MOVED:
        sys.modules.pop(f"dyt.{old}", None)
        parent, _, name = old.rpartition(".")
        where = MOVED.get(parent, parent)
        holder = ".".join(["dyt", where] if where else ["dyt"])
        if f"{holder}.{name}" not in sys.modules and holder in sys.modules:  # importing makes it an attribute there
            vars(sys.modules[holder]).pop(name, None)


@contextmanager
def warned() -> Iterator[list[str]]:
    """Inside, warnings are no errors; their messages, each of a `DeprecationWarning`."""
    messages: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield messages
    assert {warning.category for warning in caught} <= {DeprecationWarning}
    messages += [str(warning.message) for warning in caught]


def moved(old: str) -> str:
    return f"dyt.{old} is dyt.{MOVED[old]} now; the old name goes away in the next minor version"


@pytest.mark.parametrize("old", MOVED)
def test_an_old_module_is_the_new_one_and_says_so(old: str) -> None:
    new = importlib.import_module(f"dyt.{MOVED[old]}")
    known = new.__spec__, new.__name__, new.__loader__
    with warned() as messages:
        module = importlib.import_module(f"dyt.{old}")
    parent = old.rpartition(".")[0]
    assert messages == [moved(each) for each in (parent, old) if each in MOVED]
    assert (new.__spec__, new.__name__, new.__loader__) == known
    if old in STANDING_IN:
        assert dir(module) == dir(new)
        assert all(getattr(module, name) is getattr(new, name) for name in dir(new) if not name.startswith("__"))
        assert module.__doc__ == new.__doc__
    else:
        assert module is new
        assert sys.modules[f"dyt.{old}"] is new


def test_only_the_first_import_warns() -> None:
    with pytest.warns(DeprecationWarning, match=r"dyt\.route is dyt\.core\.route now"):
        importlib.import_module("dyt.route")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.import_module("dyt.route")


@pytest.mark.parametrize(
    ("statement", "name", "new"),
    [
        ("import dyt.route as x", "x", "core.route"),
        ("import dyt.rewrites.mlp as x", "x", "inference.rewrites.mlp"),
        ("import dyt.executors.base as x", "x", "core.execution"),
        ("import dyt.bridges.huggingface as x", "x", "core.hf_model"),
        ("from dyt import route", "route", "core.route"),
        ("from dyt import rewrites", "rewrites", "inference.rewrites"),
        ("from dyt.measure import calibration", "calibration", "inference.break_even"),
        ("from dyt.rewrites import int8", "int8", "inference.quantize"),
        ("import dyt; x = dyt.specfile", "x", "config.files"),
    ],
)
def test_every_way_to_import_a_module(statement: str, name: str, new: str) -> None:
    importlib.import_module(f"dyt.{new}")
    there: dict[str, ModuleType] = {}
    with warned() as messages:
        exec(statement, there)
    assert f"is dyt.{new} now" in messages[-1]
    assert there[name] is sys.modules[f"dyt.{new}"]


def test_a_name_from_an_old_module_is_the_same_object() -> None:
    with pytest.warns(DeprecationWarning, match=r"dyt\.route is"):
        from dyt.route import Route as Old
    assert Old is Route
    with pytest.warns(DeprecationWarning, match=r"dyt\.bridges is"):
        from dyt.bridges import bridged
    assert bridged is importlib.import_module("dyt.core.interop").bridged
    with pytest.raises(ImportError, match="cannot import name 'Nothing'"):
        exec("from dyt.route import Nothing")


def test_what_is_put_into_an_old_module_is_in_the_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a test of a plug-in's may do."""
    from dyt.core import route

    with pytest.warns(DeprecationWarning, match=r"dyt\.route is"):
        monkeypatch.setattr("dyt.route.mean_token", None)
    assert route.mean_token is None


def test_a_package_of_before_loads_no_file_twice() -> None:
    """The files of `dyt.inference.rewrites` are not those of a second package `dyt.rewrites`."""
    with warned() as messages:
        from dyt.rewrites.apply import optimize
    assert messages == [moved("rewrites"), moved("rewrites.apply")]
    assert optimize is dyt.optimize


@pytest.mark.parametrize("old", MOVED)
def test_a_module_can_be_looked_for_without_a_warning(old: str) -> None:
    parent = old.rpartition(".")[0]
    if parent in MOVED:  # Python imports it to look inside
        with pytest.warns(DeprecationWarning, match=rf"^dyt\.{parent} is dyt\."):
            importlib.import_module(f"dyt.{parent}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = importlib.util.find_spec(f"dyt.{old}")
    assert found is not None
    assert found.origin == f"dyt.{MOVED[old]}"
    assert f"dyt.{old}" not in sys.modules


@pytest.mark.parametrize("name", ["nothing", "routes", "executors.nothing", "core.spec", "inference.capacit"])
def test_an_unknown_module_is_not_found_as_ever(name: str) -> None:
    with pytest.raises(ModuleNotFoundError, match=rf"No module named 'dyt\.{name}'"):
        importlib.import_module(f"dyt.{name}")
    assert importlib.util.find_spec(f"dyt.{name}") is None


def test_names_like_ours_elsewhere_are_left_alone() -> None:
    assert importlib.util.find_spec("route") is None
    assert importlib.util.find_spec("json.spec") is None


def test_an_unknown_name_of_the_package_is_told_as_ever() -> None:
    with pytest.raises(AttributeError, match=r"^module 'dyt' has no attribute 'nothing'$"):
        dyt.nothing  # noqa: B018


def test_no_old_name_is_that_of_a_module_there_is() -> None:
    """The finder would hide its file."""
    source = Path(dyt.__file__).parent
    files = {".".join(path.relative_to(source).with_suffix("").parts) for path in source.rglob("*.py")}
    assert not {old for old in MOVED if old in files or f"{old}.__init__" in files}
    assert all(new in files or f"{new}.__init__" in files for new in MOVED.values())


@pytest.mark.parametrize(("room", "old", "new"), INSIDE, ids=lambda each: getattr(each, "__name__", each))
def test_a_renamed_class_is_the_new_one_and_says_so(room: ModuleType, old: str, new: str) -> None:
    wanted = f"{room.__name__}.{old} is {room.__name__}.{new} now; the old name goes away in the next minor version"
    with pytest.warns(DeprecationWarning, match=rf"\.{old} is ") as caught:
        found = getattr(room, old)
    assert [str(warning.message) for warning in caught] == [wanted]
    assert caught[0].filename == __file__
    assert found is getattr(room, new)
    with pytest.warns(DeprecationWarning, match=old):
        exec(f"from {room.__name__} import {old}")
    assert old not in getattr(room, "__all__", ())
    with pytest.raises(AttributeError, match=f"^module '{room.__name__}' has no attribute 'Nothing'$"):
        room.Nothing  # noqa: B018


def test_every_renamed_name_is_tried() -> None:
    """Whoever renames another one adds it above."""
    source = Path(dyt.__file__).parent
    rooms = {path for path in source.rglob("*.py") if "= renamed(" in path.read_text(encoding="utf-8")}
    assert rooms == {Path(room.__file__) for room, _, _ in INSIDE if room.__file__}
    for room in {each for each, _, _ in INSIDE}:
        names = room.__getattr__.__closure__
        table = next(cell.cell_contents for cell in names if isinstance(cell.cell_contents, dict))
        assert table == {old: new for each, old, new in INSIDE if each is room}


def test_a_site_says_the_new_name() -> None:
    small = {"name": "vit_tiny_patch16_224", "weights": "none", "args": {"depth": 1, "embed_dim": 32, "num_heads": 2}}
    site = dyt.build({"backbone": small}).sites[0]
    with pytest.warns(DeprecationWarning, match=r"Site\.settled is Site\.fixed_route"):
        assert site.settled is site.fixed_route


def test_a_pickle_of_before_is_read() -> None:
    """Classes and objects are pickled by the path of their module."""
    old = Route(torch.ones(1, 2, dtype=torch.bool), 1, site="blocks.0.mlp")
    written = pickle.dumps(old, protocol=0).replace(b"dyt.core.route", b"dyt.route")
    assert b"dyt.core" not in written
    with pytest.warns(DeprecationWarning, match=r"dyt\.route is"):
        again = pickle.loads(written)
    assert type(again) is Route
    assert (again.prefix, again.site) == (1, "blocks.0.mlp")
    assert torch.equal(again.active, old.active)


def test_the_finder_stands_once_and_first_in_a_fresh_process() -> None:
    script = """
import sys, warnings
import dyt
from dyt.deprecated import _Moved, install
install()
assert [isinstance(finder, _Moved) for finder in sys.meta_path].count(True) == 1
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import dyt.steer
    assert dyt.steer is sys.modules["dyt.core.context"]
assert [(w.category, w.filename) for w in caught] == [(DeprecationWarning, "<string>")], caught
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_installing_twice_adds_nothing() -> None:
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before


def test_a_head_that_shares_its_stem_shares_its_prefix() -> None:
    """A plug-in's head from before: a `DeprecationWarning` where its class is made, and it works."""

    def own() -> type[Head]:
        class Own(Head):
            shares_stem = True

        return Own

    def older() -> type[Head]:
        class Older(Classifier):
            shares_stem = False

        return Older

    def both() -> type[Head]:
        class Both(Head):
            shares_stem, shares_prefix = False, True

        return Both

    for make, shared in ((own, True), (older, False), (both, True)):
        with pytest.warns(DeprecationWarning, match="shares_stem is shares_prefix now; the old name goes") as caught:
            made = make()
        assert [warning.filename for warning in caught] == [__file__]
        assert made.__qualname__ in str(caught[0].message)
        assert made.shares_prefix is shared
        with warnings.catch_warnings():
            warnings.simplefilter("error")

            class Below(made):  # type: ignore[valid-type,misc]
                pass

            class Newer(made):  # type: ignore[valid-type,misc]
                shares_prefix = not shared

        assert Below.shares_prefix is shared
        assert Newer.shares_prefix is not shared
    assert Head.shares_prefix is False
