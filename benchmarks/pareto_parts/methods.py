"""What is trained, and the models that are had of it: each method at several strengths."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dyt
from dyt.config.spec import DyTSpec, parse
from dyt.io.checkpoint import put, stored
from dyt.model.dynamic import DynamicModel
from dyt.train import RunSpec, recipe
from dyt.train.named_runs import changed, with_preset

PATCHES = 14 * 14
"""For which the numbers of merged pairs are meant; for others they are the same share."""
STATIC, LINEAR, BUDGETS = "static adapter", "linear probe", "one file, dialled"
SEPARATE = "a model for each rate"
TOME, EVIT, DYNAMICVIT = "ToMe", "EViT", "DynamicViT"
TRAINED = ", trained so"
SMALL: Mapping[str, Any] = {"img_size": 32, "patch_size": 8, "depth": 4, "embed_dim": 24, "num_heads": 2}
"""Arguments of a backbone to test this script with."""


@dataclass(frozen=True)
class Strengths:
    """Rates of models of their own, and of the dialled one; numbers of merged pairs; shares of tokens that are kept."""

    rates: Sequence[float] = (0.3, 0.5, 0.7)
    dialled: Sequence[float] = (0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 1.0)
    pairs: Sequence[int] = (4, 8, 11, 13, 15)
    keep: Sequence[float] = (0.9, 0.8, 0.7, 0.6, 0.5)
    stages: Sequence[float] = (0.85, 0.7)


@dataclass(frozen=True)
class Training:
    """A run: its folder's name, its recipe and preset, and what is changed of them."""

    name: str
    recipe: str = "default"
    preset: str | None = None
    model: Mapping[str, Any] = field(default_factory=dict)

    def run(self, data: Mapping[str, Any], backbone: Mapping[str, Any], seed: int, changes: Sequence[str]) -> RunSpec:
        """Its spec on this data."""
        plain = recipe(self.recipe)
        if self.preset is not None:
            plain = with_preset(plain, self.preset)
        model = plain["model"] | dict(self.model) | {"backbone": dict(backbone)}
        if "objective" in self.model:
            model["objective"] = plain["model"]["objective"] | self.model["objective"]
        whole = {**plain, "model": model, "data": dict(data)}
        return parse(RunSpec, changed(whole, [*changes, f"train.seed={seed}"], ours=True))


@dataclass(frozen=True)
class Contender:
    """A model that is measured.

    Attributes:
        method: whose points are joined in the picture.
        label: its strength.
        training: the run whose file it is had from.
        budget: the rate that it is set to; None leaves it as trained.
        reducer: put into it after the training; None leaves its own.
    """

    method: str
    label: str
    training: str
    budget: float | None = None
    reducer: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def name(self) -> str:
        """In the file of lines."""
        return f"{self.method} {self.label}".strip()

    def of(self, model: DynamicModel) -> DynamicModel:
        """Of the loaded model of its training, which is of no use afterwards."""
        if self.reducer is not None:
            model = with_reducer(model, self.reducer)
        if self.budget is not None:
            model.budget = self.budget
        return model.eval()


def with_reducer(model: DynamicModel, reducer: Mapping[str, Any]) -> DynamicModel:
    """The same model with a reducer that has no weights of its own, on the same backbone."""
    tensors = {name: tensor.clone() for name, tensor in stored(model).items()}
    plain = model.spec.model_dump(mode="json") | {"reducer": dict(reducer)}
    device = next(model.parameters()).device
    backbone = dyt.unwrap(copy.deepcopy(model))
    made = dyt.build(parse(DyTSpec, plain), backbone=backbone).to(device)
    put(made, tensors)
    return made


def merged(pairs: int, patches: int) -> int:
    """The number of pairs for so many patches, the same share as of 196."""
    return max(1, round(pairs * patches / PATCHES))


def plan(strengths: Strengths, patches: int) -> tuple[dict[str, Training], list[Contender]]:
    """All trainings by name, and all contenders."""
    adapter = "static_adapter_vtab"
    trainings = [
        Training("budgets", "budgets"),
        Training("static", preset=adapter),
        Training("linear", preset="linear"),
    ]
    found = [Contender(BUDGETS, f"{rate:g}", "budgets", budget=rate) for rate in strengths.dialled]
    for rate in strengths.rates:
        trainings.append(Training(f"rate{rate:g}", model={"objective": {"rate": rate, "spread": None}}))
        found.append(Contender(SEPARATE, f"{rate:g}", f"rate{rate:g}"))
    found += [Contender(STATIC, "", "static"), Contender(LINEAR, "", "linear")]
    for name, label, spec in _reducers(strengths, patches):
        method = {"tome": TOME, "evit": EVIT, "dynamicvit": DYNAMICVIT}[spec["type"]]
        trainings.append(Training(name, preset=adapter, model={"reducer": spec}))
        if method != DYNAMICVIT:  # whose predictors have to be trained
            found.append(Contender(method, label, "static", reducer=spec))
        found.append(Contender(method + TRAINED * (method != DYNAMICVIT), label, name))
    return {training.name: training for training in trainings}, found


def _reducers(strengths: Strengths, patches: int) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(name of the training, label, spec)."""
    for r in dict.fromkeys(merged(pairs, patches) for pairs in strengths.pairs):
        yield f"tome{r}", f"r={r}", {"type": "tome", "r": r}
    for keep in strengths.keep:
        yield f"evit{keep:g}", f"{keep:g}", {"type": "evit", "keep": keep}
    for keep in strengths.stages:
        yield f"dynamicvit{keep:g}", f"{keep:g}", {"type": "dynamicvit", "keep": keep}


METHODS = {
    "budgets": BUDGETS,
    "rates": SEPARATE,
    "static": STATIC,
    "linear": LINEAR,
    "tome": TOME,
    "evit": EVIT,
    "tome-trained": TOME + TRAINED,
    "evit-trained": EVIT + TRAINED,
    "dynamicvit": DYNAMICVIT,
}
"""What `--only` takes."""
