"""`faster_rcnn` and `mask_rcnn`: ViTDet's simple pyramid with torchvision's detector (arXiv:1506.01497, 1703.06870)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from timm.layers import LayerNorm2d  # type: ignore[attr-defined]
from torch import Tensor, nn
from torch.func import functional_call
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.roi_heads import RoIHeads
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead
from torchvision.ops import MultiScaleRoIAlign

from dyt.config.spec import HeadSpec
from dyt.core.offloading import refuse_absent
from dyt.errors import DyTError
from dyt.families.base import Family
from dyt.heads.base import Head, TaskHeadSpec
from dyt.heads.simple_pyramid import SimplePyramid, last_map, plain_refusal
from dyt.registry import heads

Count = Annotated[int, Field(ge=1)]
Width = Annotated[int, Field(ge=1, le=4096)]
Weight = Annotated[float, Field(ge=0.0)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class FasterRCNNSpec(TaskHeadSpec):
    """`faster_rcnn`: boxes of objects, on ViTDet's simple pyramid. Defaults are torchvision's, but for the pyramid.

    The loss is the sum of four terms by their weights: objectness and box of the proposals, class and box of the
    regions.
    """

    type: str = "faster_rcnn"
    channels: Width = 256
    """Channels of the pyramid's maps; 256 in ViTDet (arXiv:2203.16527)."""
    anchors: tuple[Count, Count, Count, Count, Count] = (32, 64, 128, 256, 512)
    """Side, in pixels, of the anchors of each of the pyramid's five maps, finest map first."""
    ratios: tuple[Annotated[float, Field(gt=0.0)], ...] = Field((0.5, 1.0, 2.0), min_length=1)
    """Ratios height / width of the anchors; every map has each of them."""
    rpn_convs: Annotated[int, Field(ge=1, le=64)] = 1
    """Convolutions of the region proposal network; ViTDet has 2."""
    box_head: Literal["mlp", "conv"] = "mlp"
    """What reads a region. `mlp`: two hidden layers; `conv`: ViTDet's four convolutions with layer norms and one hidden
    layer."""
    hidden: Width = 1024
    """Units of the hidden layers of `box_head`."""
    proposals: Count = 1000
    """At inference: the largest number of regions of an image that are read, and that each map proposes before
    duplicates are dropped."""
    proposals_training: Count = 2000
    """In training: the largest number of regions of an image, as `proposals`."""
    sampled: Count = 512
    """Number of an image's regions that the loss is computed on."""
    score: Share = 0.05
    """Detections with a lower probability are dropped."""
    overlap: Share = 0.5
    """Intersection over union: of two detections of one class that overlap more, the weaker is dropped."""
    detections: Count = 100
    """The largest number of detections per image."""
    objectness_weight: Weight = 1.0
    """Weight of the loss of the proposals' objectness (object or not)."""
    proposal_weight: Weight = 1.0
    """Weight of the loss of the proposals' boxes."""
    class_weight: Weight = 1.0
    """Weight of the loss of the regions' classes."""
    box_weight: Weight = 1.0
    """Weight of the loss of the regions' boxes."""


class MaskRCNNSpec(FasterRCNNSpec):
    """`mask_rcnn`: `faster_rcnn` with the outline of every object, and a fifth term of the loss for it."""

    type: str = "mask_rcnn"
    mask_weight: Weight = 1.0
    """Weight of the loss of the objects' outlines."""


class Maps(NamedTuple):
    """What a detector gives in train mode.

    `maps`: the pyramid's, float32. `size`: (H, W) of the images in pixels.
    """

    maps: dict[str, Tensor]
    size: tuple[int, int]


Detections = list[dict[str, Tensor]]
"""For each image `boxes` (n, 4) float32, xyxy in pixels of the image given; `labels` (n,) int64 from 1; `scores` (n,)
float32, falling; of `mask_rcnn` also `masks` (n, 28, 28) float32, chances within the box (`outlines` spreads them)."""


