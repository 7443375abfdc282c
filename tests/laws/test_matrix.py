"""The laws over combinations of everything registered: a sample by default, all of them with `--full`, a part of
them with `--full --part I/N`.

Each combination is put through law 1, law 2 (forced masks, and the dispatcher's own routes) and one training step.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from dataclasses import astuple, dataclass
from functools import cache
from typing import Any

import pytest

from dyt import families
from dyt.assembly.compatibility import refusal
from dyt.registry import KINDS
from dyt.testing import laws
from dyt.testing.strategies import needs_attention
from laws.backbones import BACKBONES
from laws.models import GivenCase
from laws.strategies import names

SAMPLE = 60
WHOLE = 1000
"""How many combinations there are at least, once all families are in."""
ALL_FAMILIES = 7
FIELDS: Mapping[tuple[str, str], Mapping[str, Any]] = {("adapters", "bottleneck"): {"dim": 8}}
"""Where a component's defaults are too large for tiny models."""


@dataclass(frozen=True)
class Combination:
    backbone: str
    variant: str
    dispatcher: str
    adapter: str
    executor: str
    dtype: str

    def __str__(self) -> str:
        return "-".join(astuple(self))


@cache
def offered(backbone: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(variants, dispatchers) that the backbone's family does not refuse."""
    plain = BACKBONES[backbone].make()
    found = families.find(plain)
    assert found is not None, backbone
    assert found[0] == BACKBONES[backbone].family
    _, family = found
    variants = tuple(name for name, cls in KINDS["variants"].items() if refusal(family, plain, cls) is None)
    attention = family.attention_refusal(plain) is None
    return variants, tuple(name for name in names("dispatchers") if attention or not needs_attention(name))


@cache
def combinations() -> tuple[Combination, ...]:
    def each() -> Iterator[Combination]:
        for backbone, row in BACKBONES.items():
            variants, dispatchers = offered(backbone)
            axes = variants, dispatchers, names("adapters"), names("executors"), row.dtypes
            yield from (Combination(backbone, *rest) for rest in itertools.product(*axes))

    return tuple(each())


def sample(count: int) -> tuple[Combination, ...]:
    """Every name at least once, then as many pairs and triples of names as go into `count`; always the same."""
    shuffled = list(combinations())
    random.Random(0).shuffle(shuffled)
    chosen: list[Combination] = []
    for size in (1, 2, 3):
        seen = {part for c in chosen for part in parts(c, size)}
        for combination in shuffled:
            if len(chosen) >= count and size > 1:
                break
            if not parts(combination, size) <= seen:
                chosen.append(combination)
                seen |= parts(combination, size)
    return tuple(dict.fromkeys(chosen))


def drawn(part: int, of: int) -> tuple[Combination, ...]:
    """One of so many parts of all combinations, each a random sample of them; always the same."""
    if not 1 <= part <= of:
        raise pytest.UsageError(f"--part {part}/{of} is no part; give 1/{of} to {of}/{of}")
    shuffled = list(combinations())
    random.Random(0).shuffle(shuffled)
    return tuple(shuffled[part - 1 :: of])


def parts(combination: Combination, size: int) -> set[tuple[tuple[int, str], ...]]:
    """The names in it, or the pairs or triples of names, each with its axis."""
    return set(itertools.combinations(enumerate(astuple(combination)), size))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "combination" in metafunc.fixturenames:
        full, (part, of) = metafunc.config.getoption("full"), map(int, metafunc.config.getoption("part").split("/"))
        metafunc.parametrize("combination", drawn(part, of) if full else sample(SAMPLE), ids=str)


def test_a_combination_keeps_the_laws(combination: Combination) -> None:
    row = BACKBONES[combination.backbone]
    case = GivenCase(row.make, row.image, 2, 5, dtype=combination.dtype)
    chosen = {
        slot: {"type": name, **FIELDS.get((f"{slot}s", name), {})}
        for slot, name in (
            ("variant", combination.variant),
            ("dispatcher", combination.dispatcher),
            ("adapter", combination.adapter),
        )
    }
    laws.starts_as_the_backbone(case, chosen, [combination.executor])
    laws.executor_equals_masked(case, chosen, combination.executor, ["ragged", "none", "one"])
    laws.own_routes_equal_masked(case, chosen, combination.executor)
    laws.training_keeps_the_backbone(case, chosen, steps=1)


def test_the_sample_has_every_name() -> None:
    picked = sample(SAMPLE)
    assert len(picked) >= min(SAMPLE, len(combinations()))
    assert len(set(picked)) == len(picked)
    assert {c.backbone for c in picked} == set(BACKBONES)
    for kind in ("variants", "dispatchers", "adapters", "executors"):
        assert {getattr(c, kind.removesuffix("s")) for c in picked} == set(names(kind))


def test_the_parts_are_the_whole() -> None:
    found = [combination for part in range(1, 8) for combination in drawn(part, 7)]
    assert len(found) == len(combinations())
    assert set(found) == set(combinations())


@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_backbone_has_the_variants_that_are_expected(backbone: str) -> None:
    """Of the library's own: a family that refuses one by mistake would only make the matrix smaller."""
    own = {name for name in offered(backbone)[0] if KINDS["variants"].origin(name) == "dyt"}
    assert own == set(BACKBONES[backbone].variants)


def test_every_family_has_a_backbone() -> None:
    assert {row.family for row in BACKBONES.values()} == set(names("families"))


def test_there_are_enough() -> None:
    distinct = combinations()
    assert len(set(distinct)) == len(distinct)
    if len(names("families")) >= ALL_FAMILIES:
        assert len(distinct) >= WHOLE
    else:
        pytest.skip(f"{len(distinct)} combinations of {len(names('families'))} families; {ALL_FAMILIES} are to come")
