"""Models of other libraries in a thin shell that speaks timm's interface. The libraries themselves are not imported."""

from __future__ import annotations

from torch import nn

from dyt.core.hf_model import HuggingFaceModel, shelled

__all__ = ["HuggingFaceModel", "bridged", "remedy"]


def bridged(backbone: nn.Module, num_classes: int) -> tuple[nn.Module, bool]:
    """A given backbone as timm would have it, and whether its head is new. The backbone itself is not changed.

    Args:
        backbone: a timm model, which is returned as it is, or a vision model of Hugging Face transformers.
        num_classes: outputs of the head that a model without a classifier is given.

    Raises:
        UnsupportedError: a model of transformers that is not one of the known ones.
    """
    if type(backbone).__module__.startswith("transformers."):
        shell = shelled(backbone, num_classes)
        return shell, shell.bare and num_classes > 0
    return backbone, False


def remedy(backbone: nn.Module, num_classes: int) -> str:
    """What to do about a head with another number of classes, as an imperative."""
    if isinstance(backbone, HuggingFaceModel):
        return f"load it with num_labels={num_classes}, which gives it a new head"
    return f"call backbone.reset_classifier({num_classes}) first"
