"""The catalogue's rules, against fake installed distributions on disk."""

import abc
import ast
import contextlib
import importlib
import importlib.metadata
import itertools
import pickle
import re
import signal
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import catalogue
import pydantic
import pytest
import timm

import dyt.families
import dyt.registry
from dyt.registry import KINDS, PluginWarning, Problem, Registry, RegistryError, UnknownNameError

Install = Callable[..., None]
_unique = itertools.count()


class Gadget(abc.ABC):
    """The base class of the fakes."""

    @abc.abstractmethod
    def work(self) -> int: ...


def gadget(name: str = "Mine", module: str = __name__) -> type:
    """A concrete gadget class that says it comes from `module`."""
    return type(name, (Gadget,), {"work": lambda self: 1, "__module__": module})


@pytest.fixture
def registry() -> Registry[Any]:
    return Registry("gadgets", group="dyt_gadgets")


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Writes a distribution and puts it on the path; what it imports is forgotten afterwards."""
    before = set(sys.modules)

    def write(dist: str, version: str, offers: dict[str, str], **modules: str) -> None:
        root = tmp_path / f"site-{next(_unique)}"
        info = root / f"{dist.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        lines = [f"{name} = {value}" for name, value in offers.items()]
        (info / "entry_points.txt").write_text("\n".join(["[dyt_gadgets]", *lines, ""]))
        for path, source in modules.items():
            file = root / (path.replace("__in__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(textwrap.dedent(source))
        monkeypatch.syspath_prepend(str(root))

    yield write
    for name in set(sys.modules) - before:
        if name.startswith("plug_"):
            del sys.modules[name]


def in_threads(work: Callable[[], Any], count: int = 8) -> list[Any]:
    """What `work` answers or raises in threads started together; fails when one does not come back."""
    barrier, answers = threading.Barrier(count), []

    def run() -> None:
        barrier.wait()
        try:
            answers.append(work())
        except Exception as error:
            answers.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert not any(thread.is_alive() for thread in threads), "deadlock"
    return answers


PLAIN = """
    class Good:
        pass
