"""`pixel`: a linear layer on every token of the last map, the linear baseline of segmentation."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from dyt.config.spec import HeadSpec
from dyt.heads import pyramid
from dyt.heads.base import TaskHeadSpec
from dyt.heads.pixelwise import Pixelwise, enlarged, like
from dyt.registry import heads


class PixelSpec(TaskHeadSpec):
    """`pixel`: a linear layer on every token, the linear baseline of segmentation."""

    type: str = "pixel"


@heads("pixel")
class Pixel(Pixelwise):
    """A 1x1 convolution on the last map, behind the backbone's final norm; logits are enlarged to the images' size."""

    Spec: ClassVar[type[HeadSpec]] = PixelSpec

    def __init__(self, spec: HeadSpec, backbone: nn.Module) -> None:
        super().__init__(spec, backbone)
        self.layers = pyramid.layers_of(backbone)[-1:]
        self.classify = nn.Conv2d(self.layers[0].channels, spec.num_classes, 1)
        nn.init.trunc_normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]
        like(self, backbone)

    def attach(self, backbone: nn.Module) -> None:
        pyramid.leave_out(backbone, [name for name in pyramid.BEHIND if name != "norm"])

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        (last,) = pyramid.maps(backbone, images, self.layers, norm=True)
        return enlarged(self.classify(last), images)
