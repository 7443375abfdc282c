"""The laws for one head on small backbones; each a plain function of one example.

A head refuses the divergence if the predictions of two passes have no counterparts, as those of detectors. Its outputs
are compared in train mode, before detections are selected; all other outputs are compared at inference.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from dyt.config.spec import DyTSpec, HeadSpec, parse
from dyt.heads.base import Head
from dyt.model.dynamic import DynamicModel, execution, forced, plain
from dyt.registry import heads
from dyt.testing.cases import MLPS, Case, Sample, leaves, masks, shaken, spec
from dyt.testing.laws import Chosen, built, require
from dyt.testing.refusals import lived_in, refused_on

SWIN: dict[str, Any] = {
    "img_size": 64, "embed_dim": 16, "depths": (1, 1, 2, 1), "num_heads": (1, 2, 2, 4), "window_size": 4
}  # fmt: skip


@dataclass(frozen=True)
class HeadCase(Case):
    """A small backbone with a head, and a batch of the head's inputs.

    `vit`: arguments of the backbone. `kind`: vit or swin. `wanted`: the head's spec as plain data.
    """

    kind: str = "vit"
    wanted: Mapping[str, Any] = field(default_factory=lambda: {"type": "classifier", "num_classes": 5})

    def head(self) -> dict[str, Any]:
        return dict(self.wanted)

    def plain(self) -> Any:
        classes = self.head_spec.classifier
        if self.kind == "swin":
            return SwinTransformer(num_classes=classes, **self.vit)
        return VisionTransformer(
            num_classes=classes, **self.vit | {"mlp_layer": MLPS[self.vit.get("mlp_layer", "mlp")]}
        )

    @property
    def head_spec(self) -> HeadSpec:
        spec: HeadSpec = parse(heads.get(self.wanted["type"]).Spec, self.wanted)
        return spec

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """Of one input, as the head tells it."""
        with torch.random.fork_rng(devices=[]):
            head: Head = heads.get(self.wanted["type"])(self.head_spec, self.backbone())
        return head.input_shape(self.image)

    def images(self, again: int = 0) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed + 1 + again * 2**20)
        x = torch.randn(self.batch, *self.shape, generator=generator)
        return x.transpose(-2, -1).contiguous().transpose(-2, -1) if self.layout == "strided" else x

    def labels(self) -> Any:
        return heads.get(self.wanted["type"]).example_targets(self.head_spec, self.images())


def finite(outputs: Any) -> dict[str, Tensor]:
    """The tensors of outputs by their paths.

    Raises:
        AssertionError: there are none, or one is not finite.
    """
    found = dict(leaves(outputs))
    require(found, f"there is no tensor in the outputs, a {type(outputs).__name__}")
    for where, tensor in found.items():
        require(not tensor.is_floating_point() or tensor.isfinite().all(), f"{where}: NaN or infinity")
    return found


def alike(case: Sample, actual: Any, expected: Any, exactly: bool = False) -> None:
    """Outputs of the same structure, dtypes, shapes and, but for rounding, values."""
    ours, theirs = finite(actual), finite(expected)
    require(list(ours) == list(theirs), f"outputs of another structure: {list(ours)}, not {list(theirs)}")
    for where, tensor in ours.items():
        other = theirs[where]
        same = (tensor.dtype, tensor.shape) == (other.dtype, other.shape)
        require(same, f"{where}: {tensor.dtype} {tuple(tensor.shape)}, not {other.dtype} {tuple(other.shape)}")
        if exactly or not tensor.is_floating_point():
            require(torch.equal(tensor, other), f"{where}: other values")
        else:
            case.close(tensor, other)


def forward(model: DynamicModel | nn.Module, *given: Any) -> Any:
    """The outputs, with the same random numbers at every call."""
    torch.manual_seed(0)
    return model(*given)


def comparable(model: DynamicModel) -> DynamicModel:
    """The model in the mode in which its outputs are compared."""
    return model.train(model.head.divergence_refusal is not None)


def head_reads_the_plain_backbone(case: HeadCase, chosen: Chosen) -> None:
    """Law 1: with fresh adapters and everything active the outputs are the head's on the plain backbone."""
    backbone = case.backbone()
    before = copy.deepcopy(backbone)
    model, x = comparable(built(case, chosen, backbone)), case.images()
    before.train(model.training)
    with torch.no_grad():
        expected = forward(model.head, before, x)
        with execution(model, "complete"):
            alike(case, forward(model, x), expected)


