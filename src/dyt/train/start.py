"""What is fitted to the pretrained model before the first step: routers and stand-ins."""

from __future__ import annotations

from collections.abc import Mapping

from dyt.tasks.layouts import Split
from dyt.train.inference import Inference


def start_parts(inference: Inference, images: Split, rate: float) -> None:
    """Starts routers and stand-ins as the run's spec says, on training images, and says how much they tell.

    Args:
        inference: has the run and its model.
        images: the training split.
        rate: the share of the tokens that is active at the start.
    """
    train = inference.run.train

    def routers() -> None:
        if train.router_start != "random":
            told = inference.started(images, rate)
            inference.bar.say(f"routers started from importance: they tell {_mean(told):.0%} of it")

    def stand_ins() -> None:
        if train.stand_in_start == "fitted":
            told = inference.stood_in(images)
            inference.bar.say(f"stand-ins fitted to their branches: they tell {_mean(told):.0%} of them")

    # what a branch is worth is measured beyond its stand-in where that is fitted by then
    for start in (stand_ins, routers) if train.router_start == "residual" else (routers, stand_ins):
        start()


def _mean(told: Mapping[str, float]) -> float:
    return sum(told.values()) / max(len(told), 1)
