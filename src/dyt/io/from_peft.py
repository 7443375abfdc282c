"""LoRA from a folder of Hugging Face's PEFT, which may be from anyone."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from dyt.assembly.backbone import described, head_names
from dyt.assembly.compatibility import known_family
from dyt.config.presets import preset
from dyt.config.spec import DyTSpec, parse
from dyt.core.interop import HuggingFaceModel
from dyt.core.randomness import untouched
from dyt.errors import CheckpointError, SpecError, quoted
from dyt.io.foreign import check_spec
from dyt.io.header import Header, read_any_header, read_any_tensors, refusal
from dyt.io.loading import check_finite, filled, given_backbone
from dyt.io.peft_config import CONFIG, PICKLE, PREFIX, TENSORS, UPDATE, LoRAConfig, read_config
from dyt.io.trial import tried
from dyt.model.dynamic import DynamicModel
from dyt.model.parts import head_keys
from dyt.model.tensors import plain_state, within


@untouched()
def from_peft(folder: str | Path, backbone: nn.Module, *, allow_nonfinite: bool = False) -> DynamicModel:
    """Loads what `peft.PeftModel.save_pretrained` wrote of LoRA on a timm model, as a model with tuner `lora`.

    The folder may be from anyone: no pickle is read, and nothing that it names is opened, a `base_model_name_or_path`
    neither. Which layers are adapted is told by the names of the tensors. Names, shapes and dtypes are known to fit
    before the backbone is changed. The generators of random numbers are left as they were.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        backbone: the plain timm model that was adapted, with its weights and in the dtype of the folder's tensors
            (float32, unless PEFT was told otherwise); changed in place. Its classifier is replaced by that in the
            folder, and stays where there is none in it.
        allow_nonfinite: load tensors with infinities and NaNs as well.

    Returns:
        A model with the same outputs, in eval mode: dispatcher `always`, adapter `none`. Its spec has
        `weights: given`, so that `dyt.load` of a saved one needs `backbone=`.

    Raises:
        CheckpointError: no such folder; another method than LoRA, or a variant of it, by the name of its field; other
            layers in one block than in another; missing, unknown, wrongly shaped or non-finite tensors, by name; a
            model that is no plain timm model. The backbone is then as it was.
    """
    folder = _checked(folder)
    config, header = read_config(folder / CONFIG), read_any_header(folder / TENSORS)
    backbone = given_backbone(backbone, preset("lora"))
    if isinstance(backbone, HuggingFaceModel):
        raise CheckpointError(f"'{folder}': from_peft takes a timm model, not one of transformers")
    spec, names = _read(config, header, backbone)
    tensors = read_any_tensors(header)
    if not allow_nonfinite:
        check_finite(tensors, header, "from_peft")
    ours = {names[key]: tensor for key, tensor in tensors.items()} | _absent(names, backbone)
    named = Header(header.path, {}, {key: torch.empty_like(t, device="meta") for key, t in ours.items()})
    check_spec(spec, named, trusted=False)
    tried(spec, named, False, (), backbone)
    return filled(spec, backbone, named, ours).eval()


def _checked(given: str | Path) -> Path:
    if not isinstance(given, (str, os.PathLike)):
        raise CheckpointError(f"from_peft takes a folder, not {quoted(given)}")
    folder = Path(given)
    if not os.path.isdir(folder):
        raise CheckpointError(f"no folder '{folder}'; give one that PeftModel.save_pretrained wrote")
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            pickled = name == TENSORS and (folder / PICKLE).exists()
            what = f"; its '{PICKLE}' is a pickle, which is not read: save it with safe_serialization=True"
            raise CheckpointError(f"no file '{name}' in folder '{folder}'{what if pickled else ''}")
    return folder


def _read(config: LoRAConfig, header: Header, backbone: nn.Module) -> tuple[DyTSpec, Mapping[str, str]]:
    """The spec, and our stored keys by the names in the file.

    Raises:
        CheckpointError: as `from_peft`.
    """
    path, plain = header.path, plain_state(backbone)
    own = tuple({name.rpartition(".")[0] for name in head_keys(backbone)} or head_names(backbone))
    layers: dict[str, None] = {}
    names, others, classes = {}, [], getattr(backbone, "num_classes", 0)
    for key, tensor in header.tensors.items():
        name = key.removeprefix(PREFIX)
        update = UPDATE.fullmatch(name)
        if key == name:
            raise refusal(path, f"has a tensor {quoted(key)}, which is none of PEFT's ('{PREFIX}...')")
        if update is not None:
            layers[update[1]] = None
        elif within(name, own):
            classes = tensor.shape[0] if tensor.ndim else classes
        elif name in plain:
            others.append(name)
        else:
            raise refusal(path, f"has a tensor {quoted(key, 200)}, which is no part of LoRA on this backbone")
        names[key] = f"backbone.{name}" if update is None else f"tuner.{name}"
    said = {
        "tuner": {
            "type": "lora",
            "rank": config.rank,
            "alpha": config.alpha,
            "dropout": config.dropout,
            "targets": _targets(layers, backbone, path),
        },
        "modules_to_save": _modules(config, others, backbone, path),
        "head": {"num_classes": classes},
    }
    try:
        spec = parse(DyTSpec, preset("lora").model_dump(mode="json", exclude_unset=True) | said)
    except SpecError as error:
        raise refusal(path.with_name(CONFIG), f"cannot be used: {error}") from error
    return spec.model_copy(update={"backbone": described(backbone, spec.backbone)}), names


def _targets(layers: Collection[str], backbone: nn.Module, path: Path) -> list[str]:
    """Paths inside a block of the adapted layers, which every block has alike.

    Raises:
        CheckpointError: none, one outside of the blocks, or one that other blocks do not have.
    """
    found: dict[str, set[str]] = {block: set() for block in known_family(backbone).blocks(backbone)}
    deepest = max(block.count(".") for block in found) + 1
    for layer in layers:
        parts = layer.split(".")
        ends = (end for end in range(1, min(len(parts), deepest + 1)) if ".".join(parts[:end]) in found)
        end = next(ends, None)
        if end is None:
            raise refusal(path, f"adapts {quoted(layer)}, which is in no block; tuner lora adapts layers of blocks")
        found[".".join(parts[:end])].add(".".join(parts[end:]))
    every: set[str] = set().union(*found.values())
    for block, targets in found.items():
        missing = min(every - targets, default=None)
        if missing is not None:
            other = next(name for name, more in found.items() if missing in more)
            raise refusal(
                path,
                f"adapts {quoted(missing)} in {other} and not in {block}; tuner lora adapts the same layers of every "
                f"block",
            )
    if not layers:
        raise refusal(path, f"has no low-rank update ('{PREFIX}...lora_A.weight')")
    return sorted(every)


def _modules(config: LoRAConfig, tensors: Sequence[str], backbone: nn.Module, path: Path) -> list[str]:
    """Modules of the backbone that the config saves, by the plain names of their tensors in the file.

    Raises:
        CheckpointError: a tensor of none of them.
    """
    left, found = set(tensors), list[str]()
    for name, _ in backbone.named_modules():
        if name and left and name.endswith(config.modules_to_save) and not within(name, found):
            inside = {tensor for tensor in left if within(tensor, [name])}
            found += [name] if inside else []
            left -= inside
    if left:
        raise refusal(path, f"has a tensor {quoted(min(left))} of a module that its modules_to_save does not name")
    return found


def _absent(names: Mapping[str, str], backbone: nn.Module) -> dict[str, Tensor]:
    """What such a folder does not have, by stored key: thresholds, and the classifier where it has none at all."""
    tensors = {f"sites.{block}.mlp.threshold": torch.zeros(()) for block in known_family(backbone).blocks(backbone)}
    own, plain = head_keys(backbone), plain_state(backbone)
    heads = {f"backbone.{key}": plain[key].detach() for key in own}
    return tensors if heads.keys() & set(names.values()) else tensors | heads