"""


# --- registering by decorator


def test_decorator_returns_the_class_unchanged(registry: Registry[Any]) -> None:
    mine = gadget()
    assert registry("mine")(mine) is mine
    assert registry.get("mine") is mine
    assert "mine" in registry
    assert "other" not in registry
    assert 3 not in registry
    assert registry.origin("mine") == f"module {__name__}"


def test_catalogue_holds_the_components(registry: Registry[Any]) -> None:
    mine = registry("mine")(gadget())
    assert mine in catalogue.REGISTRY.values()


def test_registries_of_one_kind_are_apart(registry: Registry[Any]) -> None:
    registry("mine")(gadget())
    assert Registry("gadgets", group="dyt_gadgets").names() == []


def test_listings_are_sorted(registry: Registry[Any]) -> None:
    classes = {name: registry(name)(gadget(name)) for name in ("zeta", "alpha", "mid")}
    assert registry.names() == list(registry) == ["alpha", "mid", "zeta"]
    assert registry.items() == sorted(classes.items())


def test_duplicates_never_overwrite(registry: Registry[Any]) -> None:
    first, second = gadget("First", "some.place"), gadget("Second", "other.place")
    registry("mine")(first)
    with pytest.raises(RegistryError, match=r"some\.place:First") as caught:
        registry("mine")(second)
    assert "other.place:Second" in str(caught.value)
    assert "'mine'" in str(caught.value)
    assert registry.get("mine") is first


def test_a_redefinition_is_a_duplicate_but_the_same_object_is_harmless(registry: Registry[Any]) -> None:
    first = registry("mine")(gadget())
    assert registry("mine")(first) is first
    with pytest.raises(RegistryError):
        registry("mine")(gadget())
    assert registry.get("mine") is first


def test_a_runtime_class_cannot_take_a_built_ins_name_nor_the_reverse(registry: Registry[Any]) -> None:
    registry("mlp")(gadget("Mlp", "dyt.gadgets.mlp"))
    with pytest.raises(RegistryError, match=r"dyt\.gadgets\.mlp:Mlp \(dyt\)"):
        registry("mlp")(gadget())
    registry("own")(gadget("Own", "script"))
    with pytest.raises(RegistryError, match=r"script:Own \(module script\)"):
        registry("own")(gadget("Own", "dyt.gadgets.own"))
    assert registry.origin("mlp") == "dyt"
    assert registry.origin("own") == "module script"


@pytest.mark.parametrize("name", ["", "Mlp", "attn-mlp", "2d", "_x", "a b", "mlp\n", "a.b", "é", 3, None, Gadget])
def test_names_against_the_rule_are_refused_with_the_rule(registry: Registry[Any], name: Any) -> None:
    with pytest.raises(RegistryError, match=r"\[a-z\]\[a-z0-9_\]\*"):
        registry(name)
    assert registry.names() == []


@pytest.mark.parametrize("name", ["a", "attn_mlp", "top_2", "x__"])
def test_names_by_the_rule_are_accepted(registry: Registry[Any], name: str) -> None:
    registry(name)(gadget())
    assert registry.names() == [name]


@pytest.mark.parametrize(
    ("wrong", "given"),
    [(int, "builtins:int"), (Gadget, "abstract: it lacks work"), (len, "builtin_function"), ("text", "type str")],
)
def test_wrong_types_raise_at_once(registry: Registry[Any], wrong: Any, given: str) -> None:
    assert registry.accepts(Gadget) is Gadget
    with pytest.raises(RegistryError, match=r"concrete subclass of .*:Gadget") as caught:
        registry("mine")(wrong)
    assert given in str(caught.value)
    assert registry.names() == []


def test_without_a_base_any_concrete_class_is_accepted(registry: Registry[Any]) -> None:
    registry("number")(int)
    for wrong in (len, Gadget):
        with pytest.raises(RegistryError, match="concrete class"):
            registry("wrong")(wrong)  # type: ignore[type-var]


def test_accepts_is_said_once_and_looks_back(registry: Registry[Any]) -> None:
    registry("number")(int)
    with pytest.raises(RegistryError, match="builtins:int"):
        registry.accepts(Gadget)
    registry("text")(str)  # the refused base is not in force
    other: Registry[Any] = Registry("gadgets")
    other.accepts(Gadget)
    other.accepts(Gadget)
    with pytest.raises(RegistryError, match=r"already accepts .*:Gadget"):
        other.accepts(int)


# --- asking


def test_an_unknown_name_is_answered_with_the_nearest_and_all(registry: Registry[Any]) -> None:
    for name in ("mlp", "attn", "layer"):
        registry(name)(gadget(name))
    with pytest.raises(UnknownNameError) as caught:
        registry.get("mpl")
    assert str(caught.value) == "gadgets has no 'mpl'; did you mean 'mlp'? allowed: attn, layer, mlp"
    with pytest.raises(UnknownNameError, match="did you mean 'layer'"):
        registry.get("LAYER")
    with pytest.raises(UnknownNameError) as caught:
        registry.get("zzzzzz")
    assert "did you mean" not in str(caught.value)
    assert "attn, layer, mlp" in str(caught.value)
    with pytest.raises(UnknownNameError):
        registry.origin("mpl")


@pytest.mark.parametrize("name", [3, None, ["mlp"], {"type": "mlp"}, b"mlp"])
def test_a_name_that_is_no_string_is_answered_likewise(registry: Registry[Any], name: Any) -> None:
    registry("mlp")(gadget())
    with pytest.raises(UnknownNameError, match=f"{type(name).__name__}.*allowed: mlp"):
        registry.get(name)
    assert name not in registry


def test_an_empty_registry_says_so(registry: Registry[Any]) -> None:
    with pytest.raises(UnknownNameError, match="allowed: none"):
        registry.get("mlp")


def test_pydantic_turns_it_into_a_validation_error(registry: Registry[Any]) -> None:
    registry("mlp")(gadget())

    class Spec(pydantic.BaseModel):
        type: str

        @pydantic.field_validator("type")
        @classmethod
        def known(cls, value: str) -> str:
            registry.get(value)
            return value

    assert Spec(type="mlp").type == "mlp"
    with pytest.raises(pydantic.ValidationError, match="did you mean 'mlp'"):
        Spec(type="mlpp")


def test_errors_survive_pickling(registry: Registry[Any]) -> None:
    with pytest.raises(UnknownNameError) as caught:
        registry.get("x")
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


# --- plug-ins


def test_a_plug_in_is_loaded_when_asked_for_and_not_before(registry: Registry[Any], install: Install) -> None:
    install("vit-tricks", "1.2", {"good": "plug_good:Good"}, plug_good=PLAIN)
    install("other", "3.0", {"lazy": "plug_lazy:Good"}, plug_lazy=PLAIN)
    registry("built")(gadget("Built", "dyt.gadgets"))
    assert registry.get("built")
    assert "built" in registry
    assert repr(registry)
    assert "plug_good" not in sys.modules
    assert "good" in registry
    assert registry.get("good") is sys.modules["plug_good"].Good
    assert registry.origin("good") == "vit-tricks 1.2"
    assert "plug_lazy" not in sys.modules
    assert registry.names() == ["built", "good", "lazy"]
    assert "plug_lazy" in sys.modules
    assert registry.problems() == ()


def test_built_ins_come_and_go_without_a_look_at_entry_points(
    registry: Registry[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def forbidden(**_: Any) -> Any:
        raise AssertionError("entry points were enumerated")

    monkeypatch.setattr(dyt.registry, "entry_points", forbidden)
    registry.accepts(Gadget)
    mine = registry("mlp")(gadget("Mlp", "dyt.gadgets"))
    assert registry.get("mlp") is mine
    repr(registry)
    with pytest.raises(AssertionError, match="enumerated"):
        registry.names()


def test_what_is_at_hand_needs_no_plug_in(registry: Registry[Any], install: Install) -> None:
    install("dyt-tricks", "1.2", {"good": "plug_good:Good", "dyt_own": "plug_good:Good"}, plug_good=PLAIN)
    registry("zeta")(gadget("Zeta", "dyt.gadgets"))
    registry("mine")(gadget())
    assert [name for name, _ in registry.at_hand()] == ["mine", "zeta"]
    assert "plug_good" not in sys.modules
    assert registry.names() == ["dyt_own", "good", "mine", "zeta"]
    assert [name for name, _ in registry.at_hand()] == ["mine", "zeta"]


def test_a_build_on_a_known_backbone_imports_no_family_of_a_plug_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "hanging-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hanging\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[dyt_families]\naaa = plug_aaa:Good\n")
    (tmp_path / "plug_aaa.py").write_text("import time\ntime.sleep(600)")
    monkeypatch.syspath_prepend(str(tmp_path))
    known = timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)
    with KINDS["families"].temporary() as families:
        assert [offer.value for offer in families.unsettled()] == ["plug_aaa:Good"]
        found = dyt.families.find(known)
        assert found is not None
        assert found[0] == "vit"
    assert "plug_aaa" not in sys.modules


def test_an_unknown_name_lists_plug_ins_too(registry: Registry[Any], install: Install) -> None:
    install("vit-tricks", "1.2", {"good": "plug_good:Good"}, plug_good=PLAIN)
    with pytest.raises(UnknownNameError, match="did you mean 'good'"):
        registry.get("goood")


BROKEN = {
    "error": ("raise RuntimeError('no\\nluck')", "RuntimeError: no luck"),
    "syntax": ("class :", "SyntaxError"),
    "missing": ("import no_such_module_at_all", "ModuleNotFoundError"),
    "exit": ("import sys\nsys.exit(3)", "SystemExit: 3"),
    "generator": ("raise GeneratorExit", "GeneratorExit"),
    "interrupt": ("raise KeyboardInterrupt('mine')", "KeyboardInterrupt: mine"),
    "cancelled": ("import asyncio\nraise asyncio.CancelledError", "CancelledError"),
    "bare": ("class E(BaseException): pass\nraise E('bad')", "E: bad"),
    "nothing": ("", "AttributeError"),
    "function": ("def Good(): ...", "type function"),
    "stranger": ("Good = dict", "builtins:dict"),
    "abstract": ("from tests_gadget import Gadget as Good", "abstract: it lacks work"),
    "badly_said": ("class E(Exception):\n    def __str__(self): raise ValueError\nraise E", "E:"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plug_in_disables_only_itself(
    registry: Registry[Any], install: Install, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    source, reason = BROKEN[case]
    monkeypatch.setitem(sys.modules, "tests_gadget", sys.modules[__name__])
    install("bad-luck", "0.1", {case: "plug_bad:Good"}, plug_bad=source)
    fine = "from tests_gadget import gadget\nGood = gadget()"
    install("fine", "1.0", {"fine": "plug_fine:Good"}, plug_fine=fine)
    registry.accepts(Gadget)
    registry("mine")(gadget())
    with pytest.warns(PluginWarning) as warned:
        assert registry.names() == ["fine", "mine"]
    assert [str(w.message) for w in warned] == [str(registry.problems()[0])]
    (problem,) = registry.problems()
    assert (problem.kind, problem.name, problem.distribution) == ("gadgets", case, "bad-luck 0.1")
    assert reason in problem.reason
    assert "\n" not in problem.reason
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once means once
        assert registry.names() == ["fine", "mine"]
        assert case not in registry
        for ask in (registry.get, registry.origin):
            with pytest.raises(RegistryError) as caught:
                ask(case)
            assert not isinstance(caught.value, UnknownNameError)
            assert problem.reason in str(caught.value)
            assert "bad-luck 0.1" in str(caught.value)
    assert registry.get("fine")
    assert registry.get("mine")


def test_asking_for_a_broken_plug_in_warns_once_and_tells(registry: Registry[Any], install: Install) -> None:
    install("bad-luck", "0.1", {"bad": "plug_bad:Good"}, plug_bad="raise RuntimeError('no luck')")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(3):
            with pytest.raises(RegistryError, match="no luck"):
                registry.get("bad")
        registry.names()
    assert [w.category for w in warned] == [PluginWarning]
    assert "no luck" in str(warned[0].message)
    assert warned[0].filename == __file__


def test_where_warnings_are_errors_the_answer_is_still_the_registrys(registry: Registry[Any], install: Install) -> None:
    install("bad-luck", "0.1", {"bad": "plug_bad:Good"}, plug_bad="raise RuntimeError('no luck')")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RegistryError, match="no luck"):
            registry.get("bad")
        with pytest.raises(UnknownNameError):
            registry.get("worse")


def test_a_broken_plug_in_is_not_tried_again(registry: Registry[Any], install: Install) -> None:
    sys.plug_tries = 0  # type: ignore[attr-defined]
    install("bad", "0.1", {"bad": "plug_bad:Good"}, plug_bad="import sys\nsys.plug_tries += 1\nraise OSError")
    for _ in range(3):
        assert "bad" not in registry
        registry.problems()
    assert sys.plug_tries == 1  # type: ignore[attr-defined]
    del sys.plug_tries  # type: ignore[attr-defined]


def test_ctrl_c_passes_and_leaves_nothing_behind(registry: Registry[Any], install: Install) -> None:
    pressed = (
        "import signal, time\nsignal.raise_signal(signal.SIGINT)\ntime.sleep(30)"  # to this thread, whatever others run
    )
    install("slow", "0.1", {"slow": "plug_slow:Good"}, plug_slow=pressed)
    before = signal.getsignal(signal.SIGINT)
    for ask in (lambda: registry.get("slow"), registry.names, registry.problems, lambda: "slow" in registry):
        with pytest.raises(KeyboardInterrupt):
            ask()
    with pytest.raises(KeyboardInterrupt):  # still not held against the plug-in
        registry.get("slow")
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("ignored", [False, True])
def test_a_module_that_raises_keyboard_interrupt_itself_is_broken(
    registry: Registry[Any], install: Install, ignored: bool
) -> None:
    install("rude", "0.1", {"rude": "plug_rude:Good"}, plug_rude="raise KeyboardInterrupt")
    before = signal.getsignal(signal.SIGINT)
    if ignored:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with pytest.raises(RegistryError, match=r"of rude 0\.1 .*plug_rude:Good cannot be imported: KeyboardInterrupt"):
            registry.get("rude")
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_module_that_raises_keyboard_interrupt_in_a_thread_is_broken(
    registry: Registry[Any], install: Install
) -> None:
    install("rude", "0.1", {"rude": "plug_rude:Good"}, plug_rude="raise KeyboardInterrupt")
    (answer,) = in_threads(lambda: registry.get("rude"), count=1)
    assert "KeyboardInterrupt; update or uninstall rude" in str(answer)


def test_a_module_may_set_its_own_handler(registry: Registry[Any], install: Install) -> None:
    source = "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nclass Good: pass"
    install("own", "0.1", {"own": "plug_own:Good"}, plug_own=source)
    before = signal.getsignal(signal.SIGINT)
    try:
        assert registry.get("own")
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("spec", [None, 3, "Spec", int, dict])
def test_a_component_has_a_spec_of_its_kind(registry: Registry[Any], install: Install, spec: Any) -> None:
    class Wanted: ...

    registry.accepts(Gadget, Wanted)
    right = gadget("Right")
    right.Spec = type("Own", (Wanted,), {})  # type: ignore[attr-defined]
    assert registry("right")(right) is right
    wrong = gadget("Wrong")
    if spec is not None:
        wrong.Spec = spec  # type: ignore[attr-defined]
    with pytest.raises(RegistryError, match=r"needs an attribute Spec, a subclass of .*Wanted; .*:Wrong has"):
        registry("wrong")(wrong)
    assert registry.names() == ["right"]


def test_every_kind_with_specs_asks_for_one(install: Install) -> None:
    asking = {kind for kind, registry in KINDS.items() if registry._spec is not None}
    assert asking == KINDS.keys() - {"executors", "families"}


def test_a_plug_in_without_a_spec_says_so_in_one_line(
    registry: Registry[Any], install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tests_gadget", sys.modules[__name__])
    registry.accepts(Gadget, Gadget)
    install("bare", "2.0", {"bare": "plug_bare:Good"}, plug_bare="from tests_gadget import gadget\nGood = gadget()")
    with pytest.raises(RegistryError) as caught:
        registry.get("bare")
    assert re.fullmatch(
        r"gadgets 'bare' of bare 2\.0 is disabled: gadgets 'bare' needs an attribute Spec, .* has none; update or "
        r"uninstall bare",
        str(caught.value),
    )


def test_what_a_plug_in_says_of_its_failure_is_bounded(registry: Registry[Any], install: Install) -> None:
    install("loud", "1.0", {"loud": "plug_loud:Good"}, plug_loud="raise OSError('no\\n' * 10**6)")
    with pytest.raises(RegistryError) as caught:
        registry.get("loud")
    assert len(str(caught.value)) < 700
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith("; update or uninstall loud")


@pytest.mark.parametrize("name", ["Loud", "with-dash", "9lives"])
def test_a_plug_ins_name_keeps_the_rule(registry: Registry[Any], install: Install, name: str) -> None:
    install("loud", "1.0", {name: "plug_loud:Good"}, plug_loud=PLAIN)
    with pytest.warns(PluginWarning, match=r"\[a-z\]\[a-z0-9_\]\*"):
        assert registry.names() == []
    with pytest.raises(RegistryError, match=r"loud 1\.0"):
        registry.get(name)


def test_a_malformed_entry_point_disables_only_itself(registry: Registry[Any], install: Install) -> None:
    install("odd", "1.0", {"odd": "not a value!", "good": "plug_good:Good"}, plug_good=PLAIN)
    with pytest.warns(PluginWarning, match="'odd' of odd 1.0"):
        assert registry.names() == ["good"]


# --- clashes


def test_two_distributions_with_one_name_are_both_named(registry: Registry[Any], install: Install) -> None:
    install("first-dist", "1.0", {"twin": "plug_a:Good"}, plug_a=PLAIN)
    install("second-dist", "2.5", {"twin": "plug_b:Good", "single": "plug_b:Good"}, plug_b=PLAIN)
    with pytest.warns(PluginWarning), pytest.raises(RegistryError) as caught:
        registry.get("twin")
    assert "first-dist 1.0" in str(caught.value)
    assert "second-dist 2.5" in str(caught.value)
    assert "plug_a" not in sys.modules
    assert "plug_b" not in sys.modules
    assert registry.names() == ["single"]
    assert [(p.name, p.distribution) for p in registry.problems()] == [
        ("twin", "first-dist 1.0"),
        ("twin", "second-dist 2.5"),
    ]
    assert all("first-dist 1.0" in p.reason and "second-dist 2.5" in p.reason for p in registry.problems())


@pytest.mark.parametrize("asked_first", [False, True], ids=["built_in_first", "plug_in_first"])
def test_a_built_in_wins_over_a_plug_in_of_its_name(
    registry: Registry[Any], install: Install, asked_first: bool
) -> None:
    install("rival", "4.0", {"mlp": "plug_rival:Good"}, plug_rival=PLAIN)
    if asked_first:
        assert registry.get("mlp").__module__ == "plug_rival"
    mine = registry("mlp")(gadget("Mlp", "dyt.gadgets.mlp"))
    assert registry.get("mlp") is mine
    with pytest.warns(PluginWarning, match="rival 4.0"):
        assert registry.items() == [("mlp", mine)]
    assert registry.origin("mlp") == "dyt"
    (problem,) = registry.problems()
    assert (problem.name, problem.distribution) == ("mlp", "rival 4.0")
    assert "built-in" in problem.reason
    assert ("plug_rival" in sys.modules) == asked_first
    assert registry.get("mlp") is mine


@pytest.mark.parametrize("asked_first", [False, True])
def test_a_runtime_class_cannot_take_a_plug_ins_name(
    registry: Registry[Any], install: Install, asked_first: bool
) -> None:
    install("vit-tricks", "1.2", {"good": "plug_good:Good"}, plug_good=PLAIN)
    if asked_first:
        registry.get("good")
    with pytest.raises(RegistryError, match=r"vit-tricks 1\.2") as caught:
        registry("good")(gadget())
    assert "plug_good:Good" in str(caught.value)
    assert f"{__name__}:Mine" in str(caught.value)
    assert registry.get("good").__module__ == "plug_good"


# --- plug-ins that use the registry while they are imported


@pytest.fixture
def shared(registry: Registry[Any], monkeypatch: pytest.MonkeyPatch) -> Registry[Any]:
    """The registry, importable by plug-ins as `from tests_shared import registry`."""
    module = type(sys)("tests_shared")
    module.registry = registry  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tests_shared", module)
    return registry


BOTH = """
    from tests_shared import registry
    @registry("both")
    class Both:
        pass
