"""The table of budgets, and the rate that was set from it, are in the file; a damaged one is one CheckpointError."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hostile import changed
from safetensors import safe_open

import dyt
from dyt.core.budgets import BudgetTable, SiteBudgets
from laws.models import tiny

RATES = (0.1, 0.5, 1.0)
SITE = SiteBudgets((1.5, 0.25, -2.0), RATES)
TABLE = BudgetTable(RATES, RATES, {"blocks.0.mlp": SITE, "blocks.1.mlp": SITE})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny()
    model.budget_table = TABLE
    model.budget = 0.3
    path = tmp_path_factory.mktemp("files") / "a.safetensors"
    dyt.save(model, path, whole=True)
    return path


def test_it_is_saved_and_loaded(base: Path, tmp_path: Path) -> None:
    loaded = dyt.load(base)
    assert loaded.budget_table == TABLE
    assert loaded.budget == 0.3
    thresholds = TABLE.thresholds(0.3)
    assert [float(site.threshold) for site in loaded.sites] == pytest.approx(list(thresholds.values()))
    dyt.save(loaded, tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == base.read_bytes()
    with safe_open(base, "pt") as file:
        assert json.loads(file.metadata()["budgets"])["budget"] == 0.3


def test_a_model_without_one_has_no_entry(tmp_path: Path) -> None:
    dyt.save(tiny(), tmp_path / "a.safetensors", whole=True)
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert "budgets" not in file.metadata()
    loaded = dyt.load(tmp_path / "a.safetensors")
    assert loaded.budget_table is None
    assert loaded.budget is None


def test_it_is_loaded_onto_a_given_backbone(tmp_path: Path) -> None:
    model = tiny()
    backbone = dyt.unwrap(tiny())
    model.budget_table = TABLE
    dyt.save(model, tmp_path / "a.safetensors", whole=True)
    assert dyt.load(tmp_path / "a.safetensors", backbone=backbone).budget_table == TABLE


def said(**fields: Any) -> dict[str, Any]:
    site = {"thresholds": [1.5, 0.25, -2.0], "rates": list(RATES)}
    sites = {"blocks.0.mlp": site | fields.pop("site", {}), "blocks.1.mlp": site}
    return {"rates": list(RATES), "reached": list(RATES), "sites": sites, "budget": None} | fields


BAD: dict[str, tuple[Any, str]] = {
    "no JSON": ("{", "its budgets cannot be used"),
    "nested": ("[" * 100_000, "nested too deep"),
    "a list": ([], "a mapping is needed with budget, rates, reached, sites alone"),
    "another field": (said(more=1), "a mapping is needed with"),
    "a field too few": ({"rates": [0.1, 1.0]}, "a mapping is needed with"),
    "no mapping of sites": (said(sites=[1]), "sites is a mapping by name"),
    "no mapping of a site": (said(sites={"blocks.0.mlp": [1]}), "a mapping is needed with rates, thresholds alone"),
    "no sites": (said(sites={}), "at least one site"),
    "an unknown site": (
        said(sites=said()["sites"] | {"blocks.7.mlp": said()["sites"]["blocks.0.mlp"]}),
        "has budgets of other sites than its model: 'blocks.7.mlp' is not in both",
    ),
    "a site too few": (
        said(sites={"blocks.1.mlp": said()["sites"]["blocks.0.mlp"]}),
        "has budgets of other sites than its model: 'blocks.0.mlp' is not in both",
    ),
    "a name of megabytes": (said(sites={"x" * 1_000_000: said()["sites"]["blocks.0.mlp"]}), "is not in both"),
    "descending rates": (said(rates=[1.0, 0.5, 0.1]), "rates that ascend"),
    "a rate of 0": (said(rates=[0.0, 0.5, 1.0]), "above 0 and at most 1"),
    "a rate that is NaN": (said(rates=[float("nan"), 0.5, 1.0]), "NaN is no number here"),
    "rates that are true": (said(rates=[0.1, 0.5, True]), "a list of finite numbers is needed"),
    "a rate of words": (said(rates=["0.1", 0.5, 1.0]), "a list of finite numbers is needed"),
    "a number for rates": (said(rates=1), "a list of finite numbers is needed"),
    "too many rates": (said(rates=[i / 9999 for i in range(1, 9999)]), "from 2 to 1000 rates"),
    "a rate too few": (said(reached=[0.1, 1.0]), "for each of its 3 rates"),
    "ascending thresholds": (said(site={"thresholds": [1.0, 2.0, 0.0]}), "none above the one before"),
    "an infinite threshold": (said(site={"thresholds": [float("inf"), 0.0, -1.0]}), "Infinity is no number here"),
    "a threshold beyond numbers": (said(site={"thresholds": [10**400, 0, -1]}), "a list of finite numbers"),
    "a share above 1": (said(site={"rates": [0.1, 0.5, 1.5]}), "from 0 to 1 for each"),
    "a budget beyond": (said(budget=0.05), "allowed are rates from 0.1 to 1"),
    "a budget of words": (said(budget="0.5"), "a list of finite numbers"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_hostile_table_is_refused(base: Path, tmp_path: Path, name: str) -> None:
    value, words = BAD[name]
    text = value if isinstance(value, str) else json.dumps(value)
    path = changed(base, tmp_path / "a.safetensors", lambda spec, metadata, t: metadata.update(budgets=text))
    with pytest.raises(dyt.CheckpointError) as caught:
        dyt.load(path)
    message = str(caught.value)
    assert words in message
    assert message.isprintable()
    assert len(message) <= 700 + len(str(path))


def test_a_sound_one_loads(base: Path, tmp_path: Path) -> None:
    """So that what is refused above is refused for the one thing that was changed."""
    text = json.dumps(said(budget=0.5))
    path = changed(base, tmp_path / "a.safetensors", lambda spec, metadata, t: metadata.update(budgets=text))
    loaded = dyt.load(path)
    assert loaded.budget == 0.5
    loaded.budget = 1.0
    with torch.no_grad(), dyt.record(loaded) as routes:
        loaded(torch.randn(2, 3, 32, 32))
    assert all(bool(route.active.all()) for route in routes)
