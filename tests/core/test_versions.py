"""The declared lower bounds are those that are proved, and what differs between versions is the same on both sides."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from dyt.core.versions import SHOWS_HIGHER_ORDER, reset_classifier, shown_to
from laws.models import TINY

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TOOLS = "dev"
"""The extra whose packages develop the library: locked in constraints/dev.txt, without lower bounds that are proved."""

BUILDS = {"editables", "hatchling", "setuptools", "tomlkit", "trove-classifiers"}
"""What builds the package, and setuptools, which `pip freeze` leaves out of constraints/dev.txt."""


def pinned(file: str) -> dict[str, Version]:
    """Name and version of each line of a constraints file; a line that says anything else is an error."""
    lines = (ROOT / "constraints" / file).read_text(encoding="utf-8").splitlines()
    found: dict[str, Version] = {}
    for line in (line for line in lines if line and not line.startswith("#")):
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} twice"
        found[name] = Version(specifier.version)
    return found


def declared() -> dict[str, Requirement]:
    """What the package and its extras for users ask for, by name."""
    extras = PROJECT["optional-dependencies"]
    lines = [*PROJECT["dependencies"], *(line for extra, lines in extras.items() if extra != TOOLS for line in lines)]
    return {canonicalize_name(requirement.name): requirement for requirement in map(Requirement, lines)}


def test_the_floor_has_the_declared_lower_bounds() -> None:
    floor, wrong = pinned("floor.txt"), []
    for name, requirement in declared().items():
        bounds = [Version(each.version) for each in requirement.specifier if each.operator == ">="]
        if bounds != [floor.get(name)]:
            wrong.append(f"pyproject.toml has '{requirement}', constraints/floor.txt {floor.get(name)}")
    assert not wrong, "\n".join(wrong)


def test_upper_bounds_have_their_reasons() -> None:
    """The table of docs/compatibility.md, and only that."""
    page = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"^\| \| Below \| Why \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", page, re.MULTILINE)
    told = {cells[1].strip(): cells[2].strip() for cells in (row.split("|") for row in table.splitlines())}
    bounds = {
        requirement.name: each.version
        for requirement in declared().values()
        for each in requirement.specifier
        if each.operator != ">="
    }
    assert bounds == told
    assert all(each.operator in {">=", "<"} for requirement in declared().values() for each in requirement.specifier)


def test_the_locked_versions_are_allowed_and_complete() -> None:
    """Also the tools of the extra `dev`, which `.ci/run` must take from the lock."""
    locked = pinned("dev.txt")
    tools = [Requirement(line) for line in PROJECT["optional-dependencies"][TOOLS]]
    for requirement in (*declared().values(), *(tool for tool in tools if tool.name != PROJECT["name"])):
        version = locked.get(canonicalize_name(requirement.name))
        assert version is not None, f"constraints/dev.txt has no {requirement.name}"
        assert version in requirement.specifier, f"constraints/dev.txt has {version}, asked for is {requirement}"


def hashed() -> dict[str, tuple[Requirement, set[str]]]:
    """Name -> (requirement, its hashes) of constraints/dev.lock; a line that says anything else is an error."""
    text = (ROOT / "constraints" / "dev.lock").read_text(encoding="utf-8")
    entries = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    found: dict[str, tuple[Requirement, set[str]]] = {}
    for entry in entries:
        line, *hashes = re.split(r"\s+--hash=sha256:", entry)
        requirement = Requirement(line)
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{name} twice"
        assert all(re.fullmatch(r"[0-9a-f]{64}", each) for each in hashes), entry
        found[name] = requirement, set(hashes)
    return found


def test_the_hashed_lock_has_the_locked_versions() -> None:
    """And beside them only what pip needs a hash for as well; where they differ, `.ci/lock hashes` writes it anew."""
    locked, lock = pinned("dev.txt"), hashed()
    assert {name: str(requirement.specifier) for name, (requirement, _) in lock.items() if name in locked} == {
        name: f"=={version}" for name, version in locked.items()
    }
    assert all(hashes for _, hashes in lock.values())
    others = {name: requirement for name, (requirement, _) in lock.items() if name not in locked}
    unmarked = {name for name, requirement in others.items() if requirement.marker is None}
    assert unmarked == BUILDS, "a package of every platform belongs in dev.txt"
    linux = [name for name in others if name.startswith(("nvidia-", "cuda-")) or name == "triton"]
    assert linux
    assert all(not others[name].marker.evaluate({"sys_platform": "darwin"}) for name in linux)  # type: ignore[union-attr]
    assert "://" not in (ROOT / "constraints" / "dev.lock").read_text(encoding="utf-8")


@pytest.mark.parametrize("file", ["floor.txt", "dev.txt"])
def test_torch_s_companions_are_left_to_torch(file: str) -> None:
    """Which of them a machine needs, torch alone knows; a lock of them would hold on one platform."""
    assert "torch" in pinned(file)
    assert not [name for name in pinned(file) if name.startswith(("nvidia-", "cuda-")) or name == "triton"]


class Older(VisionTransformer):
    """As in timm before 1.0.29: a new head is float32, on the CPU."""

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        self.num_classes = num_classes
        self.head = nn.Linear(self.embed_dim, num_classes) if num_classes else nn.Identity()


class Newer(Older):
    """As in timm since then."""

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        super().reset_classifier(num_classes)
        self.head.to(device=self.pos_embed.device, dtype=self.pos_embed.dtype)


@pytest.mark.parametrize("kind", [Older, Newer, VisionTransformer])
@pytest.mark.parametrize("place", [("cpu", torch.bfloat16), ("cpu", torch.float32), ("meta", torch.float32)])
@pytest.mark.parametrize("classes", [0, 7])
def test_a_new_head_is_like_its_backbone(kind: type, place: tuple[str, torch.dtype], classes: int) -> None:
    device, dtype = place
    backbone = kind(**TINY, num_classes=3).to(device=device, dtype=dtype)
    before = {name: p for name, p in backbone.named_parameters() if not name.startswith("head.")}
    reset_classifier(backbone, classes)
    after = dict(backbone.named_parameters())
    assert all(after[name] is p for name, p in before.items())
    assert after.keys() - before.keys() == ({"head.weight", "head.bias"} if classes else set())
    assert {(p.device.type, p.dtype) for p in after.values()} == {(device, dtype)}
    assert backbone.num_classes == classes


@pytest.mark.parametrize("itself", sorted({SHOWS_HIGHER_ORDER, False}))
def test_a_mode_sees_higher_order_operators(itself: bool) -> None:
    seen: list[str] = []

    class Watching(TorchDispatchMode):
        supports_higher_order_operators = itself

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return args[1](*args[3]) if func is torch.ops.higher_order.cond else func(*args, **(kwargs or {}))

    shown_to(Watching, (torch.ops.higher_order.cond,), itself)
    x, yes = torch.ones(2), torch.tensor(True)
    with torch.compiler.set_stance("force_eager"), Watching():
        out = torch.cond(yes, lambda y: y + 1, lambda y: y - 1, (x,))
    assert "cond" in seen
    assert out.tolist() == [2, 2]
