"""Saving: trainable tensors and spec in one safetensors file. All or nothing. (`loading` reads it.)"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from torch import nn

from dyt.config.spec import DyTSpec
from dyt.core import data_config
from dyt.core.holding import flat
from dyt.core.offloading import all_at_hand, plain_tensor
from dyt.errors import CheckpointError, UnsupportedError
from dyt.heads import Classifier
from dyt.io import budgets
from dyt.io.header import FORMAT, VERSION
from dyt.io.kept import frozen_entries
from dyt.io.loading import BREAK_EVEN, load
from dyt.io.tensor_file import write
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.origin import CHECKSUM, checksum, fingerprint
from dyt.model.tensors import plain_state, put, stored
from dyt.writing import check_target
from dyt.writing import whole as whole_file

__all__ = ["CHECKSUM", "checksum", "fingerprint", "load", "plain_state", "put", "save", "stored"]


def save(model: nn.Module, path: str | Path, *, whole: bool | None = None) -> None:
    """Writes the spec and the adapters, dispatchers, thresholds, reducers, head, and what a tuner trains.

    Of the backbone it writes `modules_to_save` and everything else that was trained or changed since the model was
    built, so that loading gives an equal model; with `trainable: full` or `whole` all of it. Stored keys, such as
    `sites.blocks.3.mlp.adapter.down.weight`, `tuner.blocks.3.attn.qkv.lora_A.weight` and `backbone.head.weight`, do
    not depend on how modules nest. The metadata has the results of `dyt.calibrate_break_even` and
    `dyt.calibrate_budgets`, and the data that the model was trained on (`model.data_config`). An equal model
    gives the same bytes. The file is written elsewhere and then moved into place, so that an
    interrupted save leaves the old file intact (`dyt.writing.whole`).

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
    check_flat(model)
    with all_at_hand(inside):
        _save(inside, Path(path), whole)


def check_flat(model: nn.Module) -> None:
    """Refuses a model whose parameters cannot be told apart, for what writes them.

    Raises:
        UnsupportedError: naming torch's other ways.
    """
    if flat(model):
        raise UnsupportedError(
            "save: parameters are in the flat shards of FullyShardedDataParallel; shard with torch's fully_shard, or "
            "save .module of a model wrapped as a whole inside FullyShardedDataParallel.summon_full_params(model)"
        )


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
    metadata |= budgets.entry(model)
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
