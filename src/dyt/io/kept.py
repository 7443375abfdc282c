"""How a file identifies its backbone: a fingerprint of the frozen tensors, or the backbone itself."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from dyt.assembly.backbone import GIVEN, create
from dyt.assembly.plan import tuner_of
from dyt.config.spec import BackboneSpec, DyTSpec
from dyt.core.data_config import own_size
from dyt.errors import CheckpointError, SpecError, WeightsError
from dyt.io.foreign import unmade
from dyt.io.header import Header, refusal
from dyt.model.dynamic import DynamicModel
from dyt.model.origin import fingerprint

FINGERPRINT = "backbone_sha256"
"""The metadata entry with the fingerprint of the frozen backbone; absent where the file has all of it."""
BACKBONE = "backbone"
"""The metadata entry with other backbone tensors in the file: `whole`, or names as JSON; absent if there are none."""
SIZED = "resizable"
"""The metadata entry, as JSON, with the image size and a fingerprint without the tensors that depend on it."""
WHOLE = "whole"


def frozen_entries(model: DynamicModel, also: Collection[str], every: bool, whole: bool) -> dict[str, str]:
    """The metadata about the backbone.

    Args:
        model: the model that is saved.
        also: plain names of other backbone tensors in the file.
        every: whether the file has the whole backbone.
        whole: whether it has the whole backbone although the spec alone does not require it.
    """
    entries = {BACKBONE: WHOLE if whole else json.dumps(list(also))} if whole or also else {}
    if every:
        return entries
    parts = model.backbone, model.tuner, model.spec.modules_to_save, also
    entries[FINGERPRINT] = fingerprint(*parts)
    sized = {"sha256": fingerprint(*parts, sized=False), "size": own_size(model.backbone)}
    entries[SIZED] = json.dumps(sized)
    return entries


@dataclass(frozen=True)
class Kept:
    """The part of the backbone that a file has, and how it identifies the rest.

    Attributes:
        every: whether the file has the whole backbone.
        whole: whether it has the whole backbone although the spec alone does not require it.
        also: plain names of other backbone tensors in the file.
        sha256: fingerprint of the rest; None where there is none.
        unsized: fingerprint of the rest without the tensors that depend on the image size; None in older files.
        size: image size (H, W) of the backbone, in pixels; None if it has none, and in older files.
    """

    every: bool
    whole: bool
    also: tuple[str, ...]
    sha256: str | None
    unsized: str | None
    size: tuple[int, ...] | None

    @classmethod
    def read(cls, header: Header, spec: DyTSpec) -> Kept:
        """From a file's header.

        Raises:
            CheckpointError: entries that cannot be used.
        """
        told = header.metadata.get(BACKBONE)
        names = [] if told in {None, WHOLE} else header.decoded(BACKBONE)
        sized = header.decoded(SIZED, "{}")
        wrong = (
            f"{BACKBONE} is '{WHOLE}', or a list of names of tensors"
            if not isinstance(names, list) or not all(f"backbone.{name}" in header.tensors for name in names)
            else _wrong_size(sized)
        )
        if wrong is not None:
            raise refusal(header.path, f": its entries on the backbone cannot be used: {wrong}")
        size = sized.get("size")
        whole = told == WHOLE
        every = whole or spec.trainable == "full"
        size = None if size is None else tuple(size)
        return cls(every, whole, tuple(names), header.metadata.get(FINGERPRINT), sized.get("sha256"), size)

    def with_weights(self, spec: DyTSpec, weights: str | Path | None, path: str | Path) -> DyTSpec:
        """The spec with the current location of its weights.

        Raises:
            CheckpointError: weights for a file that has them, or none where they are needed.
            WeightsError: the weights file no longer exists at its path.
        """
        given = spec.backbone.weights if weights is None else str(weights)
        if self.every:
            if weights is not None:
                raise CheckpointError(f"'{path}' has its whole backbone, and takes no weights; leave weights= out")
            return spec
        if given in {"none", GIVEN}:
            what = f"a backbone with weights: none ({spec.backbone.name})"
            what = f"a {spec.backbone.name} that was given" if given == GIVEN else what
            raise refusal(
                path,
                f"was made on {what}, which is not in the file; give load(..., backbone=) the timm model it was made "
                f"on, or weights= the file of its weights",
            )
        if given != "pretrained" and not Path(given).is_file():
            raise WeightsError(
                f"'{path}' was made on weights from a file, and there is no file '{given}'; give load(..., weights=) "
                f"or --weights the place where it is now"
            )
        return _with(spec, weights=given)

    def made(self, spec: DyTSpec, path: str | Path) -> nn.Module:
        """The backbone of the spec, plain.

        Raises:
            CheckpointError: one that timm does not make by its name.
            WeightsError, UnsupportedError: as `dyt.build`.
        """
        wanted = spec.backbone.model_copy(update={"weights": "none"}) if self.every else spec.backbone
        try:
            return create(wanted, spec.head.classifier)[0]
        except SpecError as error:
            raise unmade(path, spec.backbone.name, error) from error

    def check(self, backbone: nn.Module, spec: DyTSpec, path: str | Path, resizable: bool = False) -> DyTSpec:
        """Refuses a plain backbone other than that of the file.

        Args:
            resizable: whether it may be made for another image size; the spec then says so.

        Returns:
            The spec of the model on this backbone.

        Raises:
            CheckpointError: its frozen weights differ.
        """
        if self.every:
            return spec
        parts = backbone, tuner_of(spec), spec.modules_to_save, self.also
        given, size = fingerprint(*parts), own_size(backbone)
        resized = resizable and None not in {size, self.size} and size != self.size
        if given == self.sha256 or (resized and fingerprint(*parts, sized=False) == self.unsized):
            return _with(spec, args={**spec.backbone.args, "img_size": list(size or ())}) if resized else spec
        raise refusal(
            path,
            f"was made on another backbone ({spec.backbone.name}, weights {spec.backbone.weights}): the "
            f"frozen weights differ (sha256 {str(self.sha256)[:12]}, given {given[:12]})",
        )


def _wrong_size(sized: Any) -> str | None:
    if not isinstance(sized, dict):
        return f"{SIZED} is a mapping"
    size, sha256 = sized.get("size"), sized.get("sha256")
    pair = isinstance(size, list) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not pair and size is not None:
        return f"{SIZED}.size is two whole numbers above 0"
    return None if sha256 is None or isinstance(sha256, str) else f"{SIZED}.sha256 is a string"


def _with(spec: DyTSpec, **changes: object) -> DyTSpec:
    backbone: BackboneSpec = spec.backbone.model_copy(update=changes)
    return spec.model_copy(update={"backbone": backbone})