"""


@pytest.mark.parametrize("by_hand", [False, True])
def test_decorator_and_entry_point_for_one_class(shared: Registry[Any], install: Install, by_hand: bool) -> None:
    install("vit-tricks", "1.2", {"both": "plug_both:Both"}, plug_both=BOTH)
    if by_hand:
        importlib.import_module("plug_both")
    assert shared.get("both") is importlib.import_module("plug_both").Both
    assert shared.origin("both") == "vit-tricks 1.2"
    assert shared.names() == ["both"]
    assert shared.problems() == ()


def test_the_decorator_may_stand_in_a_submodule(shared: Registry[Any], install: Install) -> None:
    package = "from plug_pack.inner import Both"
    install("pack", "1.0", {"both": "plug_pack:Both"}, plug_pack__in____init__=package, plug_pack__in__inner=BOTH)
    assert shared.names() == ["both"]
    assert shared.problems() == ()
    assert shared.origin("both") == "pack 1.0"


def test_decorator_and_entry_point_that_differ_are_reported(shared: Registry[Any], install: Install) -> None:
    source = BOTH + "\n    class Other:\n        pass\n"
    install("torn", "1.0", {"both": "plug_torn:Other"}, plug_torn=source)
    assert shared.get("both") is sys.modules["plug_torn"].Both
    (problem,) = shared.problems()
    assert "plug_torn:Both" in problem.reason
    assert "plug_torn:Other" in problem.reason


ASKING = """
    from tests_shared import registry
    seen = registry.names(), "asking" in registry, registry.problems()
    try:
        registry.get("asking")
    except ValueError as error:
        said = str(error)
    class Asking:
        pass
