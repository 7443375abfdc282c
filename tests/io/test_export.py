"""What is written runs without the library and gives the same numbers, for other batch sizes and with none active."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

import dyt
from dyt.executors import TokenCapacity
from dyt.io.export import Run, difference, program, to_onnx, to_pt2
from laws.models import masks, tiny

SMALL = {"depth": 1, "global_pool": "avg"}  # not the class token, which no mask of the last block concerns
"""One block: what is traced once is traced in the same way for each."""


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def written(kind: str, model: dyt.DynamicModel, folder: Path, executor: str = "capacity") -> Run:
    path = folder / f"model.{kind}"
    if kind == "onnx":
        pytest.importorskip("onnxruntime", reason="ONNX needs pip install 'dyt[export]'")
        return to_onnx(model, path, images(1), executor)
    return to_pt2(model, path, images(1), executor)


@pytest.mark.parametrize("executor", ["masked", "capacity", "sparse"])
def test_pt2_equals_the_model(executor: str, tmp_path: Path) -> None:
    """With some, no and all patch tokens active; a written module's buffers, the thresholds, can be set as well."""
    model = tiny(SMALL, capacity={"share": 0.6})
    run = written("pt2", model, tmp_path, executor)
    assert isinstance(run, torch.nn.Module)
    thresholds = [buffer for name, buffer in run.named_buffers() if name.endswith("threshold")]
    for value, count in ((0.0, 1), (0.0, 5), (1e6, 3), (-1e6, 3)):
        for threshold in (*thresholds, *(site.threshold for site in model.sites)):
            threshold.fill_(value)
        found = difference(model, run, images(count, 1))
        assert found.largest < 1e-5
        assert found.same == found.images == count


@pytest.mark.parametrize(
    ("variant", "executor", "threshold"),
    [
        ("mlp", "sparse", 0.0),
        ("mlp", "sparse", 1e6),
        ("mlp", "capacity", 0.0),
        ("attn", "capacity", 0.0),
        ("attn", "capacity", 1e6),
    ],
)
def test_onnx_equals_the_model(
    variant: str, executor: str, threshold: float, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """In onnxruntime, on two other batch sizes; above the high threshold no patch token is active."""
    if threshold and not request.config.getoption("--full"):
        pytest.skip("the same file with another number; `.ci/run` has it, use --full")
    model = tiny(SMALL, variant={"type": variant}, capacity={"share": 0.6})
    for site in model.sites:
        site.threshold.fill_(threshold)
    run = written("onnx", model, tmp_path, executor)
    with torch.no_grad(), dyt.record(model) as routes:
        model(images(5, 1))
    assert bool(routes[0].active[:, 1:].any()) == (threshold == 0)
    assert difference(model, run, images(5, 1)).largest < 1e-4
    assert difference(model, run, images(1, 2)).largest < 1e-4


@pytest.mark.parametrize("variant", ["attn_mlp", "layer"])
def test_other_variants_with_and_without_room(variant: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """The room is between what one image needs and what the others do: both sides of the written condition are run."""
    if variant == "attn_mlp" and not request.config.getoption("--full"):
        pytest.skip("two sites, of which each is written as elsewhere here; `.ci/run` has it, use --full")
    model, x = tiny(SMALL, variant={"type": variant}), images(12)
    with torch.no_grad(), dyt.record(model) as routes:
        model(x)
    needed = routes[0].active.sum(1)
    least, most = x[needed.argmin()][None], x[needed.argmax()][None]
    assert needed.min() < needed.max()
    for site in model.sites:
        site.capacity = TokenCapacity(float(needed.min()) / 17)
    run = written("pt2", model, tmp_path)
    assert difference(model, run, least).largest < 1e-5
    assert difference(model, run, most).largest < 1e-5


def test_images_without_room_are_nan_where_that_was_asked_for(tmp_path: Path) -> None:
    model = tiny(SMALL, variant={"type": "attn"}, capacity={"share": 0.5, "overflow": "nan"})
    found = difference(model, written("pt2", model, tmp_path), torch.cat([images(8, seed) for seed in range(8)]))
    assert 0 < found.overflowed < 64
    assert found.overflowed + found.images == 64
    assert found.largest < 1e-5
    assert f"{found.overflowed} exceeded the capacity and are NaN" in str(found)


def test_bfloat16(tmp_path: Path) -> None:
    model = tiny(SMALL)
    half = tiny(SMALL)
    half.load_state_dict(model.state_dict())
    run = to_pt2(half.bfloat16(), tmp_path / "model.pt2", images(1).bfloat16(), "complete")
    with torch.no_grad(), dyt.execution(model, "complete"):
        wanted = model(images(3))
    torch.testing.assert_close(run(images(3).bfloat16()).float(), wanted, atol=0.1, rtol=0.1)


def test_the_graph_has_no_shape_that_depends_on_data() -> None:
    model = tiny(SMALL, capacity={"share": 0.5, "overflow": "nan"})
    graph = program(model, images(1)).graph
    called = {str(node.target) for node in graph.nodes if node.op == "call_function"}
    assert not any(word in name for name in called for word in ("nonzero", "aten.item", "local_scalar", "cond"))
    assert any("scatter" in name for name in called)


def refused(model: dyt.DynamicModel, tmp_path: Path, path: str, executor: str = "capacity", count: int = 1) -> None:
    to_pt2(model, tmp_path / path, images(count), executor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "model.onnx"}, "must end in .pt2"),
        ({"path": "nowhere/model.pt2"}, "no directory"),
        ({"path": "model.pt2", "executor": "capcity"}, "did you mean 'capacity'"),
        ({"path": "model.pt2", "executor": "sparse"}, "at site blocks.0.attn it chooses shapes by the data"),
        ({"path": "model.pt2", "count": 0}, "needs an image"),
    ],
)
def test_what_is_refused(changes: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(dyt.DyTError, match=message):
        refused(tiny(SMALL, variant={"type": "attn"}), tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []


def test_a_model_in_train_mode_and_other_dtypes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(dyt.UnsupportedError, match=r"call model.eval\(\) first"):
        refused(tiny().train(), tmp_path, "model.pt2")
    with pytest.raises(dyt.UnsupportedError, match="ONNX is written in float32"):
        to_onnx(tiny().bfloat16(), tmp_path / "model.onnx", images(1).bfloat16())
    with pytest.raises(dyt.DyTError, match="another size than 2"):
        difference(tiny(), tiny(), images(2))


def test_missing_packages_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyt.io.export.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(dyt.UnsupportedError, match="ONNX needs onnxscript, not installed here"):
        to_onnx(tiny(), tmp_path / "model.onnx", images(1))


def test_forced_masks_are_not_in_the_file(tmp_path: Path) -> None:
    """Nor is a record: what is written decides by itself, whatever context it was written in."""
    model, x = tiny(SMALL), images(3)
    with dyt.forced(model, masks(model, x[:2], ["none"], 0)), pytest.raises(dyt.UnsupportedError, match="forced"):
        to_pt2(model, tmp_path / "model.pt2", x)
