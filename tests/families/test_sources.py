"""What other libraries' blocks compute is what the families were written for, or it is refused with what to do."""

from __future__ import annotations

import functools
import linecache
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import timm
import torch
from timm.layers.attention import Attention
from timm.layers.mlp import Mlp
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

import dyt
from dyt.assembly import backbone as backbones
from dyt.core.interop import bridged
from dyt.families import Family, digest, find, sources
from families.test_zoo import spec
from families.zoo import TINY, ZOO
from families.zoo_hf import HUGGINGFACE
from families.zoo_hierarchical import HIERARCHICAL

OWN = {name: cls for name, cls in dyt.registry.families.items() if dyt.registry.families.origin(name) == "dyt"}
LEAVES = {
    *("LayerNorm", "RmsNorm", "LayerScale", "DropPath", "GELU", "GELUTanh"),
    *("GELUActivation", "QuickGELUActivation", "SiLUActivation"),
    *("Dinov2LayerScale", "Dinov2DropPath", "Dinov2WithRegistersLayerScale", "Dinov2WithRegistersDropPath"),
}
"""Layers in branches that families call as they are, and know nothing of but what their names say."""


# The table ------------------------------------------------------------------------------------------------------------


def unnamed(backbone: nn.Module) -> set[str]:
    """Classes of other libraries in the branches of a backbone's blocks that its family names in no table."""
    found = find(backbone)
    assert found is not None
    name, family = found
    named = {cls if isinstance(cls, str) else f"{cls.__module__}.{cls.__qualname__}" for cls in OWN[name].written_for}
    missing = set()
    for block in map(backbone.get_submodule, family.blocks(backbone)):
        children = {child for branch in family.children.values() for child in branch}
        parts = [getattr(block, child, None) for child in children]
        modules = [module for part in parts if isinstance(part, nn.Module) for module in part.modules()]
        for cls in {type(module) for module in (block, *modules)}:
            foreign = cls.__module__.partition(".")[0] in {"timm", "transformers"}
            if foreign and cls.__name__ not in LEAVES and f"{cls.__module__}.{cls.__qualname__}" not in named:
                missing.add(f"{name}: {cls.__module__}.{cls.__qualname__}")
    return missing


@pytest.mark.parametrize("name", ZOO)
def test_classes_of_the_zoo_are_named(name: str) -> None:
    assert not unnamed(ZOO[name].backbone())


@pytest.mark.parametrize("name", {**HIERARCHICAL, **HUGGINGFACE})
def test_classes_of_other_backbones_are_named(name: str) -> None:
    assert not unnamed(bridged((HIERARCHICAL | HUGGINGFACE)[name].make(0.1), 5)[0])


@pytest.mark.parametrize("name", [example for family in OWN.values() for example in family.examples])
def test_classes_of_the_examples_are_named(name: str) -> None:
    assert not unnamed(backbones.on_meta(name))


def test_a_class_that_is_not_named_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    named = OWN["vit"].written_for
    monkeypatch.setattr(OWN["vit"], "written_for", {cls: names for cls, names in named.items() if cls is not Attention})
    assert unnamed(VisionTransformer(**TINY)) == {"vit: timm.layers.attention.Attention"}


@pytest.mark.parametrize("name", OWN)
def test_what_is_installed_is_known(name: str) -> None:
    """Run `scripts/known_sources.py`, once the tests of families and laws pass with these versions."""
    assert OWN[name].written_for
    assert sources.survey(OWN[name]) == []


def test_the_table_is_what_the_script_writes() -> None:
    script = runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "known_sources.py"))
    here, table = script["found"](), sources.known()
    assert set(here) <= set(table)
    assert {name for name in table if name.startswith("timm.")} == {name for name in here if name.startswith("timm.")}
    assert {name: values for name, values in table.items() if name in here} == script["merged"](table, here)
    changed = script["merged"](table, here | {"timm.layers.mlp.Mlp.forward": "0123"})["timm.layers.mlp.Mlp.forward"]
    assert changed["0123"] == [timm.__version__]
    (before,) = table["timm.layers.mlp.Mlp.forward"].values()
    assert sorted({*changed["0123"], *next(v for k, v in changed.items() if k != "0123")}) == sorted(before)


# The digest -----------------------------------------------------------------------------------------------------------

PLAIN = """
def forward(self, x, scale=1.0):
    y = self.norm(x) * scale
    if not y.ndim:
        raise ValueError(f"{x.shape!r} of {scale:.2f}, and no more")
    return y + x
"""


def of(source: str) -> str:
    return digest.digest(digest.function_of(dedent(source).lstrip("\n")))


