"""What timm's factories, optimisers, feature tools and scripts ask of a model: forwarded, ours, or refused in words."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from timm.layers import to_2tuple  # type: ignore[attr-defined]
from torch import Tensor, nn

from dyt.config.spec import DyTSpec
from dyt.core.offloading import at_hand
from dyt.errors import UnsupportedError
from dyt.heads import Classifier
from dyt.model.timm_names import FORWARDED, TRAITS
from dyt.tuners.base import Tuner


class TimmSurface(nn.Module):
    """The part of `DynamicModel` that speaks timm's interface."""

    backbone: Any
    spec: DyTSpec
    tuner: Tuner | None
    origin: Any
    pruned: bool
    """Whether layers were taken out, which no saved file would tell."""

    def forward_features(self, images: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """timm's `forward_features`: (B, N, C) tokens after the final norm; fewer of them with a reducer.

        A head that reads patch tokens is given all of them, where the reducer can tell each patch's token.
        """
        with at_hand(self.backbone):
            tokens: Tensor = self.backbone.forward_features(images, *args, **kwargs)
        return tokens

    def forward_head(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """timm's `forward_head`: tokens (B, N, C) -> logits, or pooled features with `pre_logits=True`."""
        with at_hand(self.backbone):
            out: Tensor = self.backbone.forward_head(tokens, *args, **kwargs)
        return out

    def forward_intermediates(self, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        """timm's `forward_intermediates`.

        Raises:
            UnsupportedError: a model with a reducer, whose tokens are no grid; or a tuner whose own tokens are among
                those between the blocks (shallow prompts).
        """
        self._has_intermediates("forward_intermediates")
        with at_hand(self.backbone):
            return self.backbone.forward_intermediates(images, *args, **kwargs)

    def get_intermediate_layers(
        self,
        images: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_prefix_tokens: bool = False,
        norm: bool = False,
        **kwargs: Any,
    ) -> Any:
        """timm's `get_intermediate_layers`; as `forward_intermediates`, whose errors it has."""
        return self.forward_intermediates(
            images,
            n,
            return_prefix_tokens=return_prefix_tokens,
            norm=norm,
            output_fmt="NCHW" if reshape else "NLC",
            intermediates_only=True,
            **kwargs,
        )

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """timm's `prune_intermediate_layers`: takes out what lies behind the last of these layers; not to be saved.

        Raises:
            UnsupportedError: as `forward_intermediates`; or a head other than the classifier, which reads the layers.
        """
        self._has_intermediates("prune_intermediate_layers")
        if type(self.head) is not Classifier:
            raise UnsupportedError(
                f"prune_intermediate_layers takes out layers that head '{self.spec.head.type}' reads; with timm's "
                f"FeatureGetterNet use prune=False"
            )
        kept: list[int] = self.backbone.prune_intermediate_layers(indices, prune_norm=prune_norm, prune_head=prune_head)
        self.pruned = True
        if prune_head:
            head = self.spec.head.model_copy(update={"num_classes": 0})
            self.spec = self.spec.model_copy(update={"head": head})
        return kept

    def _has_intermediates(self, asked: str) -> None:
        if self.spec.reducer is not None:
            raise UnsupportedError(
                f"{asked} gives one token per patch, which reducer '{self.spec.reducer.type}' does not "
                f"leave; use forward_features, or a model without a reducer"
            )
        reason = None if self.tuner is None else self.tuner.intermediates_refusal()
        if reason is not None:
            raise UnsupportedError(f"{asked} is not available: {reason}")

    def set_input_size(
        self,
        img_size: int | Sequence[int] | None = None,
        patch_size: int | Sequence[int] | None = None,
        **others: Any,
    ) -> None:
        """timm's `set_input_size`: other sizes of images (H, W) or patches; `spec.backbone.args` follows.

        A saved file then needs the backbone at that size: a pretrained one is made so; a given one has to be brought to
        it before `dyt.load(..., backbone=)`.

        Args:
            img_size: pixels; None for the present size.
            patch_size: pixels; None for the present size.
            **others: what else timm's method of this backbone takes (`window_size` of Swin).

        Raises:
            UnsupportedError: a backbone whose size is fixed, or sizes that timm refuses.
        """
        name, change = type(self.backbone).__name__, getattr(self.backbone, "set_input_size", None)
        if change is None:
            raise UnsupportedError(f"set_input_size: {name} has none; set img_size in backbone.args and build anew")
        windowed = "window_size" in inspect.signature(change).parameters
        if windowed and others.get("window_size") is None and not hasattr(self.backbone, "_model_args"):
            raise UnsupportedError(f"set_input_size: give window_size, so that {name} can be made again from its spec")
        given = {"img_size": _pair(img_size), "patch_size": _pair(patch_size)} | others
        given = {key: value for key, value in given.items() if value is not None}
        trained = {key: parameter.requires_grad for key, parameter in self.backbone.named_parameters()}
        try:
            change(**given)
        except (AssertionError, TypeError, ValueError) as error:
            raise UnsupportedError(f"set_input_size: {name} refused {given}: {error}") from error
        for key, parameter in self.backbone.named_parameters():  # some are made anew, and were trainable before 1.0.31
            parameter.requires_grad_(trained[key])
        noted = getattr(self.backbone, "_model_args", {})
        made = {key: noted.get(key, value) for key, value in given.items() if key != "window_ratio"}
        if windowed:
            made["window_size"] = noted.get("window_size", others.get("window_size"))
        args = {**self.spec.backbone.args, **{key: _listed(value) for key, value in made.items()}}
        backbone = self.spec.backbone.model_copy(update={"args": args})
        self.spec = self.spec.model_copy(update={"backbone": backbone})
        if self.origin is not None:
            self.origin = self.origin.resized(self)

    def get_classifier(self) -> Any:
        """timm's `get_classifier`: the head, a tuple of two for distilled models."""
        return self.backbone.get_classifier()

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

    @property
    def default_cfg(self) -> dict[str, Any]:
        """timm's older name of `pretrained_cfg`."""
        return self.pretrained_cfg

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """timm's description of the maps that `forward_intermediates` gives, with this model's names of modules."""
        told = self.backbone.feature_info
        return [{**each, "module": f"backbone.{each['module']}"} for each in getattr(told, "info", told)]

    def no_weight_decay(self) -> set[str]:
        """Parameter names that timm's optimiser factory should not decay."""
        inner = self.backbone.no_weight_decay() if hasattr(self.backbone, "no_weight_decay") else set()
        return {f"backbone.{name}" for name in inner}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of parameters by depth, for layer decay: a block's adapters and dispatchers are of its group.

        Raises:
            UnsupportedError: a backbone without them.
        """
        if not hasattr(self.backbone, "group_matcher"):
            raise UnsupportedError(
                f"group_matcher: {type(self.backbone).__name__} does not tell its layers' parameters"
            )
        return {group: _inside(pattern) for group, pattern in self.backbone.group_matcher(coarse=coarse).items()}

    def fix_init_weight(self) -> None:
        """Refused."""
        self._keeps_weights("fix_init_weight")

    def init_weights(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        self._keeps_weights("init_weights")

    def load_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refused."""
        self._keeps_weights("load_pretrained")

    def _keeps_weights(self, asked: str) -> None:
        raise UnsupportedError(
            f"{asked} would write over the backbone's weights, on which the model was built; call it on the plain timm "
            f"model before dyt.build"
        )


def _forward(name: str) -> property:
    return property(lambda self: getattr(self.backbone, name), doc=f"timm's `{name}`, the backbone's own.")


for _name in (*FORWARDED, *TRAITS):
    setattr(TimmSurface, _name, _forward(_name))


def checkpoint_blocks(blocks: Iterable[Any], enable: bool = True) -> None:
    """Whether dynamic blocks recompute their frozen branches in the backward pass."""
    for block in blocks:
        block.grad_checkpointing = enable


def _inside(pattern: Any) -> Any:
    """A pattern of timm's group matcher, or several with what follows each, for names behind `backbone.`."""
    if isinstance(pattern, str):
        # timm matches at the start of a name; a caret that is left there would not match behind the prefix
        return r"^backbone\.(?:" + re.sub(r"(?<![\[\\])\^", "", pattern) + ")"
    if isinstance(pattern, (tuple, list)):
        return [(_inside(each[0]), *each[1:]) for each in pattern]
    return pattern


def _pair(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    if size is None:
        return None
    height, width = to_2tuple(size)
    return int(height), int(width)


def _listed(value: Any) -> Any:
    """As YAML and JSON have it."""
    if isinstance(value, Mapping):
        return {key: _listed(each) for key, each in value.items()}
    return [_listed(each) for each in value] if isinstance(value, (list, tuple)) else value
