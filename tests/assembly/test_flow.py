"""The way of a build through the rooms: down, and up again at two places only, which `assembly/build.py` names."""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import dyt
from dyt.heads import TaskHeadSpec
from dyt.registry import KINDS
from laws.models import CLASSES, TINY, Case, spec
from test_imports import LEVEL, SOURCE, room

SLOTS = ("variants", "dispatchers", "adapters", "tuners", "reducers", "heads")


def file_of(frame: FrameType) -> Path | None:
    path = Path(frame.f_code.co_filename)
    return path if path.is_relative_to(SOURCE) and room(path) in LEVEL else None


def climbs(wanted: dict[str, Any], backbone: Any) -> set[tuple[str, str]]:
    """(file, file) of each call from a room to one above it, whatever other libraries are between them."""
    found: set[tuple[str, str]] = set()

    def look(frame: FrameType, event: str, arg: Any) -> None:
        if frame.f_code.co_name == "__torch_dispatch__":  # torch, which says what it writes to (`assembly/rollback.py`)
            return
        own, back = file_of(frame) if event == "call" else None, frame.f_back
        while own and back is not None and (caller := file_of(back)) is None:
            back = back.f_back
        if own and back is not None and caller is not None and LEVEL[room(own)] > LEVEL[room(caller)]:
            found.add((str(caller.relative_to(SOURCE)), str(own.relative_to(SOURCE))))

    sys.setprofile(look)
    try:
        dyt.build(wanted, backbone=backbone)
    finally:
        sys.setprofile(None)
    return found


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in SLOTS for name in KINDS[kind].names()])
def test_a_build_climbs_up_at_two_places(kind: str, name: str) -> None:
    component: Any = name
    if kind == "heads":
        component = {"type": name, "num_classes": 0 if KINDS["heads"].get(name).taught else CLASSES}
    wanted = spec(**{kind.removesuffix("s"): component, "objective": {"distill": 0.0}})
    backbone = Case(TINY, (32, 32), 1, 0).backbone()
    if kind == "heads" and issubclass(KINDS["heads"].get(name).Spec, TaskHeadSpec):
        backbone.reset_classifier(0)
    found = climbs(wanted, backbone)
    of_specs = {climb for climb in found if climb[0] == "config/base.py"}
    of_blocks = {climb for climb in found if climb[1] == "model/block.py"}
    assert found == of_specs | of_blocks
    assert {caller.partition("/")[0] for caller, _ in of_blocks} <= {"tuners", "families"}
