"""`classifier`: the backbone's own, as timm has it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from dyt.config.spec import HeadSpec
from dyt.heads.logits import LogitsHead
from dyt.heads.terms import binary, binary_distillation, classification, distillation, many_hot, squares
from dyt.registry import heads


class ClassifierSpec(HeadSpec):
    """`classifier`: the backbone's own classifier, as timm has it."""

    type: Literal["classifier"] = "classifier"
    loss: Literal["cross_entropy", "bce", "mse"] = "cross_entropy"
    """What the outputs are trained as. `cross_entropy`: one class per image; `bce`: each output is a decision of its
    own, for several labels per image (or for one, as in some recipes); `mse`: numbers."""


@heads("classifier")
class Classifier(LogitsHead):
    """Outputs (B, K). It has no parameters: the classifier is the backbone's.

    Labels of `cross_entropy`: (B,) int64, or soft (B, K); of `bce`: (B, K) in [0, 1], or (B,); targets of `mse`: (B,
    K), or (B,) for one output. The divergence is that of the distributions which the outputs then stand for:
    categorical, one of two each, and normal ones, of which it is the mean squared distance.
    """

    Spec: ClassVar[type[HeadSpec]] = ClassifierSpec
    task: ClassVar[str] = "classification"
    shares_prefix: ClassVar[bool] = True

    def __init__(self, spec: HeadSpec, backbone: nn.Module) -> None:
        super().__init__(spec, backbone)
        self.trained_as = spec.loss if isinstance(spec, ClassifierSpec) else "cross_entropy"

    @classmethod
    def example_targets(cls, spec: HeadSpec, inputs: Tensor) -> Tensor:
        """Labels (B,); of `bce` every other one (B, K); of `mse` numbers (B, K)."""
        trained_as = spec.loss if isinstance(spec, ClassifierSpec) else "cross_entropy"
        if trained_as == "cross_entropy":
            labels: Tensor = super().example_targets(spec, inputs)
            return labels
        numbers = torch.arange(len(inputs) * spec.num_classes, device=inputs.device).view(len(inputs), -1)
        return (numbers % 2).float() if trained_as == "bce" else numbers / 10

    def training_refusal(self, spec: HeadSpec) -> str | None:
        if spec.num_classes == 0:
            return "head.num_classes is 0: it gives features, which are no logits; call model.reset_classifier(classes)"
        if spec.num_classes == 1 and self.trained_as == "cross_entropy":
            return "head.num_classes is 1: cross_entropy has nothing to tell apart; use head.loss: bce or mse"
        return None

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        logits: Tensor = backbone(images, *args, **kwargs)
        return logits

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.trained_as == "bce":
            return binary(outputs, targets)
        return squares(outputs, targets) if self.trained_as == "mse" else classification(outputs, targets)

    def divergence(self, complete: Tensor, dynamic: Tensor, temperature: float) -> Tensor:
        if self.trained_as == "bce":
            return binary_distillation(complete, dynamic, temperature)
        if self.trained_as == "mse":
            return squares(dynamic, complete.detach())
        return distillation(complete, dynamic, temperature)

    def tally(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        """Right classes; of `bce` with several labels right decisions, of so many; nothing of `mse`."""
        if self.trained_as == "mse":
            return outputs.new_zeros(()), 0
        if self.trained_as == "bce" and (targets.ndim == 2 or outputs.shape[1] == 1):
            right = (outputs > 0) == (many_hot(targets, outputs.shape[1]) > 0.5)
            return right.sum(), right.numel()
        return super().tally(outputs, targets)

    def chances(self, outputs: Tensor) -> Tensor:
        """(B, K) float32: probabilities; of `mse` the numbers themselves."""
        values = outputs.float()
        if self.trained_as == "mse":
            return values
        return values.sigmoid() if self.trained_as == "bce" else values.softmax(-1)
