"""DynamicModel: a timm model whose blocks are dynamic, and the contexts that change its forward."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import torch
from torch import Tensor, nn

from dyt.config.spec import DyTSpec
from dyt.core import context
from dyt.core.calls import called_with
from dyt.core.data_config import DataConfig, attach, attached, renamed
from dyt.core.holding import held
from dyt.core.route import Route
from dyt.core.versions import reset_classifier
from dyt.errors import DyTError, UnsupportedError, nearest, quoted
from dyt.heads import Classifier, Head
from dyt.model.block import DynamicBlock
from dyt.model.budget import Budgeted
from dyt.model.origin import Origin
from dyt.model.parts import frozen_norms, head_keys, start_head
from dyt.model.sharing import Shareable
from dyt.model.site import Site
from dyt.model.summary import summary, trainable_line
from dyt.model.timm_surface import TimmSurface, checkpoint_blocks
from dyt.model.token_state import TokenReduction
from dyt.registry import UnknownNameError, executors
from dyt.tuners.base import Tuner

COMPLETE = "complete"
"""The execution that is a policy, not a mechanism: every token active, no dispatcher."""


class DynamicModel(Budgeted, Shareable, TimmSurface):
    """A timm model with dispatched branches. Forwards timm's methods; `model(images)` returns what timm returns.

    Made by `dyt.build` or `dyt.load`. Not supported: `torch.jit.script`. Functions that take a model also take what
    wraps or holds it: DistributedDataParallel, DataParallel, FSDP, torch.compile's, `TuningStep`, AveragedModel,
    timm's ModelEma.

    Attributes:
        backbone: the timm model, its blocks replaced in place.
        spec: what it was built from.
        key: its identity for forward contexts.
        head: what stands behind the backbone; without parameters where that is the backbone's own classifier.
        tuner: how the backbone itself is tuned; None for not at all.
        origin: what it was built on, by which a file is made; None for models that are not saved.
    """

    origin: Origin | None = None

    def __init__(
        self, backbone: nn.Module, spec: DyTSpec, key: context.ModelKey, head: Head, tuner: Tuner | None = None
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = head
        self.spec, self.key, self.tuner = spec, key, tuner
        self.pruned = False
        self.training = backbone.training
        head.train(backbone.training)
        for module in frozen_norms(backbone, spec):
            module.eval()

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Images (B, 3, H, W) -> logits (B, classes), or what else the head gives, in train and eval mode."""
        head: Any = self.head
        if context.current(self.key).counting:
            return head.counted(self.backbone, images)
        if hasattr(head, "_hf_hook"):  # accelerate's, which would send the backbone along with the head's arguments
            return called_with(head, self.backbone, images, *args, **kwargs)
        return head(self.backbone, images, *args, **kwargs)

    @property
    def sites(self) -> tuple[Site, ...]:
        """The dispatched branches, in forward order."""
        return tuple(module for module in self.backbone.modules() if isinstance(module, Site))

    @property
    def head_parameters(self) -> list[nn.Parameter]:
        """Of what reads the backbone's features: the head and the backbone's own classifiers."""
        own = head_keys(self.backbone)
        return [*self.head.parameters(), *(p for name, p in self.backbone.named_parameters() if name in own)]

    @property
    def reductions(self) -> tuple[TokenReduction, ...]:
        """What each block does about the number of tokens, in forward order; none without a reducer."""
        return tuple(module for module in self.backbone.modules() if isinstance(module, TokenReduction))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the frozen branches of the dynamic blocks in the backward pass; timm's own flag stays off."""
        checkpoint_blocks(self.dynamic_blocks, enable)

    @property
    def grad_checkpointing(self) -> bool:
        """Whether they do."""
        return any(block.grad_checkpointing for block in self.dynamic_blocks)

    @property
    def dynamic_blocks(self) -> tuple[DynamicBlock, ...]:
        """The dynamic blocks, in forward order."""
        return tuple(module for module in self.backbone.modules() if isinstance(module, DynamicBlock))

    def train(self, mode: bool = True) -> Self:
        """torch's `train`, but batch norms of the frozen backbone stay in eval mode: their statistics are frozen too.

        Those of a module in `modules_to_save`, and all with `trainable: full`, follow the mode.
        """
        super().train(mode)
        for module in frozen_norms(self.backbone, self.spec):
            module.eval()
        return self

    def print_trainable_parameters(self) -> None:
        """Prints one line, as PEFT does: the parameters that are trained, all of them, and the percentage."""
        print(trainable_line(self))

    def summary(self) -> str:
        """A few lines: backbone, variant, sites, dispatchers, adapters, parameters, rate, thresholds. Runs no forward.

        The rate is the one that the training asks for; `dyt.record` tells the one that a forward has.
        """
        return summary(self)

    def save_refusal(self) -> str | None:
        """Why this model cannot be saved, in words; None when it can. Worth asking before a long training."""
        if self.pruned:
            return "layers were taken out by prune_intermediate_layers, which no spec tells"
        reason = None if self.tuner is None else self.tuner.save_refusal(self.backbone)
        if reason is not None:
            return reason
        return None if self.origin is None else self.origin.refusal(self)

    def plain_refusal(self) -> str | None:
        """Why this model cannot compute what its backbone did before (`dyt.plain`), in words; None when it can."""
        if self.spec.keeps_pretrained:
            return None
        what = "trainable: full" if self.spec.trainable == "full" else "modules_to_save"
        what = what if self.tuner is None else f"tuner '{getattr(self.spec.tuner, 'type', None)}'"
        return f"{what} trains the backbone itself, whose first weights are not kept"

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """timm's `reset_classifier`, with the new head trainable and started as the paper's; the spec follows.

        Raises:
            UnsupportedError: a head of another kind, or another pooling than the backbone's; a saved file would not
                know of it.
        """
        if type(self.head) is not Classifier:
            raise UnsupportedError(
                f"the head is a '{self.spec.head.type}', not timm's classifier; build one with other head.num_classes"
            )
        pooling = getattr(self.backbone, "global_pool", None)
        if global_pool not in {None, pooling}:
            raise UnsupportedError(
                f"global_pool cannot change from '{pooling}' to '{global_pool}' in a dynamic model; set it in "
                f"backbone.args, or on the plain backbone before dyt.build"
            )
        reset_classifier(self.backbone, num_classes)
        start_head(self.backbone)
        renamed(self.backbone)
        self.spec = self.spec.model_copy(
            update={"head": self.spec.head.model_copy(update={"num_classes": num_classes})}
        )

    @property
    def data_config(self) -> DataConfig | None:
        """What it was trained on; None where that is not known. `pretrained_cfg` has the same in timm's words."""
        return attached(self.backbone)

    @data_config.setter
    def data_config(self, config: DataConfig) -> None:
        attach(self.backbone, config)


