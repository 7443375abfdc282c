"""Saving and loading: trainable tensors and spec in one safetensors file. All or nothing, and never unpickling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from dyt import families
from dyt.assembly.backbone import faults
from dyt.assembly.build import apply
from dyt.assembly.compatibility import is_dynamic
from dyt.assembly.plan import plan
from dyt.assembly.rollback import rollback
from dyt.config.spec import DyTSpec, parse
from dyt.core import data_config
from dyt.core.breakeven import BreakEven
from dyt.core.holding import flat
from dyt.core.interop import bridged
from dyt.core.offloading import all_at_hand, plain_tensor
from dyt.core.randomness import untouched
from dyt.core.twins import without_memory
from dyt.core.versions import reset_classifier
from dyt.errors import CheckpointError, UnsupportedError
from dyt.heads import Classifier
from dyt.io.kept import Kept, frozen_entries
from dyt.io.tensor_file import write
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.origin import CHECKSUM, checksum, fingerprint
from dyt.model.tensors import plain_state, put, stored
from dyt.writing import check_target
from dyt.writing import whole as whole_file

__all__ = ["CHECKSUM", "checksum", "fingerprint", "load", "plain_state", "put", "save", "stored"]

FORMAT, VERSION = "dyt", "1"
BREAK_EVEN = "break_even"
"""The metadata entry with the result of `dyt.calibrate_break_even`, as JSON by site name; absent before it."""


def save(model: nn.Module, path: str | Path, *, whole: bool | None = None) -> None:
    """Writes the spec and the adapters, dispatchers, thresholds, reducers, head, and what a tuner trains.

    Of the backbone it writes `modules_to_save` and everything else that was trained or changed since the model was
    built, so that loading gives an equal model; with `trainable: full` or `whole` all of it. Stored keys, such as
    `sites.blocks.3.mlp.adapter.down.weight`, `tuner.blocks.3.attn.qkv.lora_A.weight` and `backbone.head.weight`, do
    not depend on how modules nest. The metadata has the result of `dyt.calibrate_break_even`, and the data that the
    model was trained on (`model.data_config`). An equal model gives the same bytes. The file is written elsewhere and
    then moved into place, so that an interrupted save leaves the old file intact (`dyt.writing.whole`).

    Args:
        model: the dynamic model, or a wrapper around it. Tensors that are sharded over ranks are gathered: call it
            on all ranks. Each rank that calls it writes the same file.
        path: the file.
        whole: store the whole backbone, so that loading needs neither its weights nor `backbone=`. None does so if
            the model was loaded from such a file.

    Raises:
        CheckpointError: a file that cannot be written; a model that was optimised; or one that loading could not
            reproduce, by name (`model.save_refusal()` tells beforehand). Nothing was written.
        DyTError: not one dynamic model.
        UnsupportedError: a tensor that cannot be stored: without values, or packed by a quantisation.
    """
    inside = dynamic_of(model)
    if flat(model):
        raise UnsupportedError(
            "save: parameters are in the flat shards of FullyShardedDataParallel; shard with torch's fully_shard, or "
            "save .module of a model wrapped as a whole inside FullyShardedDataParallel.summon_full_params(model)"
        )
    with all_at_hand(inside):
        _save(inside, Path(path), whole)


def _save(model: DynamicModel, path: Path, whole: bool | None) -> None:
    reason = model.save_refusal()
    if reason is not None:
        raise CheckpointError(f"cannot save this model to '{path}': {reason}")
    check_target(path, CheckpointError)
    spec, origin = spec_of(model), model.origin
    whole = (origin is not None and origin.whole) if whole is None else whole
    every = whole or spec.trainable == "full"
    also = () if every or origin is None else origin.changed(model)
    tensors = {key: plain_tensor(t, key).clone() for key, t in stored(model, every, also).items()}
    metadata = {"format": FORMAT, "version": VERSION, "spec": spec.model_dump_json()}
    found = {site.name: asdict(site.break_even) for site in model.sites if site.break_even is not None}
    if found:
        metadata[BREAK_EVEN] = json.dumps(found)
    metadata |= data_config.entry(model.backbone)
    metadata |= frozen_entries(model, also, every, whole)
    metadata[CHECKSUM] = checksum(tensors, metadata)
    with whole_file(path, CheckpointError) as draft:
        write(tensors, metadata, draft)


def spec_of(model: DynamicModel) -> DyTSpec:
    """The model's spec, with the current number of classes of its classifier."""
    classes = getattr(model.backbone, "num_classes", model.spec.head.classifier)
    if type(model.head) is not Classifier or classes == model.spec.head.num_classes:
        return model.spec
    return model.spec.model_copy(update={"head": model.spec.head.model_copy(update={"num_classes": classes})})