"""


@pytest.mark.parametrize("by_hand", [False, True])
def test_a_plug_in_may_ask_while_it_is_imported(shared: Registry[Any], install: Install, by_hand: bool) -> None:
    install("asking", "1.0", {"asking": "plug_asking:Asking"}, plug_asking=ASKING)
    install("other", "1.0", {"other": "plug_other:Good"}, plug_other=PLAIN)
    if by_hand:
        importlib.import_module("plug_asking")
    assert shared.get("asking") is importlib.import_module("plug_asking").Asking
    assert importlib.import_module("plug_asking").seen == (["other"], False, ())
    assert "just being imported" in importlib.import_module("plug_asking").said
    assert shared.names() == ["asking", "other"]
    assert shared.problems() == ()


def test_a_package_may_ask_before_its_plug_in_can_be_imported(shared: Registry[Any], install: Install) -> None:
    package = "from tests_shared import registry\nseen = registry.names()\nLATE = 1"
    inner = "from plug_early import LATE\nclass Good: pass"
    modules = {"plug_early__in____init__": package, "plug_early__in__inner": inner}
    install("early", "1.0", {"early": "plug_early.inner:Good"}, **modules)
    assert importlib.import_module("plug_early").seen == []
    assert shared.names() == ["early"]
    assert shared.problems() == ()


# --- threads


def test_threads_that_ask_at_once_load_once(registry: Registry[Any], install: Install) -> None:
    sys.plug_loads = []  # type: ignore[attr-defined]
    source = "import sys, time\nsys.plug_loads.append(1)\ntime.sleep(0.2)\nclass Good: pass"
    install("slow", "1.0", {"slow": "plug_slow:Good"}, plug_slow=source)
    answers = in_threads(lambda: registry.get("slow"))
    assert len(answers) == 8
    assert set(answers) == {sys.modules["plug_slow"].Good}
    assert len(sys.plug_loads) == 1  # type: ignore[attr-defined]
    del sys.plug_loads  # type: ignore[attr-defined]
    assert registry.problems() == ()


def test_threads_see_one_problem_and_one_warning(registry: Registry[Any], install: Install) -> None:
    install("bad", "1.0", {"bad": "plug_bad:Good"}, plug_bad="import time\ntime.sleep(0.05)\nraise OSError('no')")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        answers = in_threads(lambda: registry.get("bad"))
    assert len(answers) == 8
    assert all(isinstance(a, RegistryError) and "no" in str(a) for a in answers)
    assert [w.category for w in warned] == [PluginWarning]
    assert len(registry.problems()) == 1


def test_one_of_many_threads_gets_a_name(registry: Registry[Any]) -> None:
    answers = in_threads(lambda: registry("mine")(gadget()))
    winners = [a for a in answers if isinstance(a, type)]
    assert len(winners) == 1
    assert registry.get("mine") is winners[0]
    assert sum(isinstance(a, RegistryError) for a in answers) == 7


def test_no_deadlock_between_the_import_lock_and_ours(shared: Registry[Any], install: Install) -> None:
    """One thread imports the plug-in by hand, so holds its module's lock, and registers; another asks meanwhile."""
    source = "import tests_shared\ntests_shared.started.set()\ntests_shared.go.wait(5)\n" + textwrap.dedent(BOTH)
    install("vit-tricks", "1.2", {"both": "plug_both:Both"}, plug_both=source)
    module: Any = sys.modules["tests_shared"]
    module.started, module.go = threading.Event(), threading.Event()
    answers: list[Any] = []
    importer = threading.Thread(target=lambda: importlib.import_module("plug_both"), daemon=True)
    asker = threading.Thread(target=lambda: answers.append(shared.get("both")), daemon=True)
    importer.start()
    assert module.started.wait(5)
    asker.start()
    asker.join(0.2)  # long enough to be waiting for the module
    module.go.set()
    for thread in (importer, asker):
        thread.join(10)
        assert not thread.is_alive(), "deadlock"
    assert answers == [sys.modules["plug_both"].Both]
    assert shared.origin("both") == "vit-tricks 1.2"
    assert shared.problems() == ()


