"""LoRA as a folder of Hugging Face's PEFT, which `peft.PeftModel.from_pretrained` loads."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt.assembly.compatibility import known_family
from dyt.assembly.merging import beside_backbone
from dyt.assembly.undo import Unwrapped, unwrap
from dyt.core.interop import HuggingFaceModel
from dyt.core.offloading import all_at_hand, plain_tensor
from dyt.core.twins import without_memory
from dyt.errors import CheckpointError, UnsupportedError, shortened
from dyt.io.checkpoint import check_flat
from dyt.io.peft_config import CONFIG, PREFIX, TENSORS, UPDATE
from dyt.io.tensor_file import write
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.parts import classifiers, head_keys
from dyt.model.tensors import plain_state, stored, within
from dyt.tuners import LoRASpec
from dyt.writing import whole, write_text


def to_peft(model: nn.Module, folder: str | Path) -> None:
    """Writes a model with tuner `lora` as a folder that `peft.PeftModel.from_pretrained(timm_model, folder)` loads.

    There are `adapter_config.json` and `adapter_model.safetensors` in it, with the low-rank matrices, the classifier
    and the spec's `modules_to_save`, bit by bit. `timm_model` is the plain model that this one was built on, with as
    many classes. Files of these names in the folder are replaced; it is made where there is none.

    Args:
        model: the dynamic model, or what wraps it, with dispatcher `always` and adapter `none`, as preset `lora`.
        folder: the folder.

    Raises:
        UnsupportedError: what PEFT cannot hold, by name: another dispatcher, adapter, tuner, reducer or head; windows;
            `modules_to_save` with a parameter or with adapted layers in it; other tensors changed by hand.
        CheckpointError: a folder that cannot be made or written to, or a model that `dyt.save` refuses.
        DyTError: not one dynamic model.
    """
    inside, folder = dynamic_of(model), Path(folder)
    check_flat(model)
    reason = peft_refusal(inside)
    if reason is not None:
        raise UnsupportedError(f"to_peft is not available for this model: {reason}")
    with all_at_hand(inside):
        config, names = _as_peft_has_it(inside)
        given = _by_peft_names(inside)
        lost = sorted(key for key in given if key not in names and not _is_frozen(key, inside))
        if lost:
            raise UnsupportedError(
                f"to_peft is not available for this model: PEFT trains no '{lost[0].removeprefix(PREFIX)}' beside its "
                f"adapted layers; dyt.save_pretrained keeps it"
            )
        tensors = {key: plain_tensor(given[key], key).clone() for key in names}
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:  # a ValueError: a name with a null character
        raise CheckpointError(f"no folder '{folder}' can be made: {shortened(error)}; give another path") from error
    with whole(folder / TENSORS, CheckpointError) as draft:
        write(tensors, {"format": "pt"}, draft)
    write_text(folder / CONFIG, f"{json.dumps(config, indent=2, sort_keys=True)}\n", CheckpointError)


def peft_refusal(model: DynamicModel) -> str | None:
    """Why PEFT cannot hold this model, in words; None when it can."""
    if isinstance(model.backbone, Unwrapped) or type(model) is not DynamicModel:
        return "it was rewritten for inference or taken apart; use the model that it was made from"
    parts = beside_backbone(model)
    if not isinstance(model.spec.tuner, LoRASpec):
        given = "none" if model.spec.tuner is None else f"'{model.spec.tuner.type}'"
        parts.append(f"its tuner is {given}, not 'lora'")
    if parts:
        return f"{'; '.join(parts)}, which PEFT's LoRA cannot hold; dyt.save_pretrained keeps all of it"
    if isinstance(model.backbone, HuggingFaceModel):
        return "it stands on a model of transformers, whose layers PEFT calls otherwise; build it on a timm model"
    reason = model.save_refusal()
    if reason is not None:
        return reason
    changed = [] if model.origin is None else model.origin.changed(model)
    if changed:
        return (
            f"'{changed[0]}' of its backbone was trained or changed by hand, which PEFT keeps for modules alone: name "
            f"its module in modules_to_save when you build it"
        )
    return None


def _as_peft_has_it(model: DynamicModel) -> tuple[dict[str, Any], Collection[str]]:
    """PEFT's config of the model, and the names that PEFT itself has for its tensors; nothing takes memory.

    Raises:
        UnsupportedError: PEFT refuses a module that is to be saved.
    """
    from peft import LoraConfig, get_peft_model
    from peft.utils import get_peft_model_state_dict

    spec = model.spec.tuner
    assert isinstance(spec, LoRASpec)
    twin = unwrap(without_memory(model))
    blocks = known_family(twin).blocks(twin)
    alpha: Any = spec.rank if spec.alpha is None else spec.alpha  # peft says int, and divides
    heads = {id(head) for head in classifiers(twin)}
    own = [name for name, module in twin.named_modules() if id(module) in heads]
    saved = [*own, *(name for name in model.spec.modules_to_save if name not in own)]
    described = {"base_model_class": type(twin).__name__, "parent_library": type(twin).__module__}
    config = LoraConfig(
        r=spec.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=spec.dropout,
        target_modules=[f"{block}.{target}" for block in blocks for target in spec.targets],
        modules_to_save=saved or None,
        inference_mode=True,
    )
    try:
        with torch.device("meta"):
            names = get_peft_model_state_dict(get_peft_model(twin, config, low_cpu_mem_usage=True)).keys()
    except (TypeError, ValueError, AttributeError) as error:  # what PEFT raises of modules that it cannot save
        raise UnsupportedError(
            f"to_peft is not available for this model: PEFT refuses it: {shortened(error)}"
        ) from error
    fields: dict[str, Any] = config.to_dict()  # type: ignore[no-untyped-call]
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in fields.items()}
    return {**plain, "auto_mapping": described}, names


def _by_peft_names(model: DynamicModel) -> dict[str, Tensor]:
    """Live tensors of the backbone by the names that PEFT would have for them."""
    tuned = {k.removeprefix("tuner."): t for k, t in stored(model).items() if k.startswith("tuner.")}
    return {f"{PREFIX}{key}": t for key, t in (tuned | plain_state(model.backbone, model.tuner)).items()}


def _is_frozen(key: str, model: DynamicModel) -> bool:
    """Whether a tensor by PEFT's name is one that the plain backbone has anyway."""
    name = key.removeprefix(PREFIX)
    own = name in head_keys(model.backbone) or within(name, model.spec.modules_to_save)
    return not own and UPDATE.fullmatch(name) is None
