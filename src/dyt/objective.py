"""The fine-tuning loss (paper section 3.5): its terms as pure functions, and TuningStep, which joins them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from dyt import steer
from dyt.control import follow
from dyt.errors import DyTError
from dyt.holding import runner
from dyt.model import DynamicModel, dynamic_of, execution, record
from dyt.registry import executors
from dyt.route import Route, activation_rate
from dyt.spec import NO_PRETRAINED, ObjectiveSpec, Ramp, at, parse
from dyt.stem import Passes, stochastic


def feature_distance(dynamic: Sequence[Route], teacher: Sequence[Route], patches: bool = False) -> Tensor:
    """() float32: how far the dynamic pass's features are from those of a teacher's pass, which is detached.

    For each site the class token that enters it (the mean patch token where there is none), as the squared distance
    over the variance of the teacher's over the images of all ranks; then the mean over the sites. 0 where the passes
    agree, about 1 where the dynamic pass tells nothing of the image. With `patches` it is every patch token instead,
    and the variance is that over the patches of all images: for heads that read patch tokens.

    Args:
        dynamic: routes of the dynamic pass that kept their tokens.
        teacher: of the teacher's pass of the same images.
        patches: compare every patch token.

    Raises:
        DyTError: a single image, which has no variance.
    """
    read = Route.patches if patches else Route.summary
    teachers = [read(route).detach() for route in teacher]
    terms = [(read(r) - t).square().sum() for r, t in zip(dynamic, teachers, strict=True)]
    sums, world = _joint(torch.cat([torch.cat([t.new_tensor([len(t)]), t.sum(0)]) for t in teachers]))
    spreads, floors = [], []
    for t, own in zip(teachers, torch.split(sums, [t.shape[1] + 1 for t in teachers]), strict=True):
        if own[0] < 2:
            raise DyTError("objective.features compares images: a step needs at least two; use a larger batch")
        spreads.append((t - own[1:] / own[0]).square().sum())
        floors.append(1e-6 * own[1:].square().sum() / own[0])  # images that are all alike have no variance
    totals, _ = _joint(torch.stack([*(term.detach() for term in terms), *spreads]))
    found = []
    for term, total, spread, floor in zip(terms, *totals.chunk(2), floors, strict=True):
        variance = torch.maximum(spread, floor)
        share = world * term / variance  # averaged over the ranks by DistributedDataParallel, as in mean_over_ranks
        found.append(share + (total / variance - share).detach())
    return torch.stack(found).mean()


def _joint(sums: Tensor) -> tuple[Tensor, int]:
    """The sums of all ranks together, and how many ranks there are."""
    if not (dist.is_available() and dist.is_initialized()):
        return sums, 1
    dist.all_reduce(sums)
    return sums, dist.get_world_size()


def mean_over_ranks(total: Tensor, count: Tensor) -> Tensor:
    """total / count over all ranks, (), for sums () of this rank; differentiable in this rank's `total`.

    DistributedDataParallel averages gradients over W ranks, so this rank's share is scaled by W: the averaged gradient
    is then that of the joint mean. Only detached sums are communicated, once, whether or not a token is active here.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return total / count.clamp_min(1)
    sums = torch.stack([total.detach(), count.detach()])
    dist.all_reduce(sums)
    joint = sums[0] / sums[1].clamp_min(1)
    share = dist.get_world_size() * total / sums[1].clamp_min(1)
    return share + (joint - share).detach()


def asked_rates(model: DynamicModel, objective: ObjectiveSpec) -> list[float]:
    """The rate that is asked of each of the model's sites: its block's of `layer_rates`, or `rate` of all.

    Raises:
        DyTError: another number of `layer_rates` than the model has dynamic blocks.
    """
    blocks = [site.name.rpartition(".")[0] for site in model.sites]
    if objective.layer_rates is None:
        return [objective.rate] * len(blocks)
    distinct = list(dict.fromkeys(blocks))
    if len(objective.layer_rates) != len(distinct):
        given, wanted = len(objective.layer_rates), len(distinct)
        raise DyTError(f"layer_rates: {given} rates given for {wanted} dynamic blocks; give one each")
    of = dict(zip(distinct, objective.layer_rates, strict=True))
    return [of[block] for block in blocks]


