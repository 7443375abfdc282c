"""`features`: images without labels; an encoder is made cheaper, and its final tokens are held to its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dyt.errors import UnsupportedError
from dyt.heads.tokens import ImageTokens, Tokens
from dyt.model.dynamic import DynamicModel, plain
from dyt.tasks.base import Measure, Task
from dyt.tasks.data import Data
from dyt.tasks.features.examples import transform
from dyt.tasks.features.layout import open_split, training_name
from dyt.tasks.features.metrics import Fidelity
from dyt.tasks.features.spec import FeaturesSpec
from dyt.tasks.layouts import Split
from dyt.tasks.loading import Images
from dyt.tasks.preparation import Preparation


class Features(Task):
    """Images; the untouched encoder, which a dynamic model has in it, is what it is measured by."""

    name: ClassVar[str] = "features"
    head: ClassVar[str] = "tokens"
    Spec: ClassVar[type[Any]] = FeaturesSpec
    recipe: ClassVar[str] = "features"
    predicts: ClassVar[bool] = False

    def check(self, model: DynamicModel, spec: FeaturesSpec) -> None:
        super().check(model, spec)
        channels = Preparation.of(model.backbone).channels
        if channels not in {1, 3}:
            raise UnsupportedError(f"data of task features are images of 1 or 3 channels; the model takes {channels}")

    def open(self, spec: FeaturesSpec) -> Data:
        return Data(open_split(spec, training_name(spec)), open_split(spec, None), ())

    def open_split(self, spec: FeaturesSpec, split: str | None, classes: Sequence[str]) -> Split:
        return open_split(spec, split)

    def training_split(self, spec: FeaturesSpec) -> str:
        return training_name(spec)

    def examples(self, spec: FeaturesSpec, split: Split, preparation: Preparation, training: bool) -> Images:
        return Images(split, spec, preparation, training, transform(spec, preparation, training))

    def measure(self, classes: Sequence[str], device: torch.device) -> Measure:
        return Fidelity(device)

    def infer(self, model: DynamicModel, inputs: Tensor, spec: Any) -> ImageTokens:
        """What the final tokens say of images (B, C, H, W)."""
        return _read(model, model(inputs))

    def reference(self, model: DynamicModel, inputs: Tensor, targets: Any, spec: Any) -> ImageTokens:
        """What the untouched encoder's say of them.

        Raises:
            UnsupportedError: a model that no longer has the untouched encoder in it.
        """
        with plain(model):
            return _read(model, model(inputs))


def _read(model: DynamicModel, tokens: Tensor) -> ImageTokens:
    head = model.head
    if not isinstance(head, Tokens):
        raise UnsupportedError(
            f"task features reads the outputs of head 'tokens'; the model's is '{model.spec.head.type}'"
        )
    return head.read(tokens)