@pytest.mark.parametrize(
    "same",
    [
        '''
        def forward(self, x: "Tensor", scale: float = 1.0) -> Tensor:
            """Says more.

            Than before.
            """
            y: Tensor = self.norm(x) * scale  # a comment
            "another text"
            if (not y.ndim):
                raise ValueError(f"{x.shape!r} of " f"{scale:.2f}, " "and no more")
            return (y
                + x)
        ''',
        "\n    ".join(PLAIN.splitlines()),
    ],
    ids=["layout, text and annotations", "indented"],
)
def test_what_is_for_readers_is_not_in_the_digest(same: str) -> None:
    assert of(same) == of(PLAIN)
    assert digest.digest(digest.function_of("\n    ".join(PLAIN.splitlines()).lstrip("\n"))) == of(PLAIN)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y + x", "x + y"),
        ("1.0", "2.0"),
        ("* scale", "/ scale"),
        (", scale=1.0", ", *, scale=1.0"),
        ("self.norm(x)", "self.norm(x, scale)"),
        ("def", "@torch.no_grad()\ndef"),
        ("    return", "    y = y.float()\n    return"),
        ("x.shape!r", "x.shape!s"),
        ("return y + x", "return None"),
    ],
)
def test_what_is_computed_is_in_the_digest(before: str, after: str) -> None:
    assert of(PLAIN.replace(before, after)) != of(PLAIN)


@pytest.mark.parametrize("source", ["x = 1", "def f(): pass\ndef g(): pass", "def f(:", "    x = 1"])
def test_only_one_function_has_a_digest(source: str) -> None:
    with pytest.raises(SyntaxError):
        digest.function_of(source)


def pythons() -> list[str]:
    """Other interpreters that are here and run."""
    found = []
    for minor in (11, 12, 13, 14):
        path = shutil.which(f"python3.{minor}")
        if path and minor != sys.version_info.minor and not subprocess.run([path, "-c", ""], check=False).returncode:
            found.append(path)
    return found


def test_the_digest_is_the_same_in_every_python() -> None:
    """Of files of timm with blocks; this Python runs the same lines, so that there is always one to compare."""
    files = [Path(sys.modules[cls.__module__].__file__ or "") for cls in (Block, Attention, Mlp)]
    code = (
        "import hashlib, runpy, sys; run = runpy.run_path(sys.argv[1])\n"
        "for path in sys.argv[2:]:\n"
        "    for name, node in run['methods_of'](open(path, encoding='utf-8').read()).items():\n"
        "        print(name, run['digest'](node))"
    )
    expected = [
        f"{name} {digest.digest(node)}"
        for path in files
        for name, node in digest.methods_of(path.read_text(encoding="utf-8")).items()
    ]
    assert len(expected) > 50
    for python in (sys.executable, *pythons()):
        command = [python, "-c", code, str(digest.__file__), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert done.stdout.splitlines() == expected, python


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.fixture
def written() -> Iterator[Callable[[type, str], Any]]:
    """Makes a class's forward from a source text, as if its library's file had it."""
    files: list[str] = []

    def make(cls: type, source: str) -> Any:
        name = f"<another version of {cls.__qualname__} {len(files)}>"
        files.append(name)
        text = dedent(source)
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        module = dict(vars(sys.modules[cls.__module__]))
        exec(compile(text, name, "exec"), module)
        return module["forward"]

    yield make
    for name in files:
        linecache.cache.pop(name, None)


OTHER = """
def forward(self, x):
    x = self.act(self.fc1(x))
    return self.drop2(self.fc2(x))
"""
VERSION = timm.__version__


def refused(backbone: nn.Module) -> str:
    """The line with which a build is refused, which changes nothing."""
    before = list(backbone.modules())
    with pytest.raises(dyt.UnsupportedError) as error:
        dyt.build(spec("mlp"), backbone=backbone)
    assert list(map(id, backbone.modules())) == list(map(id, before))
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    return str(error.value)


def test_a_changed_forward_is_refused(monkeypatch: pytest.MonkeyPatch, written: Any) -> None:
    monkeypatch.setattr(Mlp, "forward", written(Mlp, OTHER))
    line = refused(VisionTransformer(**TINY))
    assert f"timm.layers.mlp.Mlp.forward of timm {VERSION} is not what this version of dyt was tested with" in line
    assert "known of timm 1.0.27, " in line
    assert f"DYT_UNCHECKED=timm=={VERSION}" in line
    assert "\n" not in line
    support = dyt.supports("vit_tiny_patch16_224")
    assert support.family == "vit"
    assert support.variants == ()
    assert all(reason in line for reason in support.refused.values())
    assert dyt.supports("vit_base_patch16_xp_224").variants, "a family that has no such MLP is left alone"


def test_the_user_can_accept_a_version(monkeypatch: pytest.MonkeyPatch, written: Any) -> None:
    monkeypatch.setattr(Mlp, "forward", written(Mlp, OTHER))
    monkeypatch.setenv(sources.OPT_IN, "timm==0.9.1")
    assert "which is 'timm==0.9.1'" in refused(VisionTransformer(**TINY))
    monkeypatch.setenv(sources.OPT_IN, f"transformers==1.0, timm=={VERSION}")
    with pytest.warns(sources.UncheckedWarning, match=r"Mlp\.forward"):
        model = dyt.build(spec("mlp"), backbone=VisionTransformer(**TINY))
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, TINY["num_classes"])


