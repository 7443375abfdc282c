"""Run specs by name, as plain data without the data's place: what is trained how, ready to be changed by `--set`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from dyt.config.files import override, part
from dyt.config.presets import preset
from dyt.errors import SpecError, nearest, quoted
from dyt.registry import KINDS
from dyt.tasks.classification import Classification
from dyt.tasks.kinds import TASKS

_VIDEO_TRAINING: dict[str, Any] = {
    "batch_size": 128,
    "optimizer": "adamw",
    "lr": 1e-3,
    "lr_rule": "batch256",  # the paper gives a base rate, and the rule with its images
    "weight_decay": 0.01,
    "warmup_epochs": 2,
}

_HELD: dict[str, Any] = {
    "rate": 0.5,
    "rate_weight": 0.0,
    "complete": 0.0,
    "distill": 0.0,
    "asked": {"start": 0.8, "until": 0.4, "shape": "linear"},
    "control": "threshold",
}
"""Of the objective: one pass, whose rate thresholds hold."""
_SHORT: dict[str, Any] = {
    "epochs": 10,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 0.01,
    "warmup_epochs": 1,
    "adapter_lr_scale": 8.0,
    "router_start": "importance",
}
"""Of the training: ten epochs from routers that know what tokens are worth."""

# Short runs, and one file for all budgets: ten epochs of steps that skip (docs: short runs).
_DEFAULT: dict[str, Any] = {
    "model": {
        "dispatcher": {"type": "learned", "noise": 0.0},
        "adapter": {"type": "bottleneck", "dim": 8},
        "stand_in": {"type": "low_rank", "dim": 8},
        "objective": {**_HELD, "spread": [0.25, 1.0], "router_gradient": "none"},
    },
    "data": {},
    "train": {
        **_SHORT,
        "batch_size": 32,
        "stand_in_lr_scale": 3.0,
        "stand_in_start": "fitted",
        "budgets": True,
    },
}

# Short runs at one rate, held to the pretrained features: what was the default before stand-ins (docs: short runs).
_ONE_RATE: dict[str, Any] = {
    "model": {
        "dispatcher": {"type": "learned", "noise": 0.0},
        "adapter": {"type": "bottleneck", "dim": 8},
        "objective": {
            **_HELD,
            "features": {"start": 20.0, "end": 2.0, "begin": 0.2, "until": 0.6, "shape": "exponential"},
            "teacher": "pretrained",
        },
    },
    "data": {},
    "train": {**_SHORT, "batch_size": 64, "router_lr_scale": 0.1},
}

_RECIPES: dict[str, dict[str, Any]] = {
    "default": _DEFAULT,
    "one_rate": _ONE_RATE,
    "budgets": _DEFAULT,  # its name before it was the default
    # An encoder made cheaper on images without labels: its final tokens, and those at every site, are held to its own.
    "features": {
        "model": {
            **_DEFAULT["model"],
            "head": {"type": "tokens"},
            "adapter": {"type": "bottleneck", "dim": 32},
            "stand_in": {"type": "low_rank", "dim": 64},
            "objective": {**_DEFAULT["model"]["objective"], "features": 1.0, "teacher": "pretrained"},
        },
        "data": {"task": "features"},
        "train": {
            **_DEFAULT["train"],
            "batch_size": 16,
            "adapter_lr_scale": 2.0,
            "stand_in_lr_scale": 1.0,
            "router_start": "residual",
        },
    },
    # The paper on VTAB-1K (table 3 and its settings).
    "vtab1k": {
        "model": {"adapter": {"type": "bottleneck", "dim": 8}},
        "data": {"augment": "none"},
        "train": {
            "epochs": 100,
            "batch_size": 64,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "warmup_epochs": 10,
        },
    },
    # The paper on full training sets (tables 1, 6 and their settings).
    "images": {
        "model": {"adapter": {"type": "bottleneck", "dim": 64}},
        "data": {"augment": "crop"},
        "train": {
            "epochs": 100,
            "batch_size": 1024,
            "optimizer": "adamw",
            "lr": 1e-3,
            "lr_rule": "batch256",
            "weight_decay": 0.01,
            "warmup_epochs": 20,
        },
    },
    # The paper on ADE20K (table 10): 512 x 512 crops, UPerNet, the rate's term alone. What the paper's text leaves open
    # (160,000 steps of 16 images, polynomial decay) is the custom of UPerNet on ADE20K, here with the cosine schedule.
    "segmentation": {
        "model": {
            "backbone": {"args": {"img_size": 512}},
            "head": {"type": "upernet"},
            "adapter": {"type": "bottleneck", "dim": 64},
            "objective": {"complete": 0.0, "distill": 0.0},
        },
        "data": {"task": "segmentation", "size": 512, "resize": 512, "scale": [0.5, 2.0]},
        "train": {
            "epochs": 127,
            "batch_size": 16,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.01,
            "warmup_epochs": 1,
        },
    },
    # The paper on Kinetics-400 (table 6): every 16th frame, three clips along time at the test.
    "k400": {
        "model": {"head": {"type": "query"}, "adapter": {"type": "bottleneck", "dim": 64}},
        "data": {
            "task": "video",
            "frames": 8,
            "sampling": "dense",
            "stride": 16,
            "temporal_views": 3,
            "spatial_views": 1,
            "augment": "jitter",
            "flip": True,
        },
        "train": {**_VIDEO_TRAINING, "epochs": 12},
    },
    # The paper on Something-Something-V2 (table 6): frames over the whole clip, never mirrored, since left and right
    # are among its classes; three crops at the test. How strong its RandAugment is, the paper does not say.
    "ssv2": {
        "model": {"head": {"type": "query"}, "adapter": {"type": "bottleneck", "dim": 64}},
        "data": {
            "task": "video",
            "frames": 8,
            "sampling": "uniform",
            "temporal_views": 1,
            "spatial_views": 3,
            "augment": "crop",
            "flip": False,
            "rand_augment": "rand-m7-n2",
        },
        "train": {**_VIDEO_TRAINING, "epochs": 50},
    },
    # The paper on COCO (table 11): ViTDet, 12 epochs, d = 128. What it does not say is ViTDet's: windows, size, jitter,
    # decay.
    "detection": {
        "model": {
            "backbone": {"window_size": 14},
            "adapter": {"type": "bottleneck", "dim": 128},
            "objective": {"complete": 0.0, "distill": 0.0},
            "head": {"type": "mask_rcnn", "rpn_convs": 2, "box_head": "conv"},
        },
        "data": {"task": "detection", "size": 1024, "masks": True, "wrong_boxes": "leave_out", "jitter": [0.1, 2.0]},
        "train": {
            "epochs": 12,
            "batch_size": 64,
            "optimizer": "adamw",
            "lr": 1e-3,
            "weight_decay": 0.1,
            "warmup_epochs": 0.25,
            "decay_all": False,
        },
    },
}


def recipes() -> list[str]:
    """The names of the recipes."""
    return sorted(_RECIPES)


def recipe(name: str) -> dict[str, Any]:
    """The plain data of a recipe: a RunSpec but for data.root.

    Raises:
        SpecError: an unknown name, with the nearest one and the list.
    """
    if not isinstance(name, str) or name not in _RECIPES:
        raise SpecError(f"no recipe {quoted(name)}; {nearest(name, recipes())}")
    return copy.deepcopy(_RECIPES[name])


def changed(plain: dict[str, Any], changes: Sequence[str], ours: bool) -> dict[str, Any]:
    """A run's plain data with `a.b=c` assignments over it.

    Args:
        ours: the data is a recipe's: where its warm-up does not fit into the epochs that were asked for, it is the same
            share of them, unless an assignment says one.

    Raises:
        SpecError: what is no assignment.
    """
    made = override(plain, changes)
    if not ours:
        return made
    train, before = made.get("train"), part(plain, "train")
    if not isinstance(train, dict) or "warmup_epochs" not in before:
        return made
    without = {**plain, "train": {name: value for name, value in before.items() if name != "warmup_epochs"}}
    said = "warmup_epochs" in override(without, changes)["train"]
    epochs, warmup = train.get("epochs"), before["warmup_epochs"]
    if not said and isinstance(epochs, int) and warmup >= epochs:
        train["warmup_epochs"] = warmup / before["epochs"] * epochs
    return made


def with_task(plain: dict[str, Any], name: str) -> dict[str, Any]:
    """A run for this task's data, with the task's own head where the run's is for another.

    Raises:
        SpecError: an unknown task.
    """
    if not isinstance(name, str) or name not in TASKS:
        raise SpecError(f"no task {quoted(name)}; {nearest(name, list(TASKS))}")
    changed = copy.deepcopy(plain)
    part(changed, "data")["task"] = name
    model = part(changed, "model")
    given = model.get("head")
    head = given if isinstance(given, str) else part({**model}, "head").get("type", TASKS[Classification.name].head)
    known = head in KINDS["heads"].names()  # another is answered by the spec
    if known and KINDS["heads"].get(head).task != name:
        model["head"] = {"type": TASKS[name].head}
    return changed


def with_preset(data: dict[str, Any], name: str) -> dict[str, Any]:
    """A run's plain data with the model of a preset: its variant, dispatcher, adapter, tuner, reducer and objective.

    Backbone, head and the training stay, but for the remedies among its options (those of the routers, `calibrate`),
    which are of no use without those of the model; it has none of these.

    Raises:
        SpecError: an unknown preset.
    """
    chosen = preset(name).model_dump(
        mode="json",
        include={
            "variant",
            "dispatcher",
            "adapter",
            "tuner",
            "reducer",
            "objective",
            "trainable",
            "stand_in",
            "modules_to_save",
        },
    )
    routers = {"router_lr_scale", "router_weight_decay", "router_start"}
    dropped = routers | {"stand_in_start", "stand_in_lr_scale", "calibrate", "budgets"}
    data = {**data}
    train = {field: value for field, value in part(data, "train").items() if field not in dropped}
    return {**data, "model": {**part(data, "model"), **chosen}, "train": train}
