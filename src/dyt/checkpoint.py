"""Saving and loading: trainable tensors and spec in one safetensors file. All or nothing, and never unpickling."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from dyt import families
from dyt.assemble import build, tuner_of
from dyt.backbone import create, faults
from dyt.breakeven import BreakEven
from dyt.bridges import bridged
from dyt.errors import CheckpointError
from dyt.model import DynamicModel, head_keys, tuned_keys
from dyt.reducers import Stage
from dyt.site import Site
from dyt.spec import DyTSpec, parse
from dyt.tuners.base import Tuner
from dyt.versions import reset_classifier

FORMAT, VERSION = "dyt", "1"
BREAK_EVEN = "break_even"
"""The metadata entry with what `dyt.calibrate` found, as JSON by site name; absent where nothing was calibrated."""
CHECKSUM = "sha256"
"""The metadata entry with the checksum of all the rest; safetensors has none of its own."""


def save(model: DynamicModel, path: str | Path) -> None:
    """Writes the spec and the adapters, dispatchers, thresholds, reducers, head, and what a tuner trains.

    With `trainable: full` the whole model. Stored keys are `sites.blocks.3.mlp.adapter.down.weight`,
    `tuner.blocks.3.attn.qkv.lora_A.weight` and `backbone.head.weight`, independent of how modules nest. What
    `dyt.calibrate` found is in the metadata. The file is written beside its place and moved there whole, so that an
    interrupted save leaves what was there.

    Raises:
        CheckpointError: a directory that does not exist, or a model that was optimised.
    """
    path, reason = Path(path), model.save_refusal()
    if reason is not None:
        raise CheckpointError(f"cannot save this model to '{path}': {reason}")
    if not path.parent.is_dir():
        raise CheckpointError(f"cannot save to '{path}': no directory '{path.parent}'")
    tensors = {key: t.detach().cpu().contiguous().clone() for key, t in stored(model).items()}
    metadata = {"format": FORMAT, "version": VERSION, "spec": model.spec.model_dump_json()}
    found = {site.name: asdict(site.break_even) for site in model.sites if site.break_even is not None}
    if found:
        metadata[BREAK_EVEN] = json.dumps(found)
    if model.spec.trainable != "full":
        metadata["backbone_sha256"] = fingerprint(model.backbone, model.tuner)
    metadata[CHECKSUM] = checksum(tensors, metadata)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def load(path: str | Path, backbone: nn.Module | None = None) -> DynamicModel:
    """Loads a model that `save` wrote.

    Args:
        path: the file.
        backbone: the plain timm model to wrap (or that of transformers, as for `build`), changed in place once
            everything is known to fit; its head is replaced by the stored one. Needed for a spec with `weights: none`.
            Without it the spec's backbone is made.

    Returns:
        A model equal to the saved one, in eval mode.

    Raises:
        CheckpointError: not such a file, of another version, with missing, unknown or wrongly shaped tensors, or made
            for another backbone. Nothing was changed.
    """
    metadata, tensors = _read(Path(path))
    try:
        spec = parse(DyTSpec, json.loads(metadata["spec"]))
    except (KeyError, ValueError, RecursionError) as error:  # a SpecError is a ValueError
        raise CheckpointError(f"'{path}': its spec cannot be used: {error}") from error
    calibrated = _break_evens(metadata, path)
    full = spec.trainable == "full"
    if backbone is None:
        if spec.backbone.weights == "none" and not full:
            raise CheckpointError(
                f"'{path}' was made on a backbone with weights: none, which is not in the file; "
                f"give load(..., backbone=) the timm model it was made on"
            )
        backbone = create(
            spec.backbone.model_copy(update={"weights": "none"}) if full else spec.backbone, spec.head.classifier
        )[0]
        dtypes = {t.dtype for t in tensors.values() if t.is_floating_point()}  # a batch norm counts its batches
        backbone = backbone.to(dtypes.pop()) if len(dtypes) == 1 else backbone
    else:
        backbone, _ = bridged(backbone, spec.head.classifier)
        if families.find(backbone) is None:
            raise CheckpointError(
                f"the given backbone is a {type(backbone).__name__}, not a plain timm model that a family knows"
            )
    given = None if full else fingerprint(backbone, tuner_of(spec))
    if not full and metadata.get("backbone_sha256") != given:
        raise CheckpointError(
            f"'{path}' was made on another backbone ({spec.backbone.name}, weights {spec.backbone.weights}): the "
            f"frozen weights differ (sha256 {str(metadata.get('backbone_sha256'))[:12]}, given {str(given)[:12]})"
        )
    twin = _twin(backbone)
    reset_classifier(twin, spec.head.classifier)
    wanted = stored(build(spec, backbone=twin))
    wrong = faults(wanted, tensors) or _other_types(wanted, tensors)
    if wrong:
        raise CheckpointError(f"'{path}' does not fit its spec: tensors {wrong}")
    if backbone.num_classes != spec.head.classifier:
        reset_classifier(backbone, spec.head.classifier)
    model = build(spec, backbone=backbone)
    put(model, tensors)
    for site in model.sites:
        site.break_even = calibrated.get(site.name)
    return model.eval()


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
    """In words, the first tensor whose dtype differs; empty when none does."""
    wrong = (f"{key} is {given[key].dtype}, not {t.dtype}" for key, t in wanted.items() if given[key].dtype != t.dtype)
    return next(wrong, "")


def stored(model: DynamicModel, whole: bool | None = None) -> dict[str, Tensor]:
    """Live tensors by stored key: sites, reducers, what the tuner trains, the head, and if `whole` the backbone.

    `whole` None: as the spec says.
    """
    whole = model.spec.trainable == "full" if whole is None else whole
    sites = {f"sites.{site.name}.{k}": v for site in model.sites for k, v in site.state_dict(keep_vars=True).items()}
    for stage in model.stages:
        sites |= {f"reducers.{stage.name}.{k}": v for k, v in stage.reducer_state().items()}
    head, tuner, tuned = head_keys(model.backbone), model.tuner, {}
    if tuner is not None:
        parameters = dict(model.backbone.named_parameters())
        tuned = {f"tuner.{tuner.stored(k)}": parameters[k] for k in sorted(tuned_keys(model.backbone, tuner))}
    plain = plain_state(model.backbone, tuner)
    behind = {f"head.{k}": v for k, v in model.head.state_dict(keep_vars=True).items()}
    return sites | tuned | behind | {f"backbone.{k}": v for k, v in plain.items() if whole or k in head}


def put(model: DynamicModel, tensors: Mapping[str, Tensor], whole: bool | None = None) -> None:
    """Copies tensors by stored key into the model; all of `stored(model, whole)` must be there."""
    with torch.no_grad():
        for key, target in stored(model, whole).items():
            target.copy_(tensors[key])


def plain_state(backbone: nn.Module, tuner: Tuner | None = None) -> dict[str, Tensor]:
    """The backbone's state dict without what is ours, or the tuner's that it was tuned by: timm's keys alone."""
    ours = {f"{name}." for name, module in backbone.named_modules() if isinstance(module, (Site, Stage))}
    named = backbone.state_dict(keep_vars=True).items()
    theirs = {k: v for k, v in named if not k.startswith(tuple(ours) or ("\0",))}
    if tuner is None:
        return theirs
    return {plain: v for k, v in theirs.items() if (plain := tuner.plain(k)) is not None}


