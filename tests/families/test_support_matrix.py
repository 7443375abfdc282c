"""The matrix of `dyt supports --all`: docs/backbones.md shows it, and each of its cells is true."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import dyt
from dyt.assembly.support import Support, support_matrix
from dyt.core.interop import bridged
from dyt.registry import KINDS
from dyt.testing import laws
from dyt.testing.strategies import names
from families.zoo import TINY
from families.zoo_hf import HUGGINGFACE
from families.zoo_hierarchical import HIERA, SAM, SWIN
from laws.models import CLASSES, GivenCase

PAGE = Path(__file__).parents[2] / "docs" / "backbones.md"
GIVEN = "given with `backbone=`"
ARGS: dict[str, dict[str, Any]] = {"swin": SWIN, "swin_v2": SWIN, "hiera": HIERA, "sam": SAM}
"""What makes a family's examples tiny; `TINY` for the others."""


@cache
def matrix() -> dict[str, Support]:
    """The rows of the library's own families, by the example's name, or the family's where it has none."""
    return {row.name or str(row.family): row for row in support_matrix() if own("families", str(row.family))}


def own(kind: str, name: str) -> bool:
    """Whether it is the library's, not an installed plug-in's."""
    return KINDS[kind].origin(name) == "dyt"


def tiny(row: Support) -> tuple[nn.Module, tuple[int, int]]:
    """A tiny backbone of the row's, with timm's interface, and (H, W) of its images."""
    if row.name:
        args = ARGS.get(str(row.family), TINY) | {"num_classes": CLASSES}
        return timm.create_model(row.name, **args), (args["img_size"], args["img_size"])
    given = next(tiny for tiny in HUGGINGFACE.values() if tiny.family == row.family)
    return bridged(given.make(0.0), CLASSES)[0], given.size


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "example" in metafunc.fixturenames:
        metafunc.parametrize("example", list(matrix()))


def test_every_cell(example: str) -> None:
    """A yes: law 1 in every executor, and a backward of every parameter to be trained; a no: refused, unchanged."""
    row = matrix()[example]
    if not row.name:
        pytest.importorskip("transformers", reason="the family's models are those of transformers")
    case = GivenCase(lambda: tiny(row)[0], tiny(row)[1], 2, 5)
    for variant in filter(lambda name: own("variants", name), dyt.list("variants")):
        chosen = {"variant": {"type": variant}, "adapter": {"type": "bottleneck", "dim": 8}}
        if variant in row:
            laws.starts_as_the_backbone(case, chosen, names("executors"))
            laws.training_keeps_the_backbone(case, chosen, steps=1)
            continue
        backbone, x = case.backbone(), case.images()
        with torch.no_grad():
            before = backbone(x)
            with pytest.raises(dyt.UnsupportedError, match=re.escape(row.refused[variant])):
                laws.built(case, chosen, backbone)
            assert torch.equal(backbone(x), before)
        assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_the_page_shows_it() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    header, _, *body = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    variants = [name for name in dyt.list("variants") if own("variants", name)]
    assert header == ["family", "for example", *(f"`{variant}`" for variant in variants)]
    expected = [
        [
            f"`{row.family}`",
            f"`{row.name}`" if row.name else GIVEN,
            *("yes" if variant in row else "no" for variant in variants),
        ]
        for row in matrix().values()
    ]
    assert body == expected


def test_the_page_names_the_executors() -> None:
    executors = ", ".join(f"`{name}`" for name in names("executors") if own("executors", name))
    assert f"covers every executor ({executors})" in " ".join(PAGE.read_text(encoding="utf-8").split())
