"""Labels as the loss takes them: plain, smoothed, or mixed together with the images by timm's mixup and cutmix."""

from __future__ import annotations

from timm.data import Mixup  # type: ignore[attr-defined]
from torch import Tensor
from torch.nn import functional as F

from dyt.train.spec import TrainSpec


class Targets:
    """Called with (images (B, 3, H, W), labels (B,)); draws from NumPy's generator when it mixes.

    Args:
        classes: K.
    """

    def __init__(self, spec: TrainSpec, classes: int) -> None:
        self.smoothing, self.classes = spec.label_smoothing, classes
        self.mixup = None
        if spec.mixup or spec.cutmix:
            self.mixup = Mixup(  # type: ignore[no-untyped-call]
                spec.mixup, spec.cutmix, label_smoothing=spec.label_smoothing, num_classes=classes
            )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The images, and labels (B,) int64, or soft (B, K) float32 when they are smoothed or mixed."""
        if self.mixup is not None:
            mixed: tuple[Tensor, Tensor] = self.mixup(images.clone(), labels)  # in place, and this batch is used again
            return mixed
        if not self.smoothing:
            return images, labels
        return images, F.one_hot(labels, self.classes) * (1 - self.smoothing) + self.smoothing / self.classes