def outputs_equal_masked(case: HeadCase, chosen: Chosen, executor: str, kinds: Sequence[str]) -> None:
    """Law 2: outputs are finite and those of `masked` under the same masks; at inference they are the same twice."""
    model, x = comparable(shaken(built(case, chosen))), case.images()
    with torch.no_grad(), forced(model, masks(model, x, kinds, case.seed)):
        with execution(model, "masked"):
            expected = forward(model, x)
        with execution(model, executor):
            alike(case, forward(model, x), expected)
            model.eval()
            once = model(x)
            alike(case, model(x), once, exactly=True)


def inputs_do_not_meet(case: HeadCase, chosen: Chosen) -> None:
    """Law 4: an input's outputs do not depend on the other inputs of its batch; outputs are sliced as inputs are."""
    model, x = shaken(built(case, chosen)).eval(), case.images()
    with torch.no_grad(), execution(model, "complete"):
        together = model(x)
        for i in range(case.batch):
            alike(case, model(x[i : i + 1]), together[i : i + 1])


def head_can_be_trained(case: HeadCase, chosen: Chosen) -> None:
    """Law 10: the loss is a finite () float32 that reaches adapters and head; the divergence is 0 of equal outputs."""
    model, x = shaken(built(case, chosen)).train(), case.images()
    head, targets = model.head, case.labels()
    if head.taught:
        with torch.no_grad(), plain(model):
            targets = forward(model, x)
    frames = head.frames(x)
    seen = frames.ndim == 4 and frames.shape[1] == 3 and len(frames) % case.batch == 0
    require(seen, f"frames of inputs {tuple(x.shape)} are no images: {tuple(frames.shape)}")
    outputs = forward(model, x)
    finite(outputs)
    loss = scalar("the loss", head.loss(outputs, targets))
    loss.backward()  # type: ignore[no-untyped-call]
    learning = [(f"head.{name}", p) for name, p in head.named_parameters()]
    learning += [(f"adapter of {site.name}: {name}", p) for site in model.sites for name, p in _adapter(site)]
    without = [name for name, p in learning if not p.requires_grad or p.grad is None]
    require(not without, f"not reached by the gradient of the loss: {without}")
    wrong = [name for name, p in learning if p.grad is not None and not p.grad.isfinite().all()]
    require(not wrong, f"NaN or infinity in the gradient of: {wrong}")
    moved = [name for name, p in learning if p.grad is not None and p.grad.any()]
    for part in ("head.", "adapter of "):
        asked = any(name.startswith(part) for name, _ in learning)
        require(not asked or any(name.startswith(part) for name in moved), f"the loss moves nothing of {part}*")
    right, of = head.tally(outputs, targets)
    require(right.shape == () and 0 <= right.item() <= of, f"tally says {right} right of {of}")
    if head.divergence_refusal is not None:
        require(head.divergence_refusal.strip(), "divergence_refusal is empty; say why there is none")
        return
    zero = scalar("the divergence", head.divergence(outputs, outputs, 2.0))
    require(abs(zero.item()) < 1e-5, f"the divergence of equal outputs is {zero.item()}")
    with execution(model, "complete"):
        complete = forward(model, x)
    with torch.no_grad():
        dynamic = forward(model, x)
    value = scalar("the divergence", head.divergence(complete, dynamic, 1.0))
    require(value.item() > -1e-5, f"the divergence is {value.item()}, below 0")
    require(not value.requires_grad, "the divergence has a gradient of the complete outputs, which teach")
    require(head.divergence(complete, outputs, 1.0).requires_grad, "the divergence has no gradient")


def scalar(what: str, value: Tensor) -> Tensor:
    """The value itself, if it is a finite () float32."""
    given = f"{what} is {value.dtype} {tuple(value.shape)}"
    require(value.dtype == torch.float32 and value.shape == (), f"{given}, not a () float32")
    require(value.isfinite(), f"{what} is {value.item()}")
    return value


def _adapter(site: Any) -> list[tuple[str, nn.Parameter]]:
    return list(site.adapter.named_parameters())


def refusal_changes_nothing(case: HeadCase, chosen: Chosen) -> None:
    """Law 11: a backbone or a spec that a head cannot have is refused by a DyTError, and the backbone is as it was.

    A head that reads a token for every patch is refused with a reducer.
    """
    wanted = parse(DyTSpec, spec(head=case.head(), **chosen))
    refused = refused_on(lived_in(case.backbone()), wanted)
    grid = wanted.reducer is not None and heads.get(wanted.head.type).reads_grid
    require(refused or not grid, "it says that it reads a grid, and is not refused with a reducer")
