"""DataConfig: what images a model was trained on and what its outputs are called, in its file and on the model.

The fields that timm has are called as timm calls them, so that `timm.data.resolve_model_data_config(model)` finds them.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator
from torch import nn

from dyt.config.base import Spec
from dyt.config.spec import parse
from dyt.errors import CheckpointError, SpecError, shortened

ENTRY = "data_config"
"""The entry of a saved file's metadata, as JSON; absent where it is not known what the model was trained on."""
OF_TESTS = ("test_input_size", "test_crop_pct")
"""What timm reads first for tests at another size than in training, of which there is none."""
MOST_NAMES = 1_100_000
"""Values of an entry; a model has at most a million outputs, each with a name."""


class DataConfig(Spec):
    """What images a model was trained on, and what its outputs are called."""

    input_size: tuple[
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
        Annotated[int, Field(ge=1)],
    ]
    """Channels, height and width of the images, (C, H, W)."""
    interpolation: str = "bicubic"
    """Interpolation of the resize at inference."""
    crop_pct: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    """With `crop_mode: center`: images are resized to (H, W) / crop_pct before the crop."""
    crop_mode: Literal["center", "squash", "border"] = "center"
    """Preparation at inference, as timm names it. `squash`: the whole image is resized to H x W; `center`: the centre
    is cropped; `border`: as `squash`, with the aspect kept and the border padded."""
    mean: tuple[float, ...]
    """Mean of each of the C channels, in [0, 1]."""
    std: tuple[Annotated[float, Field(gt=0.0)], ...]
    """Standard deviation of each of the C channels, in [0, 1]."""
    label_names: tuple[str, ...] | None = None
    """Names of the outputs. Null where they are numbers."""
    data: dict[str, JsonValue] | None = None
    """The run's data spec without its root, which makes the same tensors of the same files. Null where there was no
    run."""

    @model_validator(mode="after")
    def _one_each(self) -> DataConfig:
        if not len(self.mean) == len(self.std) == self.input_size[0]:
            raise ValueError(
                f"mean and std have one number for each of the {self.input_size[0]} channels of input_size; given "
                f"{len(self.mean)} and {len(self.std)}"
            )
        return self


def attach(backbone: nn.Module, config: DataConfig) -> None:
    """Puts it on a backbone, where timm's tools look for it too (`pretrained_cfg`, `default_cfg`)."""
    there: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    kept = {name: value for name, value in dict(there).items() if name not in (*OF_TESTS, "label_names")}
    said = config.model_dump(exclude={"data"}, exclude_none=True)
    backbone.data_config = config  # type: ignore[assignment]
    backbone.pretrained_cfg = backbone.default_cfg = {**kept, **said}  # type: ignore[assignment]


def attached(backbone: nn.Module) -> DataConfig | None:
    """What `attach` put there; None for nothing."""
    found = getattr(backbone, "data_config", None)
    return found if isinstance(found, DataConfig) else None


def renamed(backbone: nn.Module) -> None:
    """Forgets the names of the outputs: there are others now."""
    config = attached(backbone)
    if config is not None:
        attach(backbone, config.model_copy(update={"label_names": None}))


def entry(backbone: nn.Module) -> dict[str, str]:
    """What a saved file's metadata has of it; nothing where nothing is known."""
    config = attached(backbone)
    return {} if config is None else {ENTRY: config.model_dump_json()}


def of_file(metadata: Mapping[str, str], path: str | Path, num_classes: int) -> DataConfig | None:
    """What a saved file says; None for one that says nothing.

    Raises:
        CheckpointError: an entry that is none; names of another number of outputs, or with control characters.
    """
    if ENTRY not in metadata:
        return None
    try:
        config = parse(DataConfig, json.loads(metadata[ENTRY]), most=MOST_NAMES)
    except (SpecError, ValueError, RecursionError) as error:
        raise CheckpointError(shortened(f"'{path}': its {ENTRY} cannot be used: {error}", 600)) from error
    unprintable = [name for name in config.label_names or () if any(unicodedata.category(c) == "Cc" for c in name)]
    if unprintable:
        raise CheckpointError(
            shortened(f"'{path}': its {ENTRY} has a name with control characters: {unprintable[0]!r}", 600)
        )
    if config.label_names is not None and len(config.label_names) != num_classes:
        raise CheckpointError(
            f"'{path}': its {ENTRY} has {len(config.label_names)} label_names for {num_classes} outputs"
        )
    return config


def channels(backbone: nn.Module) -> int:
    """C of the images (C, H, W) that a backbone takes: its stem's."""
    cfg: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    for name in stems(backbone):
        stem = getattr(backbone.get_submodule(name), "in_channels", None)
        if stem is not None:
            return int(stem)
    return int(getattr(backbone, "in_chans", None) or (cfg.get("input_size") or (3,))[0])


def stems(backbone: nn.Module) -> tuple[str, ...]:
    """The names of the modules that read images, as timm's description of the model has them, where they are there."""
    cfg: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", None) or {}
    names = cfg.get("first_conv") or ()
    there = dict(backbone.named_modules())
    return tuple(name for name in ((names,) if isinstance(names, str) else names) if name in there)


def own_size(backbone: nn.Module) -> tuple[int, int] | None:
    """(H, W) pixels of the images that a timm model was made for; None where it does not say."""
    own = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if own is None and hasattr(backbone, "tokens_spatial_shape"):  # Hiera, which keeps the size of its token grid
        own = [n * s for n, s in zip(backbone.tokens_spatial_shape, backbone.patch_stride, strict=True)]  # type: ignore[arg-type]
    return None if own is None else (int(own[0]), int(own[1]))


def any_size(backbone: nn.Module) -> bool:
    """Whether this backbone's patch embedding takes images of other sizes than its own."""
    return getattr(getattr(backbone, "patch_embed", None), "strict_img_size", True) is False
