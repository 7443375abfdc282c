"""What `dyt.optimize` and `dyt.quantize` return: models for inference alone."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor

from dyt.errors import UnsupportedError
from dyt.inference.rewrites.report import OptimizationReport
from dyt.model.dynamic import DynamicModel


class InferenceModel(DynamicModel):
    """A dynamic model that is neither trained nor saved; `record`, `forced`, `execution` and `count_macs` work on it.

    Args:
        model: the dynamic model whose rewritten backbone it takes over.
        kind: what it is, in a word, for messages.
    """

    def __init__(self, model: DynamicModel, kind: str) -> None:
        super().__init__(model.backbone, model.spec, model.key, model.head, model.tuner)
        self.kind = kind
        self.budget_table, self.set_rate = model.budget_table, model.set_rate
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stays in eval mode.

        Raises:
            UnsupportedError: asked for train mode.
        """
        if mode:
            raise UnsupportedError(f"{self.kind} model is for inference; train the model that it was made from")
        return super().train(False)

    def plain_refusal(self) -> str | None:
        return f"{self.kind} model has other weights than its backbone had; use the model that it was made from"

    def save_refusal(self) -> str | None:
        return f"{self.kind} model has other weights than its spec says; save the model that it was made from"


class OptimizedModel(InferenceModel):
    """A dynamic model with its blocks rewritten for inference.

    Args:
        model: the dynamic model whose rewritten backbone it takes over.
        report: what was done.

    Attributes:
        report: the same.
    """

    def __init__(self, model: DynamicModel, report: OptimizationReport) -> None:
        super().__init__(model, "an optimised")
        self.report = report

    def forward_features(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """timm's `forward_features`.

        Raises:
            UnsupportedError: the last block computes leading tokens alone.
        """
        self._all_tokens("forward_features")
        return super().forward_features(images, *args, **kwargs)

    def forward_intermediates(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """timm's `forward_intermediates`.

        Raises:
            UnsupportedError: the last block computes leading tokens alone.
        """
        self._all_tokens("forward_intermediates")
        return super().forward_intermediates(images, *args, **kwargs)

    def _all_tokens(self, asked: str) -> None:
        if self.report.leading is not None:
            raise UnsupportedError(
                f"{asked} gives every token, of which the last block of this model computes the first "
                f"{self.report.leading} alone; use dyt.optimize(model, last_block=False)"
            )
