"""What runs side by side in a benchmark: dense timm, the peers, and DyT with each executor."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dyt.assembly.backbone import GIVEN, create, input_size, with_windows
from dyt.assembly.build import build
from dyt.assembly.undo import unwrap, unwrap_refusal
from dyt.config.presets import preset
from dyt.config.spec import DyTSpec
from dyt.core.execution import Executor
from dyt.errors import DyTError, UnsupportedError, nearest
from dyt.heads import Head
from dyt.measure.costs import without_weights
from dyt.measure.plain import PlainGather
from dyt.model.dynamic import DynamicModel
from dyt.registry import executors

DENSE = "dense timm"
PEERS: Mapping[str, str] = {
    "static adapter": "static_adapter",
    "merged LoRA": "lora",
    "VPT": "vpt",
    "ToMe": "tome",
    "EViT": "evit",
}
"""Peers by name, with their presets."""
PLAIN, OPTIMISED = "DyT, plain gather", "DyT, optimised"
Rewrite = Callable[[DynamicModel], DynamicModel]


@dataclass(frozen=True, eq=False)
class Contender:
    """One of the compared.

    Attributes:
        name: in tables.
        model: in eval mode.
        executor: what its branches run with; None for its own.
        routed: whether tokens are skipped in it: it is then run under the run's masks, or routes by itself.
        reference: whether its logits should be those of the DyT model that is measured.
    """

    name: str
    model: nn.Module
    executor: Executor | None = None
    routed: bool = False
    reference: bool = False


class Dense(nn.Module):
    """The plain backbone behind the measured model's own head."""

    def __init__(self, backbone: nn.Module, head: Head) -> None:
        super().__init__()
        self.backbone, self.head = backbone, copy.deepcopy(head)

    def forward(self, images: Tensor) -> Any:
        """As the model's."""
        return self.head(self.backbone, images)


def contenders(
    model: DynamicModel,
    executor_names: Sequence[str] = ("sparse",),
    peers: Mapping[str, str] = PEERS,
    rewrites: Mapping[str, Rewrite] | None = None,
) -> tuple[list[Contender], dict[str, str]]:
    """The contenders around a DyT model: dense timm first, all on backbones like the model's own.

    Args:
        model: in eval mode, on its device and in its dtype.
        executor_names: registered executors.
        peers: presets by name; each is built on the model's backbone and head.
        rewrites: by name, what makes a faster model of the same numbers out of the model.

    Returns:
        The contenders; and by name, why some are left out: this backbone cannot have them.

    Raises:
        DyTError: an unknown executor.
        UnsupportedError: a model whose plain backbone can neither be had of it nor made by its name.
    """
    check_executors(executor_names)
    spec, plain = model.spec, _plain(model)
    dense = Dense(copy.deepcopy(plain), model.head)
    with_windows(dense.backbone, spec.backbone)
    found, left = [Contender(DENSE, dense)], {}
    for name, of in peers.items():
        try:
            found.append(_peer(name, preset(of), spec, copy.deepcopy(plain)))
        except DyTError as reason:
            left[name] = str(reason)
    if spec.variant.type == "mlp":
        found.append(Contender(PLAIN, model, PlainGather(), True, True))
    found += [Contender(f"DyT, {name}", model, executors.get(name)(), True, True) for name in executor_names]
    for name, rewrite in (rewrites or {}).items():
        found.append(Contender(name, rewrite(model), None, True, True))
    return found, left


def untrained(spec: DyTSpec, batch: int) -> tuple[DynamicModel, Tensor]:
    """A model of the spec with random weights, always the same ones, and noise (batch, ...) as its head takes it."""
    torch.manual_seed(0)
    model = build(without_weights(spec))
    return model, torch.randn(batch, *model.head.input_shape(input_size(model.backbone)))


def check_executors(names: Sequence[str]) -> None:
    """Refuses a name that no executor is registered under.

    Raises:
        DyTError: naming it and the nearest.
    """
    unknown = sorted(set(names) - set(executors.names()))
    if unknown:
        raise DyTError(f"no executor '{unknown[0]}'; {nearest(unknown[0], executors.names())}")


def _plain(model: DynamicModel) -> nn.Module:
    """A backbone like the model's before it was tuned: its own again, or made by its name where that cannot be had.

    Raises:
        UnsupportedError: it can be had in neither way.
    """
    reason = unwrap_refusal(model)
    if reason is None:
        plain: nn.Module = unwrap(copy.deepcopy(model))
        return plain.eval()
    if model.spec.backbone.weights == GIVEN:
        raise UnsupportedError(
            f"the model's plain backbone, to compare it with, cannot be made: it was given to dyt.build, and {reason}"
        )
    spec = without_weights(model.spec)
    return create(spec.backbone, spec.head.classifier)[0].eval()


def _peer(name: str, own: DyTSpec, spec: DyTSpec, plain: nn.Module) -> Contender:
    torch.manual_seed(0)
    model = build(own.model_copy(update={"backbone": spec.backbone, "head": spec.head}), backbone=plain).eval()
    if model.tuner is not None and model.tuner.merge_refusal() is None:
        model.tuner.merge(model.backbone)
    return Contender(name, model, routed=own.dispatcher.type != "always")
