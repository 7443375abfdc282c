"""The parts of tasks that are alike, stacked: one row a task, so that a batch of mixed tasks is a gather and a product.

Shapes: R rows, with room to spare; G images; N tokens, P of them patches; C channels; d hidden units; r rank of a
stand-in; K classes of the widest task. Which row is whose is the bank's to know. Rows are written in place: compiled
code goes on with them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dyt.adapters.bottleneck import Bottleneck
from dyt.adapters.low_rank import LowRank
from dyt.core.calls import bare
from dyt.core.context import DecisionContext
from dyt.core.route import mean_token
from dyt.core.scores import Router, by_place
from dyt.dispatchers.base import Decision
from dyt.dispatchers.learned import Learned
from dyt.model.site import Site

outside_inference_mode = torch.inference_mode(False)
"""For what makes or writes rows: else those that are made inside could not be written outside."""
Index = int | Tensor | None
"""The rows of a group of images: a row of the stack, (), or (G,) int64; None for what is no stack."""


@dataclass(frozen=True)
class StandInKind:
    """What tasks' stand-ins at one site must have in common.

    Attributes:
        rank: r, of the linear map.
        input: which tokens they read.
    """

    rank: int
    input: str


@dataclass(frozen=True)
class SiteKind:
    """What a task's parts at one site must have in common with others to stand in one stack.

    Attributes:
        hidden: d, the adapter's hidden units.
        activation: the adapter's.
        level: the dispatcher's.
        stand_in: that of the stand-in; None where there is none.
    """

    hidden: int
    activation: Callable[[Tensor], Tensor]
    level: Literal["token", "sample"]
    stand_in: StandInKind | None = None


def kind_of(site: Site) -> SiteKind | None:
    """The kind of a site's parts; None where they cannot be stacked: other components, or layers that are hooked."""
    adapter, dispatcher, stand_in = site.adapter, site.dispatcher, site.stand_in
    if type(adapter) is not Bottleneck or type(dispatcher) is not Learned:
        return None
    if stand_in is not None and type(stand_in) is not LowRank:
        return None
    layers = {adapter.down: nn.Linear, adapter.up: nn.Linear, dispatcher.router: Router}
    if stand_in is not None:
        layers |= {stand_in.down: nn.Linear, stand_in.up: nn.Linear}
    if not all(type(layer) is wanted and layer.bias is not None for layer, wanted in layers.items()):
        return None
    if not all(bare(module) for module in (adapter, dispatcher, stand_in, *layers) if module is not None):
        return None
    of_stand_in = None if stand_in is None else StandInKind(stand_in.down.out_features, stand_in.input)
    return SiteKind(adapter.down.out_features, adapter.activation, dispatcher.level, of_stand_in)


class Rows(nn.Module):
    """Tensors with a row for each task.

    Args:
        room: number of rows.

    Attributes:
        empty: what stands in the parameters' rows of no task.
    """

    empty: ClassVar[float] = 0.0

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def _stack(self, name: str, like: Tensor, *shape: int) -> None:
        """Adds a parameter (R, *shape) that is not trained."""
        new = like.new_full((self.room, *shape), self.empty)
        self.register_parameter(name, nn.Parameter(new, requires_grad=False))

    @outside_inference_mode
    @torch.no_grad()
    def grow(self, room: int) -> None:
        """Makes room for so many rows. What was in them stays."""
        self.room = room
        for name, parameter in self.named_parameters():
            new = parameter.new_full((room, *parameter.shape[1:]), self.empty)
            new[: len(parameter)] = parameter
            setattr(self, name, nn.Parameter(new, requires_grad=False))
        for name, buffer in self.named_buffers():
            new = buffer.new_zeros(room)
            new[: len(buffer)] = buffer
            setattr(self, name, new)