# --- temporary


def test_temporary_restores_everything(registry: Registry[Any], install: Install) -> None:
    old = registry("old")(gadget("Old"))
    assert registry.names() == ["old"]
    install(
        "fine", "1.0", {"fine": "plug_fine:Good", "bad": "plug_bad:Good"}, plug_fine=PLAIN, plug_bad="raise OSError"
    )
    with registry.temporary() as same:
        assert same is registry
        registry("mine")(gadget())
        assert [p.name for p in registry.problems()] == ["bad"]
        with pytest.warns(PluginWarning):
            assert registry.names() == ["fine", "mine", "old"]
        with registry.temporary():
            registry("deep")(gadget())
        assert "deep" not in registry
    assert registry.items() == [("old", old)]
    assert registry.problems() == ()
    with pytest.raises(UnknownNameError):
        registry.origin("mine")
    registry("mine")(gadget())  # the name is free again


def test_temporary_restores_after_an_error(registry: Registry[Any]) -> None:
    with contextlib.suppress(ZeroDivisionError), registry.temporary():
        registry("mine")(gadget())
        raise ZeroDivisionError
    assert registry.names() == []


def test_temporary_forgets_who_had_a_name(registry: Registry[Any], install: Install) -> None:
    with registry.temporary():
        registry("good")(gadget("Good", "dyt.gadgets"))
    install("vit-tricks", "1.2", {"good": "plug_good:Good"}, plug_good=PLAIN)
    assert registry.get("good").__module__ == "plug_good"
    assert registry.origin("good") == "vit-tricks 1.2"