def _held(model: nn.Module) -> DynamicModel:
    """The dynamic model inside; refused where a step that runs it would pass by what wraps it."""
    inside, name = dynamic_of(model), runner(model)
    if name is not None:
        raise DyTError(
            f"TuningStep runs the model several times, which a model inside {name} does not know of; wrap the step: "
            f"{name}(dyt.TuningStep(model))"
        )
    return inside


class TuningStep(nn.Module):
    """One fine-tuning step's forward: the dynamic pass, then the complete pass, and the loss of both.

    A module, so that it can be wrapped by DistributedDataParallel (find_unused_parameters=False) as a whole.

    What the passes have in common is computed once: everything before the first dispatcher's effect (`dyt.stem`), where
    that is known to be exact. In train mode the dynamic pass runs with the executor `sparse_backward`, which has the
    gradients of `masked` without its work at inactive tokens; with `masked` where a dispatched branch draws drop path
    or dropout, or torch.compile traces the step; with what `dyt.execution` names inside that.

    Args:
        model: the dynamic model, or what holds it; but not what runs it in another way (DistributedDataParallel,
            DataParallel, torch.compile): that is put around the step.
        objective: an ObjectiveSpec, a dict of its fields, or None for the model's spec.
        economical: False computes every pass whole and with the model's own executor, the plain form of the same step.

    Raises:
        DyTError: another number of `layer_rates` than the model has dynamic blocks.
        DyTError: the pretrained backbone as the teacher, of a model that trains its backbone.
        DyTError: not one dynamic model, or what runs it in another way.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: ObjectiveSpec | Mapping[str, Any] | None = None,
        economical: bool = True,
    ) -> None:
        super().__init__()
        model = _held(model)
        self.model, self.economical = model, economical
        self.objective = model.spec.objective if objective is None else parse(ObjectiveSpec, objective)
        self.rates = asked_rates(model, self.objective)
        if self.objective.teacher == "pretrained" and not model.spec.keeps_pretrained:
            raise DyTError(NO_PRETRAINED)
        dispatcher = model.spec.dispatcher
        timed = getattr(dispatcher, "over_training", ())
        schedules = [self.objective.features, *(getattr(dispatcher, field) for field in timed)]
        self.scheduled = self.objective.asked is not None or any(isinstance(s, Ramp) for s in schedules)
        self.train(model.training)

    def forward(
        self, images: Tensor, labels: Any, progress: float | None = None, step: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the loss of a batch.

        Args:
            images: (B, 3, H, W).
            labels: (B,) int64, or soft (B, K); of another head than the classifier what it is trained with.
            progress: fraction of the training done, in [0, 1]; needed when the spec has schedules.
            step: number of the step, from 0, the same on all ranks; needed with `complete_every` above 1.

        Returns:
            The loss (), and its parts, all () float32: `cls` (the head's loss), `complete`, `distill`, `features` and
            `rate` (unweighted), `total` (the loss), `active_rate` (detached); and `reducer`, weight included, where a
            reducer asks for a term of its own. Terms that are off are 0; a complete pass, or one of the pretrained
            backbone, is run only for terms that need it, the complete one only at every `complete_every`-th step. The
            rate is the mean of M over all patch tokens of all sites and ranks, weighted by count; with `layer_rates`
            the `rate` term is the mean over the sites of each one's own square.

        With `control: threshold` and in train mode, the sites' thresholds are moved for the next step.

        Raises:
            DyTError: progress missing though the spec has schedules, or outside [0, 1]; step missing though
                `complete_every` is above 1; `control: threshold` with a dispatcher that scores nothing.
        """
        o, now, due = self.objective, self._progress(progress), self._due(step)
        features, head = at(o.features, now), self.model.head
        run = Passes(self.model, images, share=self.economical and head.shares_stem)
        penalties: list[Tensor] = []
        with steer.steered(self.model.key, progress=now, keep_tokens=features > 0):
            with record(self.model) as routes, steer.steered(self.model.key, penalties=(penalties,), **self._chosen()):
                logits = run()
            parts = {"cls": head.loss(logits, labels)}
            zero = parts["cls"].new_zeros(())
            parts |= {"complete": zero, "distill": zero, "features": zero, "rate": zero, "active_rate": zero + 1}
            teacher: list[Route] = []
            if due and (o.complete > 0 or o.distill > 0 or (features > 0 and o.teacher == "complete")):
                count = max(round(o.complete_share * len(images)), 1)
                with execution(self.model, "complete"), record(self.model) as teacher:
                    complete = run(count)
                parts["complete"] = head.loss(complete, labels[:count]) if o.complete > 0 else zero
                parts["distill"] = head.divergence(complete, logits[:count], o.temperature) if o.distill > 0 else zero
            if features > 0:
                if o.teacher == "pretrained":
                    teacher = self._pretrained(run, images)
                parts["features"] = feature_distance(routes, teacher, head.reads_patches)
        if routes:
            rate = mean_over_ranks(*activation_rate(routes))
            parts["active_rate"] = rate.detach()
            asked = None
            if o.layer_rates is None:
                parts["rate"] = (rate - o.asked_rate(now)) ** 2
            else:
                asked = [o.asked_of(rate, now) for rate in self.rates]
                each = [mean_over_ranks(*activation_rate([route])) for route in routes]
                parts["rate"] = torch.stack([(r - a) ** 2 for r, a in zip(each, asked, strict=True)]).mean()
            if o.control == "threshold" and self.training:
                follow(self.model, routes, o.asked_rate(now) if asked is None else asked)
        loss = parts["cls"] + o.complete_every * (o.complete * parts["complete"] + o.distill * parts["distill"])
        loss = loss + features * parts["features"] + o.rate_weight * parts["rate"]
        if penalties:
            parts["reducer"] = torch.stack(penalties).sum()
            loss = loss + parts["reducer"]
        return loss, {**parts, "total": loss}

    def _chosen(self) -> dict[str, Any]:
        """The executor of the dynamic pass, as a change of the steering; none where it is to stay as it is."""
        named = steer.current(self.model.key).executor is not None
        if named or not (self.economical and self.training) or torch.compiler.is_compiling() or stochastic(self.model):
            return {}
        return {"executor": executors.get("sparse_backward")()}

    def _due(self, step: int | None) -> bool:
        """Whether the complete pass is run at this step."""
        every = self.objective.complete_every
        if every == 1:
            return True
        if step is None:
            raise DyTError(f"complete_every is {every}: pass step, the number of the training step, from 0")
        return step % every == 0

    def _pretrained(self, run: Passes, images: Tensor) -> list[Route]:
        """The routes of a pass with every token, no adapter, no reducer: what the backbone computed untuned.

        Only the backbone is run where the head is more than its classifier: that would cost, and its batch norms would
        take features into their statistics that are not the model's.
        """
        plain, head = steer.steered(self.model.key, complete=True, plain=True), self.model.head
        with torch.no_grad(), plain, record(self.model) as routes:
            run() if head.shares_stem else self.model.forward_features(head.frames(images))
        return routes

    def _progress(self, progress: float | None) -> float:
        if progress is None:
            if self.scheduled:
                raise DyTError("this spec has schedules: pass progress, the fraction of the training done, from 0 to 1")
            return 0.0
        if not 0.0 <= progress <= 1.0:
            raise DyTError(f"progress is {progress}; it is the fraction of the training done, from 0 to 1")
        return progress
