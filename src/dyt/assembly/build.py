"""spec -> model, in two steps: `plan` decides and refuses, `apply` changes the backbone. The way goes down:

1. `resolve` reads the spec (config), whose component fields the registered classes check (the first way up);
2. `bridged` (core) or `backbones` give a backbone with timm's interface, and `check_given` looks at a given one;
3. `plan` asks `compatibility`, which asks family, tuner, reducer and head for reasons, then makes every component;
4. `apply` puts windows and dynamic blocks in their places, then has the tuner change the backbone;
5. tuner and family address the blocks as what they are by then, dynamic ones (`model.block`, the second way up);
6. it freezes, starts a new classifier, attaches the head, and returns the `DynamicModel` with its `Origin`.

No concrete component is imported: everything is asked of the registry.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from dyt.assembly import backbone as backbones
from dyt.assembly.compatibility import check_given
from dyt.assembly.plan import BuildPlan, plan
from dyt.assembly.rollback import rollback
from dyt.assembly.window_attention import put_windows
from dyt.config.files import read
from dyt.config.presets import preset, presets
from dyt.config.spec import DyTSpec, parse
from dyt.core.hf_recording import let_record
from dyt.core.interop import HuggingFaceModel, bridged
from dyt.errors import SpecError, nearest, quoted
from dyt.model.dynamic import DynamicModel
from dyt.model.origin import Origin
from dyt.model.parts import classifiers, start_head, tuned_keys
from dyt.model.site import Site
from dyt.model.tensors import trainable
from dyt.model.timm_surface import checkpoint_blocks
from dyt.model.token_state import TokenReduction
from dyt.tuners.base import Tuner


def resolve(spec: DyTSpec | Mapping[str, Any] | str | Path) -> DyTSpec:
    """A spec from what a user may give: a DyTSpec, a dict, a path to YAML or JSON, or the name of a preset.

    Raises:
        SpecError: one line that names the field, what was given and what is allowed.
    """
    if isinstance(spec, DyTSpec):
        return spec
    if isinstance(spec, Mapping):
        return parse(DyTSpec, dict(spec))
    if isinstance(spec, str) and spec in presets():
        return preset(spec)
    if isinstance(spec, (str, Path)):
        path = Path(spec)
        if path.suffix in {".yaml", ".yml", ".json"}:
            return parse(DyTSpec, read(path))
        raise SpecError(
            f"{quoted(str(spec))} is neither a .yaml, .yml or .json file nor a preset; {nearest(str(spec), presets())}"
        )
    raise SpecError(f"a spec is a DyTSpec, a dict, a path or a preset name; given {type(spec).__name__}")


def build(spec: DyTSpec | Mapping[str, Any] | str | Path, backbone: nn.Module | None = None) -> DynamicModel:
    """Builds the dynamic model of a spec, or wraps an existing timm model.

    New weights are drawn from torch's default generator: `torch.manual_seed` before it gives the same model again.

    Args:
        spec: a DyTSpec, a dict, a path to YAML or JSON, or the name of a preset (`dyt.presets()`).
        backbone: a timm model to wrap, or a ViT, DINOv2, CLIP-vision or SigLIP-vision model of Hugging Face
            transformers; it is changed in place and frozen. Its head is kept, and must have the spec's number of
            classes where the spec says one; a model of transformers without a classifier gets a new one. Without a
            backbone, the spec's is made, with a new head where the weights have none.

    Returns:
        The model, in the backbone's train or eval mode (eval for one made here), only adapters, dispatchers and head
        trainable, with what the spec's tuner trains and `modules_to_save`, or everything with `trainable: full`. The
        spec of a model on a given backbone says which that is, and `weights: given` unless it says otherwise.

    Raises:
        SpecError: a wrong spec, a backbone whose head has another number of classes, or one without a module that
            `modules_to_save` names.
        UnsupportedError: a backbone that is already dynamic, or one whose blocks no family knows, or a variant or tuner
            that its family does not offer. Nothing was changed.
        WeightsError: pretrained weights that cannot be had.
    """
    spec = resolve(spec)
    if backbone is None:
        backbone, new_head = backbones.create(spec.backbone, spec.head.classifier)
        backbone.eval()
    else:
        backbone, new_head = bridged(backbone, spec.head.classifier)
        spec = _with_its_classes(backbone, spec)
        check_given(backbone, spec)
        spec = spec.model_copy(update={"backbone": backbones.described(backbone, spec.backbone)})
    return apply(plan(spec, backbone, new_head))


def apply(plan: BuildPlan) -> DynamicModel:
    """Makes the plan's backbone dynamic, in place. Nothing is refused any more.

    What a component raises all the same goes on, and the backbone is then as it was.
    """
    with rollback(plan.backbone):
        return _applied(plan)


def _applied(plan: BuildPlan) -> DynamicModel:
    spec, backbone, tuner = plan.spec, plan.backbone, plan.tuner
    thawed = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    if spec.backbone.window_size is not None:
        put_windows(spec.backbone, backbone, plan.family)
    if isinstance(backbone, HuggingFaceModel):
        let_record(backbone.model)
    for path, block in plan.blocks.items():
        parent, _, name = path.rpartition(".")
        backbone.get_submodule(parent).register_module(name, block)
        if block.reduction is not None and block.reduction.needs_keys:
            block.family.listen(block)
    if tuner is not None:
        tuner.apply(backbone, plan.family)
    _freeze(backbone, spec, tuner)
    if plan.new_head:
        start_head(backbone)
    head = type(plan.head)(spec.head, backbone) if plan.late_head else plan.head
    head.attach(backbone)
    model = DynamicModel(backbone, spec, plan.key, head, tuner)
    if any(getattr(module, "grad_checkpointing", False) for module in backbone.modules()):  # Swin's stages have it
        backbone.set_grad_checkpointing(False)  # type: ignore[operator]
        model.set_grad_checkpointing()
    # timm would recompute whole blocks, dispatchers included, outside the context that they ran in
    backbone.set_grad_checkpointing = partial(checkpoint_blocks, model.dynamic_blocks)  # type: ignore[assignment]
    for parameter in trainable(model):
        parameter.requires_grad_(True)
    model.origin = Origin.of(model, thawed)
    return model


def _with_its_classes(backbone: nn.Module, spec: DyTSpec) -> DyTSpec:
    """The spec for a given backbone's classifier, where it says no number of classes itself."""
    given = getattr(backbone, "num_classes", None)
    known = isinstance(given, int) and spec.head.classifier == spec.head.num_classes
    return spec.with_classes(given) if known and given is not None and not spec.says_classes else spec


def _freeze(backbone: nn.Module, spec: DyTSpec, tuner: Tuner | None) -> None:
    backbone.requires_grad_(spec.trainable == "full")
    tuned = tuned_keys(backbone, tuner)
    for name, parameter in backbone.named_parameters():
        if name in tuned:
            parameter.requires_grad_(True)
    for module in backbone.modules():
        if isinstance(module, (Site, TokenReduction)):
            module.requires_grad_(True)
        if isinstance(module, Site):
            module.dispatcher.requires_grad_(spec.objective.router_gradient != "none")
    for head in classifiers(backbone):
        head.requires_grad_(True)