@heads("faster_rcnn")
class Detector(Head):
    """Boxes of objects. Train mode gives `Maps`, eval mode `Detections`.

    Trained with, for each image, `boxes` (n, 4) float32, xyxy in pixels of the image given, and `labels` (n,) int64
    from 1; n may be 0. The anchors and regions that the loss is taken of are drawn at random, from torch's generator.
    """

    Spec: ClassVar[type[HeadSpec]] = FasterRCNNSpec
    task: ClassVar[str] = "detection"
    reads_patches: ClassVar[bool] = True
    reads_grid: ClassVar[bool] = True
    divergence_refusal: ClassVar[str | None] = (
        "two passes propose different regions, so that what is said of them has no counterpart to diverge from"
    )
    needs: ClassVar[tuple[str, ...]] = ("boxes", "labels")

    def __init__(self, spec: FasterRCNNSpec, backbone: Any) -> None:
        super().__init__(spec, backbone)
        self.spec = spec
        self.pyramid = SimplePyramid(int(backbone.feature_info[-1]["num_chs"]), spec.channels)
        self.rpn = _proposer(spec)
        self.roi_heads = RoIHeads(
            MultiScaleRoIAlign(SimplePyramid.levels, 7, 2),
            _box_head(spec),
            FastRCNNPredictor(spec.hidden, spec.num_classes + 1),
            fg_iou_thresh=0.5,
            bg_iou_thresh=0.5,
            batch_size_per_image=spec.sampled,
            positive_fraction=0.25,
            bbox_reg_weights=None,
            score_thresh=spec.score,
            nms_thresh=spec.overlap,
            detections_per_img=spec.detections,
        )

    @classmethod
    def refusal(cls, spec: HeadSpec, backbone: nn.Module, family: Family) -> str | None:
        if not spec.num_classes:
            return "head.num_classes is 0; it is the number of classes of objects, from 1 on"
        return plain_refusal(backbone)

    @classmethod
    def example_targets(cls, spec: HeadSpec, inputs: Tensor) -> list[dict[str, Tensor]]:
        """In every image one object, its middle, but none in the last of several; with outlines where they are read."""
        height, width = inputs.shape[-2:]
        top, left, bottom, right = height // 4, width // 4, height - height // 4, width - width // 4
        masks = inputs.new_zeros(1, height, width, dtype=torch.uint8)
        masks[:, top:bottom, left:right] = 1
        one = {
            "boxes": inputs.new_tensor([[left, top, right, bottom]], dtype=torch.float32),
            "labels": inputs.new_ones(1, dtype=torch.int64),
            "masks": masks,
        }
        one = {name: one[name] for name in cls.needs}
        none = {name: each[:0] for name, each in one.items()}
        return [none if 0 < i == len(inputs) - 1 else one for i in range(len(inputs))]

    def maps(self, backbone: nn.Module, images: Tensor) -> Maps:
        """The pyramid's maps of images (B, 3, H, W)."""
        made = self.pyramid(last_map(backbone, images))
        return Maps({name: each.float() for name, each in made.items()}, (images.shape[-2], images.shape[-1]))

    def forward(self, backbone: nn.Module, images: Tensor, *args: Any, **kwargs: Any) -> Maps | Detections:
        maps = self.maps(backbone, images)
        return maps if self.training else self.detections(maps)

    def counted(self, backbone: nn.Module, images: Tensor) -> None:
        """Backbone, pyramid and proposal network; the work for a region is not counted, as their number varies."""
        with torch.autocast(images.device.type, enabled=False):
            _in_float32(self.rpn.head, list(self.maps(backbone, images).maps.values()))

    def detections(self, maps: Maps) -> Detections:
        """The objects detected in these maps; the head must be in eval mode."""
        images = _like(maps)
        with torch.autocast(images.tensors.device.type, enabled=False):
            regions, _ = _in_float32(self.rpn, images, maps.maps)
            detections, _ = _in_float32(self.roi_heads, maps.maps, regions, images.image_sizes)
        return [
            {name: each.squeeze(1) if name == "masks" else each for name, each in one.items()} for one in detections
        ]

    def loss(self, outputs: Any, targets: Sequence[dict[str, Tensor]]) -> Tensor:
        if not isinstance(outputs, Maps):
            raise DyTError("the loss of a detector is of its outputs in train mode; call model.train() first")
        self._check(targets)
        images, given = _like(outputs), list(targets)
        with torch.autocast(images.tensors.device.type, enabled=False):
            regions, terms = _in_float32(self.rpn, images, outputs.maps, given)
            terms |= _in_float32(self.roi_heads, outputs.maps, regions, images.image_sizes, given)[1]
        return torch.stack([weight * terms[name] for name, weight in self.weights().items()]).sum()

    def weights(self) -> dict[str, float]:
        """The weight of each term of the loss by torchvision's name for it."""
        s = self.spec
        return {
            "loss_objectness": s.objectness_weight,
            "loss_rpn_box_reg": s.proposal_weight,
            "loss_classifier": s.class_weight,
            "loss_box_reg": s.box_weight,
        }

    def _check(self, targets: Any) -> None:
        for target in targets:
            missing = [name for name in self.needs if name not in target]
            if missing:
                hint = "; set data.masks: true" if "masks" in missing else ""
                wanted, absent = ", ".join(self.needs), ", ".join(missing)
                raise DyTError(f"head '{self.spec.type}' is trained with {wanted}; no {absent} given{hint}")