class Stack(Rows):
    """The dispatchers, adapters, stand-ins and thresholds of alike tasks at one site.

    Args:
        kind: what they have in common.
        dim: channels C.
        room: number of rows.
        like: a tensor of the dtype and on the device that they shall have.

    Attributes:
        stand_in_input: which tokens the stand-ins read; None where there are none, and no tensors of any.
    """

    threshold: Tensor
    scale: Tensor
    router_weight: Tensor
    router_bias: Tensor
    down_weight: Tensor
    down_bias: Tensor
    up_weight: Tensor
    up_bias: Tensor
    stand_in_down_weight: Tensor
    stand_in_down_bias: Tensor
    stand_in_up_weight: Tensor
    stand_in_up_bias: Tensor

    @outside_inference_mode
    def __init__(self, kind: SiteKind, dim: int, room: int, like: Tensor) -> None:
        super().__init__(room)
        self.level, self.activation = kind.level, kind.activation
        self._stack("router_weight", like, dim)
        self._stack("router_bias", like)
        self._stack_pair("", like, dim, kind.hidden)
        self.stand_in_input = None if kind.stand_in is None else kind.stand_in.input
        if kind.stand_in is not None:
            self._stack_pair("stand_in_", like, dim, kind.stand_in.rank)
        for name in ("threshold", "scale"):
            self.register_buffer(name, torch.zeros(room, device=like.device))

    def _stack_pair(self, prefix: str, like: Tensor, dim: int, hidden: int) -> None:
        """Adds a down and an up projection, both with bias."""
        self._stack(f"{prefix}down_weight", like, hidden, dim)
        self._stack(f"{prefix}down_bias", like, hidden)
        self._stack(f"{prefix}up_weight", like, dim, hidden)
        self._stack(f"{prefix}up_bias", like, dim)

    def _apply(self, fn: Any, recurse: bool = True) -> Self:
        """Moves, and casts all but thresholds and scales, which are float32 and numbers in a model of its own."""
        kept = dict(self._buffers)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            assert before is not None
            setattr(self, name, before.to(getattr(self, name).device))
        return self

    @outside_inference_mode
    @torch.no_grad()
    def write(self, row: int, site: Site) -> None:
        """Copies a task's parts, of this stack's kind, into its row."""
        adapter, dispatcher, stand_in = site.adapter, site.dispatcher, site.stand_in
        assert isinstance(adapter, Bottleneck)
        assert isinstance(dispatcher, Learned)
        layers = {"down": adapter.down, "up": adapter.up}
        if stand_in is not None:
            assert isinstance(stand_in, LowRank)
            layers |= {"stand_in_down": stand_in.down, "stand_in_up": stand_in.up}
        for name, layer in layers.items():
            getattr(self, f"{name}_weight")[row].copy_(layer.weight)
            getattr(self, f"{name}_bias")[row].copy_(layer.bias)
        self.router_weight[row].copy_(dispatcher.router.weight[0])
        self.router_bias[row].copy_(dispatcher.router.bias[0])
        self.threshold[row].copy_(site.threshold)
        self.scale[row] = adapter.scale

    def decided(self, patches: Tensor, context: DecisionContext, index: Index) -> Decision:
        """The decision for patch tokens (G, P, C), each image's by its row's router and threshold."""
        tokens = patches if self.level == "token" else mean_token(patches, context.padding)
        with torch.autocast(tokens.device.type, enabled=False):
            weight, bias = at(self.router_weight, index).float(), at(self.router_bias, index).float()
            logits = affine(tokens.float(), weight.unsqueeze(-2), bias.unsqueeze(-1)).squeeze(-1)
        threshold = at(self.threshold, index).unsqueeze(-1)
        if self.level == "token":
            threshold = by_place(threshold, patches.shape[1])
        logits, active = logits.expand(patches.shape[:2]), (logits - threshold > 0).expand(patches.shape[:2])
        return Decision(active, logits=logits)

    def delta(self, x: Tensor, padding: Tensor | None, index: Index) -> Tensor:
        """The deltas (G, N, C) of tokens x (G, N, C), each image's by its row's adapter."""
        hidden = self.activation(affine(x, at(self.down_weight, index), at(self.down_bias, index)))
        delta = affine(hidden, at(self.up_weight, index), at(self.up_bias, index))
        scale = at(self.scale, index)
        return (delta * (scale if scale.ndim == 0 else scale[:, None, None])).to(delta.dtype)

    def stood_in(self, seen: Tensor, padding: Tensor | None, index: Index) -> Tensor:
        """What stands in for the branch (G, N, C), for tokens as `stand_in_input` says, each image's by its row's."""
        hidden = affine(seen, at(self.stand_in_down_weight, index), at(self.stand_in_down_bias, index))
        return affine(hidden, at(self.stand_in_up_weight, index), at(self.stand_in_up_bias, index))


class Classifiers(Rows):
    """The classifiers of alike tasks, each padded to the widest: its logits past its own classes are -inf.

    Rows of no task give NaN, which cannot be taken for a task's logits.

    Args:
        first: the first of them, for its channels C and its number of classes.
        room: number of rows.
        like: a tensor of the dtype and on the device that they shall have.
    """

    empty = float("nan")
    weight: nn.Parameter
    bias: nn.Parameter

    @outside_inference_mode
    def __init__(self, first: nn.Linear, room: int, like: Tensor) -> None:
        super().__init__(room)
        self._stack("weight", like, *first.weight.shape)
        self._stack("bias", like, first.out_features)

    @outside_inference_mode
    @torch.no_grad()
    def write(self, row: int, classifier: nn.Linear) -> None:
        """Copies a classifier into its row; widens all where it has more classes than any before."""
        classes, more = classifier.out_features, classifier.out_features - self.bias.shape[1]
        if more > 0:
            padding = torch.where(self.bias[:, :1].isnan(), float("nan"), float("-inf")).to(self.bias).expand(-1, more)
            self.weight = nn.Parameter(F.pad(self.weight, (0, 0, 0, more)), requires_grad=False)
            self.bias = nn.Parameter(torch.cat([self.bias, padding], 1), requires_grad=False)
        self.weight[row].zero_()
        self.weight[row, :classes].copy_(classifier.weight)
        self.bias[row].fill_(float("-inf"))
        self.bias[row, :classes].copy_(torch.zeros(()) if classifier.bias is None else classifier.bias)

    @outside_inference_mode
    @torch.no_grad()
    def clear(self, row: int) -> None:
        """Makes a row one of no task."""
        self.bias[row].fill_(self.empty)

    def forward(self, features: Tensor, index: Index) -> Tensor:
        """(G, K): the logits of features (G, C), each image's by its row's classifier."""
        weight, bias = at(self.weight, index), at(self.bias, index)
        if weight.ndim == 2:
            return F.linear(features, weight, bias)
        return affine(features.unsqueeze(1), weight, bias).squeeze(1)


def at(rows: Tensor, index: Index) -> Tensor:
    """(...) of rows (R, ...) for one row, (G, ...) for the row of each image."""
    if isinstance(index, Tensor):
        found = rows.index_select(0, index.reshape(-1))
        return found if index.ndim else found.squeeze(0)
    assert index is not None
    return rows[index]


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """(G, N, E): x (G, N, C) by one map (E, C) and (E,), or by a map for each image, (G, E, C) and (G, E)."""
    if weight.ndim == 2:
        return F.linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.mT)