def test_layout_and_annotations_may_change(monkeypatch: pytest.MonkeyPatch, written: Any) -> None:
    same = '''
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """New words."""
        x = self.fc1(
            x,
        )
        x = self.act(x)  # a new comment
        x = self.drop1(x); x = self.norm(x)
        x = self.fc2(x)
        x = self.drop2(x)
        return x
    '''
    monkeypatch.setattr(Mlp, "forward", written(Mlp, same))
    assert dyt.supports("vit_tiny_patch16_224").refused == {}


def test_a_replaced_forward_is_refused_by_the_name_of_what_replaced_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def mine(self: Any, x: Any) -> Any:
        return x

    monkeypatch.setattr(Block, "forward", mine)
    line = refused(VisionTransformer(**TINY))
    assert f"was replaced by {__name__}.{mine.__qualname__}, which would not run" in line


def test_a_wrapped_forward_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = Block.forward

    @functools.wraps(plain)
    def around(*args: Any, **kwargs: Any) -> Any:
        return plain(*args, **kwargs)

    monkeypatch.setattr(Block, "forward", around)
    assert "around, which would not run" in refused(VisionTransformer(**TINY))


def test_torch_may_wrap_a_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Block, "forward", torch.no_grad()(Block.forward))
    assert dyt.supports("vit_tiny_patch16_224").refused == {}


def test_what_a_subclass_overrides_is_its_own(monkeypatch: pytest.MonkeyPatch, written: Any) -> None:
    class Own(Mlp):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc2(self.act(self.fc1(x)))
            return out

    class Plain(Mlp):
        pass

    assert dyt.build(spec("mlp"), backbone=VisionTransformer(**TINY, mlp_layer=Own)).sites
    monkeypatch.setattr(Mlp, "forward", written(Mlp, OTHER))
    assert dyt.build(spec("mlp"), backbone=VisionTransformer(**TINY, mlp_layer=Own)).sites
    assert "Mlp.forward" in refused(VisionTransformer(**TINY, mlp_layer=Plain))


def test_without_its_source_the_version_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in an archive of compiled modules."""
    space: dict[str, Any] = {"__name__": "timm.layers.mlp"}
    exec(compile("def forward(self, x): return self.fc2(self.fc1(x))", "<nowhere>", "exec"), space)
    monkeypatch.setattr(Mlp, "forward", space["forward"])
    assert dyt.supports("vit_tiny_patch16_224").refused == {}
    monkeypatch.setattr(timm, "__version__", "9.9.9")
    line = refused(VisionTransformer(**TINY))
    assert "timm.layers.mlp.Mlp.forward of timm 9.9.9 cannot be read" in line
    assert "DYT_UNCHECKED=timm==9.9.9" in line


def test_a_new_version_with_the_same_blocks_is_built_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "__version__", "9.9.9")
    assert dyt.supports("vit_tiny_patch16_224").refused == {}


def test_a_method_that_is_gone_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "__version__", "9.9.9")
    monkeypatch.setattr(OWN["vit"], "written_for", {Block: ("forward_before",)})
    assert "Block.forward_before of timm 9.9.9 cannot be read (no version of it is known)" in refused(
        VisionTransformer(**TINY)
    )


def test_blocks_of_transformers(monkeypatch: pytest.MonkeyPatch, written: Any) -> None:
    pytest.importorskip("transformers", reason="the models are those of transformers")
    from transformers.models.vit.modeling_vit import ViTMLP

    assert find(bridged(HUGGINGFACE["vit"].make(0.0), 5)[0]) is not None
    changed = """
    def forward(self, hidden_states):
        return self.fc2(self.activation_fn(self.fc1(hidden_states))) * 2
    """
    monkeypatch.setattr(ViTMLP, "forward", written(ViTMLP, changed))
    backbone = bridged(HUGGINGFACE["vit"].make(0.0), 5)[0]
    assert "transformers.models.vit.modeling_vit.ViTMLP.forward of transformers" in refused(backbone)
    (fault,) = sources.changed(OWN["hf_vit"](), backbone)
    assert fault.library == "transformers"
    assert sources.survey(OWN["hf_vit"]) == [], "which is of the files, and imports none of them"


def test_a_library_that_is_missing_is_no_trouble(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "find_spec", lambda name: None)
    assert sources.survey(OWN["hf_vit"]) == []
    assert list(sources.installed(OWN["hf_vit"])) == []


def test_a_plug_in_s_family_names_nothing() -> None:
    assert Family.written_for == {}
