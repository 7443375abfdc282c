"""Axes as they are written, and their points."""

import pytest

from dyt.sweeps import Axis, Point, SweepError, points


def test_commas_within_a_value_do_not_divide_it() -> None:
    assert Axis.of("train.lr=1e-3, 3e-3") == Axis("train.lr", ("1e-3", "3e-3"))
    assert Axis.of('a.b={"x": [1, 2], "y": "p,q"},[3, 4],"u,v",w').values == (
        '{"x": [1, 2], "y": "p,q"}',
        "[3, 4]",
        '"u,v"',
        "w",
    )
    assert Axis.of("a=b=c").values == ("b=c",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("train.lr", "write it as field=value,value"),
        ("train.lr=", "write it as field=value,value"),
        ("=1,2", "write it as field=value,value"),
        ("train.lr=1,,2", "write it as field=value,value"),
        ("train.lr=1,2,1", "the value 1 is there twice"),
        ("train.seed=0,1", "train.seed is no axis of a grid; give --seeds"),
        ("data.root=a,b", "give --data"),
        ("data.test=test,val", "every point has the same test images"),
    ],
)
def test_what_is_no_axis_is_refused(text: str, said: str) -> None:
    with pytest.raises(SweepError, match=said) as refused:
        Axis.of(text)
    assert "\n" not in str(refused.value)


def test_points_of_an_arm_are_together() -> None:
    found = points([Axis("x", ("1", "2"))], [Axis("y", ("p", "q"))])
    assert [point.label for point in found] == ["y=p x=1", "y=p x=2", "y=q x=1", "y=q x=2"]
    assert [point.arm for point in found] == ["y=p", "y=p", "y=q", "y=q"]
    assert points([]) == [Point(())]
    assert Point(()).label == "as given"


def test_folders_are_readable_and_their_own() -> None:
    found = points([Axis("a.b", ("{x: 1}", "{x:  1}", "../../y", "z" * 500))])
    folders = [point.folder for point in found]
    assert len(set(folders)) == 4
    assert all("/" not in name and len(name) < 100 and not name.startswith(".") for name in folders)
    assert folders[0].startswith("a.b=_x_1")


def test_refusals_of_whole_grids() -> None:
    with pytest.raises(SweepError, match="x is in two axes; give its values in one"):
        points([Axis("x", ("1",)), Axis("x", ("2",))])
    with pytest.raises(SweepError, match=r"the grid has 10,302 points; at most 10,000"):
        points([Axis(name, tuple(map(str, range(count)))) for name, count in (("x", 101), ("y", 102))])