@heads("mask_rcnn")
class MaskDetector(Detector):
    """Boxes and outlines. The targets have `masks` (n, H, W) uint8 of the size of the images as well."""

    Spec: ClassVar[type[HeadSpec]] = MaskRCNNSpec
    needs: ClassVar[tuple[str, ...]] = ("boxes", "labels", "masks")
    spec: MaskRCNNSpec

    def __init__(self, spec: MaskRCNNSpec, backbone: Any) -> None:
        super().__init__(spec, backbone)
        width = spec.channels
        self.roi_heads.mask_roi_pool = MultiScaleRoIAlign(SimplePyramid.levels, 14, 2)
        self.roi_heads.mask_head = MaskRCNNHeads(width, (width,) * 4, 1)
        self.roi_heads.mask_predictor = MaskRCNNPredictor(width, width, spec.num_classes + 1)

    def weights(self) -> dict[str, float]:
        return {**super().weights(), "loss_mask": self.spec.mask_weight}


def _like(maps: Maps) -> ImageList:
    """What torchvision asks about the images: their size, and where they are. Takes no memory."""
    first = maps.maps[SimplePyramid.levels[0]]
    return ImageList(first.new_empty(()).expand(len(first), 3, *maps.size), [maps.size] * len(first))


def _in_float32(module: nn.Module, *args: Any) -> Any:
    """What a module makes of float32 tensors, whatever the dtype of its weights: boxes in pixels need the digits."""
    weights = dict(module.named_parameters())
    if all(weight.dtype == torch.float32 for weight in weights.values()):
        return module(*args)
    refuse_absent(module, "a detector in another dtype than float32")
    return functional_call(module, {name: weight.float() for name, weight in weights.items()}, args)


def _proposer(spec: FasterRCNNSpec) -> RegionProposalNetwork:
    anchors = AnchorGenerator(tuple((side,) for side in spec.anchors), (spec.ratios,) * len(spec.anchors))
    most = {"training": spec.proposals_training, "testing": spec.proposals}
    return RegionProposalNetwork(
        anchors,
        RPNHead(spec.channels, len(spec.ratios), spec.rpn_convs),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=256,
        positive_fraction=0.5,
        pre_nms_top_n=most,
        post_nms_top_n=most,
        nms_thresh=0.7,
    )


def _box_head(spec: FasterRCNNSpec) -> nn.Module:
    made: nn.Module
    if spec.box_head == "mlp":
        made = TwoMLPHead(spec.channels * 7 * 7, spec.hidden)
    else:
        made = FastRCNNConvFCHead((spec.channels, 7, 7), [spec.channels] * 4, [spec.hidden], norm_layer=LayerNorm2d)
    return made
