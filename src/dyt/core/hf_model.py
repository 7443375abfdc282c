"""Vision models of Hugging Face transformers, as timm would have them. Recognised by name; never imported here.

Shapes: B images, N tokens (class and register tokens first), C channels, F features that the head reads.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from dyt.core.hf_architectures import ARCHITECTURES, Architecture
from dyt.errors import UnsupportedError


class HuggingFaceModel(nn.Module):
    """A vision model of transformers with timm's interface; `model(images)` returns logits (B, classes), a Tensor.

    The model runs its own forward and stays the user's object, its state-dict keys behind `model.`. One without a
    classifier gets a head on its pooled features (the pooler's where it has one, else what its `pooler_output` is).

    Args:
        model: one that `shelled` accepts.
        kind: the package of `transformers.models` that it is from.
        num_classes: outputs of the head of a model without a classifier.

    Attributes:
        model: the model of transformers.
        kind: as given.
        bare: whether the model has no classifier class of its own.
        head: of a bare model; an identity otherwise.
        pretrained_cfg: as timm's. Mean and standard deviation are those of the released weights; the image processor
            of other weights may have others, which are then to be set here.
    """

    def __init__(self, model: nn.Module, kind: str, num_classes: int) -> None:
        super().__init__()
        self.model, self.kind = model, kind
        self.bare = type(model).__name__ == ARCHITECTURES[kind].bare
        self.head: nn.Module = nn.Identity()
        if self.bare:
            self.num_classes = num_classes
            self.head = self._linear(num_classes)
        else:
            self.num_classes = int(getattr(model.classifier, "out_features", 0))
        self.pretrained_cfg = self._described()
        self.training = model.training  # the model's parts keep their own modes
        self.head.train(model.training)

    @property
    def architecture(self) -> Architecture:
        """Of its kind."""
        return ARCHITECTURES[self.kind]

    @property
    def tower(self) -> Any:
        """The model without its classifier."""
        return self.model if self.bare else getattr(self.model, self.architecture.tower)

    @property
    def layer_paths(self) -> list[str]:
        """Dotted paths of the layers, in forward order: `model.vit.layers.0`, ..."""
        root = "model" if self.bare else f"model.{self.architecture.tower}"
        path = f"{root}.{self.architecture.layers}"
        layers = self.get_submodule(path)
        assert isinstance(layers, nn.ModuleList)
        return [f"{path}.{i}" for i in range(len(layers))]

    @property
    def num_features(self) -> int:
        """Channels C of the tokens."""
        return int(self.tower.config.hidden_size)

    embed_dim = num_features

    @property
    def feature_info(self) -> list[dict[str, Any]]:
        """timm's description of what `forward_intermediates` gives: each layer's channels and stride."""
        stride = max(_pair(self.tower.config.patch_size))
        return [{"module": path, "num_chs": self.num_features, "reduction": stride} for path in self.layer_paths]

    @property
    def head_hidden_size(self) -> int:
        """F, what the head reads."""
        pooler = getattr(self.tower, "pooler", None)
        if self.bare and pooler is not None:
            return int(pooler.dense.out_features)
        return self.num_features * (2 if self.architecture.doubled and not self.bare else 1)

    @property
    def num_prefix_tokens(self) -> int:
        """Class and register tokens."""
        return self.architecture.prefix + int(getattr(self.tower.config, "num_register_tokens", 0))

    def forward(self, images: Tensor, **kwargs: Any) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, classes); keywords go to the model, `interpolate_pos_encoding` say."""
        return self.forward_head(self.forward_features(images, **kwargs))

    def forward_features(self, images: Tensor, **kwargs: Any) -> Tensor:
        """Images (B, 3, H, W) -> the model's `last_hidden_state` (B, N, C)."""
        tokens: Tensor = self.tower(pixel_values=images, return_dict=True, **kwargs).last_hidden_state
        return tokens

    def forward_head(self, tokens: Tensor, pre_logits: bool = False) -> Tensor:
        """Tokens (B, N, C) -> logits, or with `pre_logits` the features (B, F) that the head reads."""
        if self.bare:
            features = self.architecture.pooled(self.tower, tokens)
        else:
            features = self.architecture.read(tokens, self.num_prefix_tokens)
        logits: Tensor = features if pre_logits else self.get_classifier()(features)
        return logits

    def forward_intermediates(
        self,
        images: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        output_fmt: str = "NCHW",
        return_prefix_tokens: bool = False,
        intermediates_only: bool = False,
        **kwargs: Any,
    ) -> Any:
        """timm's `forward_intermediates`: the tokens after the chosen layers, as maps or, with "NLC", as sequences.

        Args:
            images: (B, 3, H, W).
            indices: layers; the last n for a number, all by default.
            norm: whether the final norm is applied to them.
            output_fmt: "NCHW" or "NLC".
            return_prefix_tokens: whether each comes with its prefix tokens, as a tuple.
            intermediates_only: whether the final tokens are left out.

        Raises:
            UnsupportedError: another format.
        """
        if output_fmt not in {"NCHW", "NLC"}:
            raise UnsupportedError(f"output_fmt '{output_fmt}'; allowed: NCHW, NLC")
        paths = self.layer_paths
        if isinstance(indices, Sequence):
            taken = [paths[i] for i in indices]
        else:
            taken = paths if indices is None else paths[len(paths) - indices :]
        seen: dict[str, Tensor] = {}
        # transformers finds the layers to record by their class, which a dynamic block is not of
        hooks = [
            self.get_submodule(path).register_forward_hook(lambda _, __, out, path=path: seen.update({path: out}))
            for path in taken
        ]
        try:
            final = self.forward_features(images, **kwargs)
        finally:
            for hook in hooks:
                hook.remove()
        found = [seen[path] for path in paths if path in seen]
        if norm:
            found = [getattr(self.tower, self.architecture.norm)(tokens) for tokens in found]
        prefix = self.num_prefix_tokens
        maps = [tokens[:, prefix:] for tokens in found]
        if output_fmt == "NCHW":
            height, width = (n // p for n, p in zip(images.shape[2:], _pair(self.tower.config.patch_size), strict=True))
            maps = [m.mT.reshape(len(m), -1, height, width).contiguous() for m in maps]
        out = [(m, tokens[:, :prefix]) for m, tokens in zip(maps, found, strict=True)] if return_prefix_tokens else maps
        return out if intermediates_only else (final, out)

    def get_classifier(self) -> nn.Module:
        """The head."""
        return self.head if self.bare else self.model.get_submodule("classifier")

    def reset_classifier(self, num_classes: int) -> None:
        """A new head with this many outputs, none for 0; the model's configuration follows."""
        self.num_classes = num_classes
        if self.bare:
            self.head = self._linear(num_classes)
            return
        model: Any = self.model
        model.classifier = self._linear(num_classes)
        model.num_labels = model.config.num_labels = num_classes

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """timm's patterns of parameters by depth: embeddings, layer by layer, and all else with the head."""
        layers = re.escape(self.layer_paths[0].rpartition(".")[0])
        return {"stem": r"^model\.(?:.*\.)?(?:embeddings|pre_layrnorm)", "blocks": [(rf"^{layers}\.(\d+)", None)]}

    @property
    def grad_checkpointing(self) -> bool:
        """Whether transformers recomputes layers in the backward pass."""
        return any(getattr(module, "gradient_checkpointing", False) for module in self.model.modules())

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Turns that on or off."""
        model: Any = self.model
        if enable:
            enabled = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enabled()
            return
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.gradient_checkpointing = False

    def _linear(self, num_classes: int) -> nn.Module:
        like = next(self.tower.parameters())
        if num_classes == 0:
            return nn.Identity()
        return nn.Linear(self.head_hidden_size, num_classes, device=like.device, dtype=like.dtype)

    def _described(self) -> dict[str, Any]:
        config = self.tower.config
        return {
            "architecture": type(self.model).__name__,
            "input_size": (int(config.num_channels), *_pair(config.image_size)),
            "mean": self.architecture.mean,
            "std": self.architecture.std,
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "num_classes": self.num_classes,
            "classifier": "head" if self.bare else "model.classifier",
        }


def shelled(model: nn.Module, num_classes: int) -> HuggingFaceModel:
    """The shell for a model of transformers; `num_classes` is for one without a classifier.

    Raises:
        UnsupportedError: a class that is not known, or one laid out as in another version of transformers.
    """
    module, name = type(model).__module__, type(model).__name__
    kind = module.removeprefix("transformers.models.").partition(".")[0]
    known = ARCHITECTURES.get(kind)
    if known is None or name not in {known.bare, known.classifier}:
        allowed = ", ".join(f"{a.bare}, {a.classifier}" for a in ARCHITECTURES.values())
        raise UnsupportedError(
            f"no family knows {name} of transformers; allowed: {allowed}; of a model of images and text give "
            f"its vision model"
        )
    try:
        shell = HuggingFaceModel(model, kind, num_classes)
        if shell.layer_paths:
            shell.get_submodule(shell.layer_paths[0])
    except AttributeError as error:
        raise UnsupportedError(
            f"{name} is laid out otherwise in this version of transformers ({error}); dyt knows that of 5.23"
        ) from error
    return shell


def _pair(size: Any) -> tuple[int, int]:
    return (int(size[0]), int(size[1])) if isinstance(size, Sequence) else (int(size), int(size))
