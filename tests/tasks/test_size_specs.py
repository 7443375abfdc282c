"""Sizes in specs, and what covers one."""

from typing import Any

import pytest

from dyt.config.files import dump_yaml, parse_yaml
from dyt.config.spec import parse
from dyt.errors import SpecError
from dyt.tasks.data import DataSpec
from dyt.tasks.segmentation import SegmentationSpec
from dyt.tasks.sizes import cover, pair


def test_a_side_or_a_pair_goes_round() -> None:
    for size in (96, [96, 128]):
        spec = parse(DataSpec, {"root": "x", "size": size})
        assert parse(DataSpec, parse_yaml(dump_yaml(spec.model_dump(mode="json")))) == spec
        assert pair(spec.size or 0) == ((96, 96) if size == 96 else (96, 128))


@pytest.mark.parametrize("size", [0, -1, [96], [96, 0], [1, 2, 3], "large"])
def test_others_are_answered_once(size: Any) -> None:
    with pytest.raises(SpecError, match=r"size\.(side|pair)") as caught:
        parse(DataSpec, {"root": "x", "size": size})
    assert "; " not in str(caught.value)


def test_windows_are_not_further_apart_than_they_are_wide() -> None:
    with pytest.raises(SpecError, match="stride 48 is above size"):
        parse(SegmentationSpec, {"root": "x", "size": [32, 64], "stride": 48})


@pytest.mark.parametrize(
    ("height", "width", "size", "expected"),
    [
        (40, 60, (24, 24), (24, 36)),
        (60, 40, (24, 24), (36, 24)),
        (40, 60, (24, 48), (32, 48)),
        (60, 40, (24, 48), (72, 48)),
        (50, 50, (24, 24), (24, 24)),
    ],
)
def test_the_smallest_that_covers(height: int, width: int, size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert cover(height, width, size) == expected
