#!/usr/bin/env python3
"""Retrieval with an encoder that task features made cheaper, beside the untouched encoder of the same file.

The labels are looked at here alone: precision at 1 is the share of the images whose nearest other image, by the cosine
of class tokens, has their label::

    dyt train --task features --data DATA --set data.train=train800 --set data.test=val200 --out runs/features
    python benchmarks/retrieval.py runs/features --data DATA --split test --budget 0.5
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import dyt
from dyt.cli.options import model_file
from dyt.core.route import activation_rate
from dyt.tasks.data import DataSpec, open_data
from dyt.tasks.features import Features
from dyt.tasks.features.metrics import neighbours
from dyt.train.saved import open_saved


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, help="a model.safetensors of task features, or the directory of its run")
    parser.add_argument(
        "--data", required=True, help="images with labels, as dyt train --task classification reads them"
    )
    parser.add_argument("--split", default="test")
    parser.add_argument("--budget", type=float, nargs="*", default=[], help="rates of the file's table")
    asked = parser.parse_args()

    saved = open_saved(model_file(asked.model) or asked.model)
    labelled = open_data(DataSpec(root=asked.data, test=asked.split)).test
    labels, spec = torch.tensor(labelled.labels), saved.spec(asked.data, workers=0)
    task = Features()

    def read(plain: bool) -> Tensor:
        """(M, C) of length 1: what stands for each image."""
        found = []
        for images, _ in saved.batches(spec, labelled, range(len(labelled))):
            with torch.no_grad():
                one = (
                    task.reference(saved.model, images, None, spec) if plain else task.infer(saved.model, images, spec)
                )
            found.append(F.normalize(one.image, dim=-1).cpu())
        return torch.cat(found)

    untouched = neighbours(read(plain=True))
    print(json.dumps({"images": len(labels), "untouched": {"precision": _share(labels[untouched] == labels)}}))
    for budget in asked.budget or [None]:
        if budget is not None:
            saved.model.budget = budget
        with dyt.record(saved.model) as routes:
            near = neighbours(read(plain=False))
        active, patches = activation_rate(routes)
        found = {"precision": _share(labels[near] == labels), "agreement": _share(near == untouched)}
        print(json.dumps({"budget": budget, "active_rate": round(float(active / patches), 3), **found}))


def _share(right: Tensor) -> float:
    return round(float(right.double().mean()), 4)


if __name__ == "__main__":
    main()
