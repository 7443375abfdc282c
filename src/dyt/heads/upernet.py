"""`upernet`: a pyramid of four layers and the UPerNet decoder of segmentation_models_pytorch (paper table 10)."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import Field
from torch import Tensor, nn

from dyt.config.spec import HeadSpec
from dyt.errors import DyTError, UnsupportedError
from dyt.families.base import Family
from dyt.heads import pyramid
from dyt.heads.base import TaskHeadSpec
from dyt.heads.pixelwise import Pixelwise, enlarged, like
from dyt.registry import heads

LEAST = 2
"""Maps that a pyramid needs."""


class UPerNetSpec(TaskHeadSpec):
    """`upernet`: a pyramid of four maps and the UPerNet decoder (paper, table 10)."""

    type: str = "upernet"
    channels: Annotated[int, Field(ge=1, le=4096)] = 512
    """Channels of the decoder's maps; 512 in UPerNet's own settings (arXiv:1807.10221)."""
    layers: tuple[int, int, int, int] | None = None
    """The four layers of a plain ViT from which the pyramid is made, counted from 0, the last layer among them. Null
    takes those at 1/3, 1/2, 2/3 and the end of the depth (3, 5, 7 and 11 of 12). A hierarchical model gives its last
    four stages, and takes none."""


@heads("upernet")
class UPerNet(Pixelwise):
    """Maps as a pyramid -> UPerNetDecoder -> 1x1 convolution -> the images' size.

    Needs `pip install 'dyt[segmentation]'`.
    Its batch norms ask for at least two images in a training pass; over several processes each has its own statistics.
    """

    Spec: ClassVar[type[HeadSpec]] = UPerNetSpec

    @classmethod
    def refusal(cls, spec: HeadSpec, backbone: nn.Module, family: Family) -> str | None:
        reason = super().refusal(spec, backbone, family)
        if reason is not None:
            return reason
        assert isinstance(spec, UPerNetSpec)
        layers = pyramid.layers_of(backbone)
        if pyramid.hierarchical(layers) and spec.layers is not None:
            return "it is hierarchical, and its pyramid is of its stages; leave head.layers out"
        outside = [i for i in spec.layers or () if not 0 <= i < len(layers)]
        if outside:
            return f"head.layers: no layer {outside[0]}; it has layers 0 to {len(layers) - 1}"
        if spec.layers is not None and max(spec.layers) != len(layers) - 1:
            last = len(layers) - 1
            return (
                f"head.layers leaves out layer {last}, the last; what is trained in it would reach nothing, so name it"
            )
        decoder_class()  # a missing library is refused before anything is changed
        return None

    def __init__(self, spec: UPerNetSpec, backbone: nn.Module) -> None:
        super().__init__(spec, backbone)
        made = decoder_class()
        layers = pyramid.layers_of(backbone)
        self.layers = pyramid.chosen(layers) if spec.layers is None else tuple(layers[i] for i in spec.layers)
        channels = [layer.channels for layer in self.layers]
        plain = not pyramid.hierarchical(layers)
        self.pyramid: nn.Module = pyramid.Pyramid(channels) if plain else nn.Identity()
        # the decoder's first two maps, of strides 1 and 2, are not used by it
        self.decoder = made([0, 0, *channels], encoder_depth=5, decoder_channels=spec.channels)
        self.classify = nn.Conv2d(spec.channels, spec.num_classes, 1)
        nn.init.trunc_normal_(self.classify.weight, std=0.01)
        nn.init.zeros_(self.classify.bias)  # type: ignore[arg-type]
        like(self, backbone)

    def attach(self, backbone: nn.Module) -> None:
        pyramid.leave_out(backbone)

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if self.training and len(images) < LEAST:
            raise DyTError(
                "head 'upernet' has batch norms, which need at least two images in a training pass; raise "
                "train.batch_size, or lower train.accumulate or the number of processes"
            )
        maps = self.pyramid(pyramid.maps(backbone, images, self.layers))
        return enlarged(self.classify(self.decoder([images, images, *maps])), images)


def decoder_class() -> Any:
    """segmentation_models_pytorch's UPerNetDecoder.

    Raises:
        UnsupportedError: it is not installed.
    """
    try:
        from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
    except ImportError as error:
        raise UnsupportedError("head 'upernet' needs a library: pip install 'dyt[segmentation]'") from error
    return UPerNetDecoder