@untouched()
def load(path: str | Path, backbone: nn.Module | None = None, weights: str | Path | None = None) -> DynamicModel:
    """Loads a model that `save` wrote. The generators of random numbers are left as they were.

    Args:
        path: the file.
        backbone: the plain timm model to wrap (or that of transformers, as for `build`), changed in place after
            everything has been checked; its head is replaced by the stored one. It may have another image size.
            Needed for a spec with `weights: none` or `given`, unless the file has the whole backbone. Without it the
            spec's backbone is created.
        weights: the current location of the spec's weights, as `backbone.weights` of a spec: a file, or `pretrained`.

    Returns:
        A model equal to the saved one, in eval mode. On a backbone of another image size its position embeddings are
        that backbone's.

    Raises:
        CheckpointError: not such a file, of another version, with missing, unknown or wrongly shaped tensors, or made
            for another backbone. Nothing was changed.
        WeightsError: weights that are not available.
    """
    metadata, tensors = _read(Path(path))
    try:
        spec = parse(DyTSpec, json.loads(metadata["spec"]))
    except (KeyError, ValueError, RecursionError) as error:  # a SpecError is a ValueError
        raise CheckpointError(f"'{path}': its spec cannot be used: {error}") from error
    calibrated, kept = _break_evens(metadata, path), Kept.read(metadata, spec, path)
    config = data_config.of_file(metadata, path, spec.head.num_classes)
    if backbone is None:
        spec = kept.with_weights(spec, weights, path)
        backbone = kept.made(spec, path)
        # thresholds are float32 in any model, and a batch norm counts its batches
        dtypes = {t.dtype for key, t in tensors.items() if t.is_floating_point() and not _is_threshold(key)}
        backbone = backbone.to(dtypes.pop()) if len(dtypes) == 1 else backbone
        kept.check(backbone, spec, path)
    elif weights is not None:
        raise CheckpointError(f"'{path}': give backbone= or weights=, not both; a backbone has its weights")
    else:
        backbone = _given(backbone, spec)
        spec = kept.check(backbone, spec, path, resizable=True)
    twin = without_memory(backbone)
    reset_classifier(twin, spec.head.classifier)
    wanted = stored(apply(plan(spec, twin)), kept.every, kept.also)
    wrong = faults(wanted, tensors) or _other_types(wanted, tensors)
    if wrong:
        raise CheckpointError(f"'{path}' does not fit its spec: tensors {wrong}")
    with rollback(backbone):
        if backbone.num_classes != spec.head.classifier:
            reset_classifier(backbone, spec.head.classifier)
        model = apply(plan(spec, backbone))
    put(model, tensors, kept.every, kept.also)
    if kept.whole and model.origin is not None:
        model.origin = model.origin.again(model, whole=True)
    for site in model.sites:
        site.break_even = calibrated.get(site.name)
    if config is not None:
        data_config.attach(model.backbone, config)
    return model.eval()


def _given(backbone: nn.Module, spec: DyTSpec) -> nn.Module:
    if is_dynamic(backbone):
        raise CheckpointError(
            f"the given backbone, a {type(backbone).__name__}, is already dynamic; give the plain timm model that the "
            f"file was made on (dyt.unwrap makes it one again)"
        )
    backbone, _ = bridged(backbone, spec.head.classifier)
    if families.find(backbone) is None:
        raise CheckpointError(
            f"the given backbone is a {type(backbone).__name__}, not a plain timm model that a family knows"
        )
    return backbone


def _break_evens(metadata: Mapping[str, str], path: str | Path) -> dict[str, BreakEven]:
    try:
        found = json.loads(metadata.get(BREAK_EVEN, "{}"))
        return {
            name: BreakEven(tuple(each["batches"]), tuple(each["shares"]), each["expected"])
            for name, each in found.items()
        }
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a DyTError is a ValueError
        raise CheckpointError(f"'{path}': its break-even cannot be used: {error}") from error


def _other_types(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """Names the first tensor whose dtype differs; empty if none does."""
    wrong = (
        f"{key} is {given[key].dtype}, not {t.dtype}"
        for key, t in wanted.items()
        if given[key].dtype != t.dtype and not (_is_threshold(key) and given[key].is_floating_point())
    )
    return next(wrong, "")


def _is_threshold(key: str) -> bool:
    """Whether a stored key is a site's threshold, which older files have in the model's dtype."""
    return key.startswith("sites.") and key.endswith(".threshold")


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    if not path.is_file():
        raise CheckpointError(f"no file '{path}'")
    try:
        with safe_open(path, "pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is not a safetensors file, or is cut off: {error}") from error
    if metadata.get("format") != FORMAT:
        raise CheckpointError(f"'{path}' was not written by dyt.save; plain weights go into backbone.weights of a spec")
    if metadata.get("version") != VERSION:
        raise CheckpointError(
            f"'{path}' has format version {metadata.get('version')}, this dyt reads {VERSION}; upgrade dyt"
        )
    if metadata.get(CHECKSUM) != checksum(tensors, metadata):
        raise CheckpointError(f"'{path}' is damaged: its checksum does not match; copy or download it again")
    return metadata, tensors
