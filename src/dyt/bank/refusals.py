"""What a bank refuses, in words."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from dyt.heads import Classifier
from dyt.model.dynamic import DynamicModel


def reasons(tuned: DynamicModel) -> Iterator[str]:
    """What keeps a model from being in any bank."""
    spec = tuned.spec
    if type(tuned) is not DynamicModel:
        yield f"it is a {type(tuned).__name__}; give the model that it was made from"
    if tuned.tuner is not None or spec.reducer is not None or spec.trainable == "full" or spec.modules_to_save:
        yield "it tunes the backbone itself or reduces tokens (tuner, reducer, modules_to_save or trainable: full)"
    if type(tuned.head) is not Classifier:
        yield f"its head is a {type(tuned.head).__name__}, and not the backbone's classifier"
    if type(tuned.backbone.get_classifier()) not in {nn.Linear, nn.Identity}:
        yield "its classifier is not one linear layer"


def differences(host: DynamicModel, tuned: DynamicModel) -> Iterator[str]:
    """What keeps a model from being beside the tasks that are there."""
    windows = host.spec.backbone.window_size, tuned.spec.backbone.window_size
    if tuned.spec.variant != host.spec.variant or windows[0] != windows[1]:
        yield f"its variant is {tuned.spec.variant.type}, with other fields or another than the other tasks'"
    for site, own in zip(host.sites, tuned.sites, strict=True):
        mine, theirs = site.adapter, own.adapter
        if (mine.placement, mine.input) != (theirs.placement, theirs.input):
            yield f"its adapters are {theirs.placement} and read {theirs.input} tokens, the others' differ"
        if own.dispatcher.needs_attention and not site.dispatcher.needs_attention:
            yield "its dispatcher reads the class token's attention, the others' do not"
