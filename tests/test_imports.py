"""Imports go down only, in the order of the rooms below; no file imports itself, however long the way round."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import dyt

SOURCE = Path(dyt.__file__).parent
ORDER = (
    ("errors", "deprecated"),
    ("entry_points", "writing"),
    ("registry",),
    ("config",),
    ("core",),
    ("dispatchers", "adapters", "executors", "families"),
    ("reducers", "tuners", "heads"),
    ("model",),
    ("variants",),
    ("assembly",),
    ("objective", "io"),
    ("measure", "bank"),
    ("paper",),
    ("inference",),
    ("testing", "tasks"),
    ("train", "scaffold"),
    ("sweeps",),
    ("demo",),
    ("cli",),
)
"""The rooms from the lowest up; those on one floor never import one another, but for what is said in ALSO."""
ALSO = {("reducers", "dispatchers")}
APPLICATIONS = ("demo", "cli")
"""Rooms that stand on the face: they use the library as a user does, and the face imports none of them."""
LEVEL = {room: level for level, rooms in enumerate(ORDER) for room in rooms}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> list[tuple[str, str]]:
    """(module, name) of every import, wherever it stands: in functions, and where the type checker alone looks."""
    found: list[tuple[str, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction"
            found += [(node.module or "", alias.name) for alias in node.names]
    return found


def dotted(path: Path) -> str:
    return ".".join(("dyt", *path.relative_to(SOURCE).with_suffix("").parts)).removesuffix(".__init__")


MODULES = {dotted(path): path for path in FILES}


def arrows(path: Path) -> set[str]:
    """The files of the library that one imports."""
    found = imported(ast.parse(path.read_text(encoding="utf-8")))
    named = {f"{module}.{name}" if f"{module}.{name}" in MODULES else module for module, name in found}
    return {module for module in named if module in MODULES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    own = room(path)
    assert own in LEVEL, f"room '{own}' has no place in the order"
    for module, name in imported(ast.parse(path.read_text(encoding="utf-8"))):
        top, _, rest = module.partition(".")
        if top != "dyt":
            continue
        if not rest and name not in LEVEL:
            assert own in APPLICATIONS, f"{own} imports the face"
            continue
        other = rest.partition(".")[0] or name
        if other in LEVEL and other != own and (own, other) not in ALSO:
            assert LEVEL[other] < LEVEL[own], f"{own} imports {other}, which is not below it"


def test_every_room_is_there() -> None:
    assert {room(path) for path in FILES} == set(LEVEL)


def test_no_circle_of_files() -> None:
    """Also within a room, and through imports that run late or for the type checker alone."""
    graph = {module: arrows(path) - {module} for module, path in MODULES.items()}
    while free := {module for module, others in graph.items() if not others & graph.keys()}:
        graph = {module: others for module, others in graph.items() if module not in free}
    assert not graph, f"in or above circles: {sorted(graph)}"


@pytest.mark.parametrize(
    ("module", "heavy"),
    [("dyt.registry", ["torch", "timm", "pydantic"]), ("dyt.errors", ["torch", "timm", "pydantic", "catalogue"])],
)
def test_the_lowest_rooms_import_nothing_heavy(module: str, heavy: list[str]) -> None:
    """Seen without the face, which imports everything."""
    code = (
        "import sys, types; face = sys.modules['dyt'] = types.ModuleType('dyt')\n"
        f"face.__path__ = [{str(SOURCE)!r}]\n"
        f"import {module}\nprint(sorted(set({heavy!r}) & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_dyt_is_silent_and_draws_nothing() -> None:
    code = (
        "import random, torch, rich.style; a = torch.get_rng_state().clone(), random.getstate(); import dyt; "
        "assert torch.equal(a[0], torch.get_rng_state()) and a[1] == random.getstate()"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def speaks_with_ranks(tree: ast.AST) -> bool:
    """Whether a file imports `torch.distributed`, or something of it, or reaches it as an attribute of torch."""
    names = [f"{module}.{name}" for module, name in imported(tree)]
    names += [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    return any(f"{name}.".startswith("torch.distributed.") for name in names)


def test_one_module_speaks_with_torch_distributed() -> None:
    """So that what is summed over ranks, and what happens where there are none, is decided in one place."""
    users = {module for module, path in MODULES.items() if speaks_with_ranks(ast.parse(path.read_text("utf-8")))}
    assert users == {"dyt.core.ranks"}


@pytest.mark.parametrize(
    "code",
    [
        "import torch.distributed",
        "import torch.distributed as dist",
        "from torch import distributed",
        "def f():\n    from torch.distributed import all_reduce",
        "torch.distributed.barrier()",
    ],
)
def test_every_way_to_torch_distributed_is_seen(code: str) -> None:
    assert speaks_with_ranks(ast.parse(code))
    assert not speaks_with_ranks(ast.parse(code.replace("distributed", "distributions")))
