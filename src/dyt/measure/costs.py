"""What a spec costs, before anything is trained: multiply-accumulates and trainable parameters."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyt.assembly.backbone import create, input_size
from dyt.assembly.build import build
from dyt.config.spec import DyTSpec
from dyt.heads import Head
from dyt.measure.activity import random_masks
from dyt.measure.flops import MacCounter
from dyt.measure.macs import backbone_macs, count_macs, executed_macs
from dyt.measure.shapes import ShapesOnly
from dyt.model.dynamic import DynamicModel, execution, forced, record


@dataclass(frozen=True)
class Costs:
    """Per image, or per clip for a head of clips, in multiply-accumulates.

    Attributes:
        size: (H, W) pixels.
        dense: the plain timm model, with the head.
        head_macs: those of `dense` that are not the backbone's.
        complete: the dynamic model with every token active: the dense model and its adapters.
        nominal: with exactly the share `rate` of an image's patch tokens active at every site, routers included; at
            sample level the mean of all and none, in that share.
        executed: the mean over images whose own shares differ around that rate.
        padding: what one forward of those images together executes beside that, per image, under the default executor:
            rows that it adds and throws away.
        images: how many they are.
        rate: that share.
        trainable: parameters trained, without the head.
        dispatchers: those of them that are the dispatchers', which the paper leaves out of its counts.
        head: parameters of the head.
        total: all parameters.
    """

    size: tuple[int, int]
    dense: int
    head_macs: int
    complete: int
    nominal: int
    executed: int
    padding: int
    images: int
    rate: float
    trainable: int
    dispatchers: int
    head: int
    total: int


def costs(spec: DyTSpec, rate: float | None = None, images: int = 2) -> Costs:
    """Counts a spec's costs: nothing is downloaded, and what is counted is not computed, only its shapes.

    Args:
        spec: the model.
        rate: nominal activation rate; the objective's by default.
        images: how many random images, with random masks of that rate, are averaged.

    Raises:
        SpecError, UnsupportedError: as `dyt.build`.
        DyTError: a rate outside [0, 1].
    """
    with ShapesOnly():
        return _counted(without_weights(spec), spec.objective.rate if rate is None else rate, images)


def _counted(spec: DyTSpec, rate: float, images: int) -> Costs:
    model = build(spec)
    size = input_size(model.backbone)
    batch = torch.zeros(images, *model.head.input_shape(size))
    frames = len(model.head.frames(batch)) // images
    with execution(model, "complete"):
        complete = int(count_macs(model, batch[:1]))
    with record(model) as routes:
        routed = int(count_macs(model, batch[:1]))
    with forced(model, [route.active for route in routes]):
        routers = routed - int(count_macs(model, batch[:1]))  # forced masks leave the routers out
    tokens = [(route.active.shape[1], route.prefix) for route in routes]
    if getattr(spec.dispatcher, "level", "token") == "sample":
        none, every = (random_masks(tokens, images * frames, share) for share in (0.0, 1.0))
        least, most = (_forced_macs(model, batch[:1], [m[:frames] for m in masks])[0] for masks in (none, every))
        nominal = executed = least + rate * (most - least)
        whole = round(rate * images) * frames
        masks = [torch.cat([all_[:whole], prefix[whole:]]) for all_, prefix in zip(every, none, strict=True)]
        padding = _forced_macs(model, batch, masks)[1]
    else:
        nominal, _ = _forced_macs(model, batch[:1], random_masks(tokens, frames, rate))
        executed, padding = _forced_macs(model, batch, random_masks(tokens, images * frames, rate))
    plain = create(spec.backbone, spec.head.classifier)[0].eval()
    dense = dense_macs(plain, batch[:1], model.head)
    head = {id(p) for p in model.head_parameters}
    return Costs(
        size=size,
        dense=dense,
        head_macs=dense - backbone_macs(plain, model.head.frames(batch[:1])),
        complete=complete,
        nominal=round(nominal) + routers,
        executed=round(executed) + routers,
        padding=round(padding),
        images=images,
        rate=rate,
        trainable=sum(p.numel() for p in model.parameters() if p.requires_grad and id(p) not in head),
        dispatchers=sum(p.numel() for site in model.sites for p in site.dispatcher.parameters()),
        head=sum(p.numel() for p in model.head_parameters),
        total=sum(p.numel() for p in model.parameters()),
    )


def _forced_macs(model: DynamicModel, batch: Tensor, masks: list[Tensor]) -> tuple[float, float]:
    """Per image: what its tokens need, and what the batch executes beside that."""
    with forced(model, masks):
        needed = float(count_macs(model, batch).double().mean())
        return needed, executed_macs(model, batch) / len(batch) - needed


def dense_macs(backbone: nn.Module, image: Tensor, head: Head | None = None) -> int:
    """Multiply-accumulates of a plain model for an image (1, 3, H, W), by the convention of `dyt.count_macs`.

    Args:
        backbone: the plain timm model.
        image: what the head takes, where one is given.
        head: what stands behind the backbone; its own classifier by default.
    """
    with torch.no_grad(), MacCounter() as counter:
        backbone(image) if head is None else head.counted(backbone, image)
    return counter.total


def without_weights(spec: DyTSpec) -> DyTSpec:
    """The spec with random weights, for questions to which the weights do not matter."""
    return spec.model_copy(update={"backbone": spec.backbone.model_copy(update={"weights": "none"})})