def test_temporary_restores_what_is_accepted(registry: Registry[Any]) -> None:
    with registry.temporary():
        registry.accepts(Gadget)
        with pytest.raises(RegistryError):
            registry("number")(int)
    registry("number")(int)


# --- the house


def test_the_kinds() -> None:
    kinds = ["dispatchers", "adapters", "variants", "executors", "families", "tuners", "reducers", "heads"]
    assert list(KINDS) == kinds
    for kind, registry in KINDS.items():
        assert getattr(dyt.registry, kind) is registry
        assert (registry.kind, registry.group) == (kind, f"dyt_{kind}")
        assert kind in repr(registry)
    with pytest.raises(TypeError):
        KINDS["more"] = KINDS["adapters"]  # type: ignore[index]


def test_the_group_follows_from_the_kind(install: Install) -> None:
    install("good", "1.0", {"good": "plug_good:Good"}, plug_good=PLAIN)
    assert Registry("gadgets").names() == ["good"]
    assert Registry("others").names() == []


def test_problems_are_frozen() -> None:
    problem = Problem("gadgets", "x", "y 1", "z")
    assert str(problem) == "gadgets 'x' of y 1 is disabled: z"
    with pytest.raises(AttributeError):
        problem.name = "other"  # type: ignore[misc]


def test_it_is_a_low_room() -> None:
    tree = ast.parse(Path(dyt.registry.__file__).read_text())
    imported = [n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
    imported += [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    ours = [name for name in imported if name is None or name.split(".")[0] in ("dyt", "torch", "timm")]
    assert ours == ["dyt.entry_points", "dyt.errors"]


def test_importing_looks_for_no_plug_in() -> None:
    """In a fresh process, with the one look at import time that catalogue takes for itself already taken."""
    code = """
import importlib.metadata, sys, types, catalogue
def forbidden(*args, **kwargs): raise AssertionError
importlib.metadata.entry_points = forbidden
package = types.ModuleType("dyt")  # in place of dyt/__init__, whose torch takes a look of its own
package.__path__ = [sys.argv[1]]
sys.modules["dyt"] = package
import dyt.registry
"""
    subprocess.run([sys.executable, "-c", code, str(Path(dyt.registry.__file__).parent)], check=True, timeout=60)
