"""DynamicModel: a timm model whose blocks are dynamic, and the contexts that steer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dyt import steer
from dyt.errors import DyTError, UnsupportedError, nearest
from dyt.heads import Classifier, Head
from dyt.reducers.stage import Stage
from dyt.registry import UnknownNameError, executors
from dyt.route import Route
from dyt.site import Site
from dyt.spec import DyTSpec
from dyt.tuners.base import Tuner
from dyt.variants.base import DynamicBlock
from dyt.versions import reset_classifier

COMPLETE = "complete"
"""The execution that is a policy, not a mechanism: every token active, no dispatcher."""


class DynamicModel(nn.Module):
    """A timm model with dispatched branches. Forwards timm's methods; `model(images)` returns what timm returns.

    Made by `dyt.build` or `dyt.load`. Not supported: `torch.jit.script`.

    Attributes:
        backbone: the timm model, its blocks replaced in place.
        spec: what it was built from.
        key: its identity for steering.
        head: what stands behind the backbone; without parameters where that is the backbone's own classifier.
        tuner: how the backbone itself is tuned; None for not at all.
    """

    def __init__(
        self, backbone: nn.Module, spec: DyTSpec, key: steer.Key, head: Head, tuner: Tuner | None = None
    ) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self.head = head
        self.spec, self.key, self.tuner = spec, key, tuner
        self.training = backbone.training
        head.train(backbone.training)

    def forward(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Images (B, 3, H, W) -> logits (B, classes), or what else the head gives, in train and eval mode."""
        return self.head(self.backbone, images, *args, **kwargs)

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
    def stages(self) -> tuple[Stage, ...]:
        """What each block does about the number of tokens, in forward order; none without a reducer."""
        return tuple(module for module in self.backbone.modules() if isinstance(module, Stage))

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recomputes the frozen branches of the dynamic blocks in the backward pass; timm's own flag stays off."""
        for module in self.backbone.modules():
            if isinstance(module, DynamicBlock):
                module.grad_checkpointing = enable

    def save_refusal(self) -> str | None:
        """Why this model cannot be saved, in words; None when it can."""
        return None

    # timm's interface --------------------------------------------------------------------------------------------

    def forward_features(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """timm's `forward_features`: (B, N, C) tokens after the final norm; fewer of them with a reducer.

        A head that reads patch tokens is given all of them, where the reducer can tell each patch's token.
        """
        tokens: Tensor = self.backbone.forward_features(images, *args, **kwargs)
        return tokens

    def forward_head(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """timm's `forward_head`: tokens (B, N, C) -> logits, or pooled features with `pre_logits=True`."""
        out: Tensor = self.backbone.forward_head(tokens, *args, **kwargs)
        return out

    def forward_intermediates(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """timm's `forward_intermediates`.

        Raises:
            UnsupportedError: a model with a reducer, whose tokens are no grid; or a tuner whose own tokens are among
                those between the blocks (shallow prompts).
        """
        if self.spec.reducer is not None:
            raise UnsupportedError(
                f"forward_intermediates gives one token per patch, which reducer '{self.spec.reducer.type}' does not "
                f"leave; use forward_features, or a model without a reducer"
            )
        reason = None if self.tuner is None else self.tuner.intermediates_refusal()
        if reason is not None:
            raise UnsupportedError(f"forward_intermediates is not available: {reason}")
        return self.backbone.forward_intermediates(images, *args, **kwargs)

    def get_classifier(self) -> Any:
        """timm's `get_classifier`: the head, a tuple of two for distilled models."""
        return self.backbone.get_classifier()

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
        self.spec = self.spec.model_copy(
            update={"head": self.spec.head.model_copy(update={"num_classes": num_classes})}
        )

    @property
    def num_classes(self) -> int:
        """What the head tells apart; 0 for none."""
        return int(self.spec.head.num_classes)

    @property
    def num_features(self) -> int:
        """Channels of the tokens after the last block."""
        return int(self.backbone.num_features)

    @property
    def num_prefix_tokens(self) -> int:
        """Class, register and distillation tokens."""
        return int(getattr(self.backbone, "num_prefix_tokens", 0))  # hierarchical models have none and do not say so

    @property
    def pretrained_cfg(self) -> dict[str, Any]:
        """timm's description of the weights: mean, std, input size, interpolation, crop."""
        return dict(self.backbone.pretrained_cfg)

    def no_weight_decay(self) -> set[str]:
        """Parameter names that timm's optimiser factory should not decay."""
        inner = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else set()
        return {f"backbone.{name}" for name in inner}


def heads(backbone: nn.Module) -> tuple[nn.Module, ...]:
    """The classifier modules that have parameters: none, one, or two for distilled models."""
    found = backbone.get_classifier()  # type: ignore[operator]
    found = tuple(found) if isinstance(found, (tuple, list)) else (found,)
    return tuple(head for head in found if isinstance(head, nn.Module) and any(True for _ in head.parameters()))


def head_keys(backbone: nn.Module) -> set[str]:
    """State-dict names of the classifiers' parameters."""
    own = {id(p) for head in heads(backbone) for p in head.parameters()}
    return {name for name, p in backbone.named_parameters() if id(p) in own}


def tuned_keys(backbone: nn.Module, tuner: Tuner | None) -> set[str]:
    """Names of the backbone's parameters that the tuner trains: none of our sites, none of the classifiers."""
    if tuner is None:
        return set()
    ours = [*heads(backbone), *(module for module in backbone.modules() if isinstance(module, Site))]
    aside = {id(p) for module in ours for p in module.parameters()}
    return {name for name, p in backbone.named_parameters() if id(p) not in aside and tuner.trains(name)}


def start_head(backbone: nn.Module) -> None:
    """Makes the classifiers trainable and starts them as the released code does: truncated normal 0.01, zero bias."""
    for head in heads(backbone):
        head.requires_grad_(True)
        for name, parameter in head.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif parameter.ndim > 1:  # the scale of a norm inside a head stays
                nn.init.trunc_normal_(parameter, std=0.01)


# Contexts
# ---------------------------------------------------------------------------------------------------------------


@contextmanager
def record(model: DynamicModel) -> Iterator[list[Route]]:
    """Yields a list that each forward inside appends its routes to, in forward order."""
    routes: list[Route] = []
    with steer.steered(model.key, records=(*steer.current(model.key).records, routes)):
        yield routes


@contextmanager
def forced(model: DynamicModel, masks: Sequence[Tensor]) -> Iterator[None]:
    """Uses these masks instead of the dispatchers, in train and eval mode, for every forward inside.

    Args:
        masks: one (B, N) bool tensor per site, in the order of `model.sites`; prefix included and True there. With a
            reducer N is the number of tokens that the site has left (`dyt.record` tells).

    Raises:
        DyTError: a wrong number, dtype or shape, or a False prefix.
    """
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
    with steer.steered(model.key, masks=tuple(masks)):
        yield


@contextmanager
def execution(model: DynamicModel, name: str) -> Iterator[None]:
    """Runs every forward inside with this executor, or, for `complete`, with every token active and no dispatcher.

    Args:
        name: `complete` or a registered executor (`masked`, `sparse`). The default is `masked` in train mode and
            `sparse` in eval mode.

    Raises:
        DyTError: an unknown name.
    """
    if name == COMPLETE:
        with steer.steered(model.key, complete=True):
            yield
        return
    try:
        executor = executors.get(name)()
    except UnknownNameError:
        raise DyTError(f"no execution '{name}'; {nearest(name, [COMPLETE, *executors.names()])}") from None
    with steer.steered(model.key, executor=executor):
        yield
