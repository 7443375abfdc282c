"""timm's optimiser and schedule for the trainable parameters, dispatchers in a group of their own."""

from __future__ import annotations

from typing import Any

from timm.optim import create_optimizer_v2  # type: ignore[attr-defined]
from timm.scheduler import create_scheduler_v2  # type: ignore[attr-defined]
from torch import nn
from torch.optim import Optimizer

from dyt.model.dynamic import DynamicModel
from dyt.model.parts import tuned_keys
from dyt.train.spec import TrainSpec


def groups(model: DynamicModel, spec: TrainSpec) -> list[dict[str, Any]]:
    """Parameter groups: head (and backbone when it is trained), adapters and what a tuner trains, stand-ins,
    dispatchers; what is not decayed apart.

    `lr_scale` is what timm's schedules multiply a group's learning rate by.
    """
    part_of = {id(p): "dispatcher" for site in model.sites for p in site.dispatcher.parameters()}
    part_of |= {id(p): "adapter" for site in model.sites for p in site.adapter.parameters()}
    part_of |= {id(p): "stand_in" for site in model.sites if site.stand_in for p in site.stand_in.parameters()}
    tuned = tuned_keys(model.backbone, model.tuner)
    part_of |= {id(p): "adapter" for name, p in model.backbone.named_parameters() if name in tuned}
    scales = {
        "dispatcher": spec.router_lr_scale,
        "adapter": spec.adapter_lr_scale,
        "stand_in": spec.stand_in_lr_scale,
    }
    decays = {} if spec.router_weight_decay is None else {"dispatcher": spec.router_weight_decay}
    found: dict[tuple[str, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decayed = spec.decay_all or not (parameter.ndim <= 1 or name.endswith(".bias"))
            found.setdefault((part_of.get(id(parameter), ""), decayed), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr_scale": scales.get(part, 1.0),
            "weight_decay": decays.get(part, spec.weight_decay) if decayed else 0.0,
        }
        for (part, decayed), parameters in sorted(found.items(), key=lambda item: item[0])
    ]


def optimizer(model: DynamicModel, spec: TrainSpec) -> Optimizer:
    """timm's optimiser of that name."""
    made: Optimizer = create_optimizer_v2(
        groups(model, spec), opt=spec.optimizer, lr=spec.peak_lr, weight_decay=spec.weight_decay
    )
    return made


def scheduler(of: Optimizer, spec: TrainSpec, steps_per_epoch: int) -> Any:
    """timm's schedule; `step_update(step)` before each step sets the learning rates of that step.

    Linear warm-up from 0, then half a cosine over the rest, as in the released code.
    """
    warmup: Any = spec.warmup_epochs  # timm takes fractions as well, though it says int
    made, _ = create_scheduler_v2(
        of,
        sched={"constant": "step"}.get(spec.schedule, spec.schedule),  # timm before 1.0.31 has no constant one
        decay_rate=1.0,  # of steps: none goes down
        num_epochs=spec.epochs - warmup,
        warmup_epochs=warmup,
        warmup_lr=0.0,
        warmup_prefix=True,
        min_lr=spec.min_lr,
        step_on_epochs=False,
        updates_per_epoch=steps_per_epoch,
    )
    return made