def fingerprint(backbone: nn.Module, tuner: Tuner | None = None) -> str:
    """sha256 over the names, shapes, dtypes and values of the backbone's tensors, under their plain names.

    Left out are the head, our sites, and what the tuner adds or trains: a tuned backbone and the plain one that it was
    made of have the same.
    """
    aside = head_keys(backbone) | tuned_keys(backbone, tuner)
    return checksum({key: tensor for key, tensor in plain_state(backbone, tuner).items() if key not in aside}, {})


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over names, shapes, dtypes and values of tensors, and over all metadata but the checksum itself."""
    digest = hashlib.sha256()
    for entry, text in sorted(metadata.items()):
        if entry != CHECKSUM:
            digest.update(f"{entry} {text}\n".encode())
    for key, tensor in sorted(tensors.items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{key} {tuple(plain.shape)} {plain.dtype}\n".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()


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


def _twin(backbone: nn.Module) -> nn.Module:
    """A copy of the backbone without memory, to try things on."""
    tensors = [*backbone.parameters(), *backbone.buffers()]
    memo: dict[int, Any] = {id(t): torch.empty_like(t, device="meta") for t in tensors}
    for parameter in backbone.parameters():
        memo[id(parameter)] = nn.Parameter(memo[id(parameter)], parameter.requires_grad)
    return copy.deepcopy(backbone, memo)


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
