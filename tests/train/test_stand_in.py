"""Stand-ins start as the best linear maps of their rank."""

from pathlib import Path
from typing import Any

import pytest
import torch

import dyt
from dyt.core import context
from dyt.testing.cases import tiny
from dyt.train import fit
from dyt.train.stand_in import start_stand_ins

from .conftest import Runs

IMAGES = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def model(rank: int, **changes: Any) -> dyt.DynamicModel:
    torch.manual_seed(0)
    return tiny(**{"stand_in": {"type": "low_rank", "dim": rank}} | changes).eval()


def pairs(made: dyt.DynamicModel) -> tuple[torch.Tensor, torch.Tensor]:
    """What the first branch is given and gives of each patch token, (M, C) float64."""
    block = made.dynamic_blocks[0]
    with torch.no_grad(), context.changed(made.key, complete=True, keep_tokens=True), dyt.record(made) as routes:
        made(IMAGES)
        x = routes[0].entered
        y = block.mlp(block.norm2(x))
    return x[:, 1:].flatten(0, 1).double(), y[:, 1:].flatten(0, 1).double()


def test_it_is_the_best_map_of_its_rank() -> None:
    """Against the truncated least squares solution, by the theorem of Eckart and Young on its fitted values."""
    made = model(3)
    told = start_stand_ins(made, [IMAGES[:4], IMAGES[4:]])
    x, y = pairs(made)
    x, y = x - x.mean(0), y - y.mean(0)
    fitted = x @ torch.linalg.lstsq(x, y).solution
    directions = torch.linalg.svd(fitted).Vh[:3]
    wanted = fitted @ directions.T @ directions
    found = made.sites[0].stand_in(pairs(made)[0].float()).detach().double()
    best = float((y - wanted).square().sum())
    assert float((y - (found - found.mean(0))).square().sum()) == pytest.approx(best, rel=0.02)  # the fit has a ridge
    assert told["blocks.0.mlp"] == pytest.approx(1 - best / float(y.square().sum()), abs=0.02)


def test_more_rank_tells_more_and_the_mean_is_always_told() -> None:
    found = []
    for rank in (1, 4, 64):  # 64 is more than there are channels
        made = model(rank)
        found.append(start_stand_ins(made, [IMAGES]))
        x, y = pairs(made)
        torch.testing.assert_close(made.sites[0].stand_in(x.float()).mean(0), y.mean(0).float(), rtol=1e-3, atol=1e-4)
    for name in found[0]:
        assert 0 <= found[0][name] <= found[1][name] <= found[2][name] + 1e-6 <= 1.001


def test_mixing_branches_are_fitted_too() -> None:
    told = start_stand_ins(model(4, variant={"type": "attn_mlp"}), [IMAGES])
    assert set(told) == {f"blocks.{i}.{branch}" for i in range(2) for branch in ("attn", "mlp")}


@pytest.mark.parametrize(
    ("stand_in", "there"), [(None, "no stand-in"), ({"type": "bottleneck"}, "a Bottleneck")], ids=["none", "bottleneck"]
)
def test_what_has_no_closed_form_is_refused(stand_in: Any, there: str) -> None:
    with pytest.raises(dyt.DyTError, match=f"has {there}.*stand_in_start: zero"):
        start_stand_ins(model(4, stand_in=stand_in), [IMAGES])
    with pytest.raises(dyt.DyTError, match="no images"):
        start_stand_ins(model(4), [])


def test_a_run_fits_them_before_its_first_step(runs: Runs, tmp_path: Path) -> None:
    for start in ("fitted", "zero"):
        train = {"stand_in_start": start, "lr": 1e-12, "epochs": 1}
        fit(runs(stand_in={"type": "low_rank", "dim": 2}, train=train), tmp_path / start, progress=False)
        made = dyt.load(tmp_path / start / "model.safetensors", trust_paths=True)
        moved = [bool((site.stand_in.up.weight.abs() > 1e-6).any()) for site in made.sites]
        assert moved == [start == "fitted"] * 2