def dynamic_of(model: Any) -> DynamicModel:
    """The dynamic model that a user holds: itself, or what is inside (DistributedDataParallel, torch.compile, ...).

    Raises:
        DyTError: something that holds none, or several.
    """
    return held(model, DynamicModel)


# Contexts
# ---------------------------------------------------------------------------------------------------------------


@contextmanager
def record(model: nn.Module) -> Iterator[list[Route]]:
    """Yields a list that each forward inside appends its routes to, in forward order.

    Args:
        model: the dynamic model, or what wraps it (`dyt.DynamicModel`).

    Raises:
        DyTError: not one dynamic model, or replicas of one.
    """
    key = contextual(model).key
    routes: list[Route] = []
    with context.changed(key, records=(*context.current(key).records, routes)):
        yield routes


@contextmanager
def forced(model: nn.Module, masks: Sequence[Tensor]) -> Iterator[None]:
    """Uses these masks instead of the dispatchers, in train and eval mode, for every forward inside.

    Args:
        model: the dynamic model, or what wraps it (`dyt.DynamicModel`).
        masks: one (B, N) bool tensor per site, in the order of `model.sites`; prefix included and True there. With a
            reducer N is the number of tokens that the site has left (`dyt.record` tells).

    Raises:
        DyTError: a wrong number, dtype or shape, or a False prefix; not one dynamic model, or replicas of one.
    """
    model = contextual(model)
    sites = model.sites
    if len(masks) != len(sites):
        raise DyTError(f"forced needs one mask per site: given {len(masks)}, the model has {len(sites)} sites")
    for mask, site in zip(masks, sites, strict=True):
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.ndim != 2:
            given = f"{mask.dtype} of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
            raise DyTError(
                f"forced mask of site {site.name} must be a bool tensor (images, tokens with prefix); given {given}"
            )
        if not bool(mask[:, : site.prefix].all()):
            raise DyTError(
                f"forced mask of site {site.name} is False at a prefix token; the first {site.prefix} must be True"
            )
    with context.changed(model.key, masks=tuple(masks)):
        yield


@contextmanager
def execution(model: nn.Module, name: str) -> Iterator[None]:
    """Runs every forward inside with this executor, or, for `complete`, with every token active and no dispatcher.

    The complete model has its adapters; what the backbone computed before it was tuned is `dyt.plain`.

    Args:
        model: the dynamic model, or what wraps it (`dyt.DynamicModel`).
        name: `complete` or a registered executor (`masked`, `sparse`). The default is `masked` in train mode and
            `sparse` in eval mode.

    Raises:
        DyTError: an unknown name; not one dynamic model, or replicas of one.
    """
    key = contextual(model).key
    if name == COMPLETE:
        with context.changed(key, complete=True):
            yield
        return
    try:
        executor = executors.get(name)()
    except UnknownNameError:
        raise DyTError(f"no execution {quoted(name)}; {nearest(name, [COMPLETE, *executors.names()])}") from None
    with context.changed(key, executor=executor):
        yield


@contextmanager
def plain(model: nn.Module) -> Iterator[None]:
    """Inside, every forward is that of the backbone before it was tuned: every token, no adapters, no reducers.

    Nothing is changed; what reads the features, the classifier or another head, is the present one. Wins over
    `dyt.forced` and `dyt.execution`. `dyt.unwrap` gives the backbone itself back.

    Args:
        model: the dynamic model, or what wraps it.

    Raises:
        UnsupportedError: a model whose backbone is trained as well (a tuner, `modules_to_save`, `trainable: full`), or
            that was rewritten for inference.
        DyTError: not one dynamic model.
    """
    inside = contextual(model)
    reason = inside.plain_refusal()
    if reason is not None:
        raise UnsupportedError(f"plain is not available for this model: {reason}")
    with context.changed(inside.key, complete=True, plain=True):
        yield


def contextual(model: nn.Module) -> DynamicModel:
    """The dynamic model inside, for a context around calls of `model`."""
    if isinstance(model, nn.DataParallel) and len(model.device_ids) > 1:
        raise DyTError(
            "DataParallel runs replicas of the model in threads, which no context of this one reaches; use "
            "DistributedDataParallel, or call its .module"
        )
    return dynamic_of(model)
