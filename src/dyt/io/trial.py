"""The model of a file, first without memory: what it would take, and whether the file's tensors are those it has."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import torch
from torch import Tensor, nn

from dyt.assembly.backbone import faults, on_meta, with_windows
from dyt.assembly.build import apply
from dyt.assembly.plan import plan
from dyt.config.spec import BackboneSpec, DyTSpec
from dyt.core.twins import without_memory
from dyt.core.versions import reset_classifier
from dyt.errors import CheckpointError, SpecError
from dyt.io.bounded import Bounded
from dyt.io.foreign import architecture, size_of, unmade
from dyt.io.header import Header, is_threshold, refusal
from dyt.model.tensors import stored

TIMES, SPARE = 4, 1 << 28
"""A backbone may be so many times as large as its architecture is by itself and the file together, and bytes beyond."""


def tried(
    spec: DyTSpec,
    header: Header,
    every: bool,
    also: Collection[str],
    backbone: nn.Module | None,
    check_sites: Callable[[Collection[str]], None] | None = None,
) -> None:
    """Refuses a file whose tensors are not those of its spec's model, which takes no memory here.

    Args:
        spec: the file's.
        header: the file's.
        every: whether the file has the whole backbone.
        also: plain names of other tensors of the backbone in the file.
        backbone: the one that is given; None for that of the spec.
        check_sites: given the names of the model's sites; refuses a file that speaks of others.

    Raises:
        CheckpointError: with the first tensors that differ, or why there is no such model.
    """
    path = header.path
    try:
        with Bounded(len(header.tensors)), torch.device("meta"):
            twin = _plain(spec, header) if backbone is None else without_memory(backbone)
            reset_classifier(twin, spec.head.classifier)
            model = apply(plan(spec, twin))
            wanted = stored(model, every, also)
    except CheckpointError:
        raise
    except Exception as error:  # whatever torch, timm or a component raises of a stranger's spec becomes the one answer
        raise refusal(path, f"does not fit its spec, which makes no model: {error or type(error).__name__}") from error
    # peft gives its tensors the layer's dtype where they have memory alone: those are compared in the real model
    known = {key: t for key, t in wanted.items() if not key.startswith("tuner.")}
    wrong = faults(wanted, header.tensors) or _other_types(known, header.tensors)
    if wrong:
        raise refusal(path, f"does not fit its spec: tensors {wrong}")
    if check_sites is not None:
        check_sites([site.name for site in model.sites])


def _plain(spec: DyTSpec, header: Header) -> nn.Module:
    asked = spec.backbone
    try:
        made = on_meta(asked.name, **{**asked.args, "num_classes": spec.head.classifier})
    except SpecError as error:
        raise unmade(header.path, asked.name, error) from error
    size = size_of(made)
    most = size if not asked.args else TIMES * (architecture(asked.name, header.path).size + header.bytes) + SPARE
    if size > most:
        raise refusal(
            header.path,
            f"does not fit its spec: its backbone takes {size:,} bytes, and at most {most:,} of a "
            f"{asked.name} in a file of this size; give load(..., backbone=) the timm model",
        )
    with_windows(made, BackboneSpec.model_validate(asked))
    dtypes = floating(header.tensors)
    return made.to(dtypes.pop()) if len(dtypes) == 1 else made


def floating(tensors: Mapping[str, Tensor]) -> set[torch.dtype]:
    """The floating dtypes of stored tensors; of thresholds and what counts none."""
    return {t.dtype for key, t in tensors.items() if t.is_floating_point() and not is_threshold(key)}


def check_types(wanted: Mapping[str, Tensor], header: Header) -> None:
    """Refuses a file with tensors of other dtypes than its model's.

    Raises:
        CheckpointError: naming the first.
    """
    wrong = _other_types(wanted, header.tensors)
    if wrong:
        raise refusal(header.path, f"does not fit its spec: tensors {wrong}")


def _other_types(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Names the first tensor whose dtype differs; empty if none does."""
    wrong = (
        f"{key} is {given[key].dtype}, not {t.dtype}"
        for key, t in wanted.items()
        if given[key].dtype != t.dtype and not (is_threshold(key) and given[key].is_floating_point())
    )
    return next(wrong, "")
