"""The fine-tuning loss (paper section 3.5): its terms as pure functions, and TuningStep, which joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from functools import partial
from itertools import repeat
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dyt.assembly.allocation import site_rates
from dyt.config.objective import ObjectiveSpec
from dyt.config.schedules import Ramp, at
from dyt.config.spec import NO_PRETRAINED, NOT_TAUGHT, parse
from dyt.core import context
from dyt.core.execution import Executor
from dyt.core.holding import runner
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.objective.accumulation import ALONE, Turn, Turns, image_count, uncounted
from dyt.objective.joint import Sums, Whole, counted, feature_distance, joined, mean_over_ranks, shared, sums
from dyt.objective.shared_prefix import Passes, stochastic
from dyt.objective.thresholds import set_thresholds, thresholds_of
from dyt.registry import executors

__all__ = ["TuningStep", "feature_distance", "mean_over_ranks"]


class _Ran(NamedTuple):
    """What the passes of a step, or of a part of one, gave: the dynamic one, the complete one, the teacher's routes;
    and what the outputs are trained with.
    """

    routes: list[Route]
    logits: Any
    penalties: list[Tensor]
    complete: Any
    teacher: Sequence[Route | Tensor]
    labels: Any


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

    What the passes have in common is computed once: everything before the first dispatcher's effect
    (`dyt.objective.shared_prefix`), where that is known to be exact. In train mode the dynamic pass runs with the
    executor `sparse_backward`, which has the gradients of `masked` without its work at inactive tokens; with `masked`
    where a dispatched branch draws drop path or dropout, or torch.compile traces the step; with what `dyt.execution`
    names inside that.

    Args:
        model: the dynamic model, or what holds it; but not what runs it in another way (DistributedDataParallel,
            DataParallel, torch.compile): that is put around the step.
        objective: an ObjectiveSpec, a dict of its fields, or None for the model's spec.
        economical: False computes every pass whole and with the model's own executor, the plain form of the same step.

    Raises:
        SpecError: another number of `layer_rates` than the model has dynamic blocks.
        DyTError: the pretrained backbone as the teacher, of a model that trains its backbone.
        DyTError: a head that cannot be trained as it is: without outputs, or one output under cross entropy.
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
        self.rates = site_rates(self.objective, (site.name for site in model.sites))
        if self.objective.teacher == "pretrained" and not model.spec.keeps_pretrained:
            raise DyTError(NO_PRETRAINED)
        if model.head.taught and not model.spec.keeps_pretrained:
            raise DyTError(f"head '{model.spec.head.type}': {NOT_TAUGHT}")
        reason = model.head.training_refusal(model.spec.head)
        if reason is not None:
            raise DyTError(reason)
        dispatcher = model.spec.dispatcher
        timed = getattr(dispatcher, "over_training", ())
        schedules = [self.objective.features, *(getattr(dispatcher, field) for field in timed)]
        self.scheduled = self.objective.asked is not None or any(isinstance(s, Ramp) for s in schedules)
        self._backward: Executor = executors.get("sparse_backward")()
        self._turns: Turns | None = None
        self.train(model.training)

    def forward(
        self,
        images: Tensor,
        labels: Any = None,
        progress: float | None = None,
        step: int | None = None,
        teacher: Sequence[Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Computes the loss of a batch.

        Args:
            images: (B, C, H, W).
            labels: (B,) int64, or soft (B, K); what else the head, or its `loss`, is trained with. None for a head that
                is taught by the pretrained backbone (`Head.taught`), which reads none.
            progress: fraction of the training done, in [0, 1]; needed when the spec has schedules.
            step: number of the step, from 0, the same on all ranks; needed with `complete_every` above 1, and `spread`.
            teacher: with `teacher: pretrained`, or a taught head, what its pass of these images gave (`teacher_rows`,
                `TeacherFeatures.rows`), so that it is not run again.

        Returns:
            The loss (), and its parts, all () float32: `cls` (the head's loss), `complete`, `distill`, `features` and
            `rate` (unweighted), `total` (the loss), `active_rate` (detached); and `reducer`, weight included, where a
            reducer asks for a term of its own. Terms that are off are 0; a complete pass, or one of the pretrained
            backbone, is run only for terms that need it, the complete one only at every `complete_every`-th step. The
            rate is the mean of M over all patch tokens of all sites and ranks, weighted by count; with `layer_rates`
            the `rate` term is the mean over the sites of each one's own square. Inside `accumulating` the mean of a
            part of the loss over the step's parts is that of the whole step.

        With `control: threshold` and in train mode, the sites' thresholds are moved for the next step.

        Raises:
            DyTError: an empty batch; labels that the head's loss does not take; progress missing though the spec has
                schedules, or outside [0, 1]; step missing though `complete_every` is above 1, or with `spread`;
                `control: threshold` with a dispatcher that scores nothing.
        """
        if image_count(images) == 0:
            raise DyTError("the batch is empty, and a mean over no images is no loss; leave it out")
        turns = self._turns
        if turns is None:
            return self._loss(images, labels, self._progress(progress), step, ALONE, teacher)
        now = self._progress(turns.progress if progress is None else progress)
        step = turns.step if step is None else step
        if turns.looking:
            needed = self._joins(now) and not turns.alone
            turns.look(images, (lambda: self._looked(images, now, step, teacher)) if needed else None)
            return torch.zeros(()), {}
        with turns.turn(images) as turn:
            return self._loss(images, labels, now, step, turn, teacher)

    @contextmanager
    def accumulating(
        self,
        parts: Iterable[Any],
        progress: float | None = None,
        step: int | None = None,
        teachers: Iterable[Sequence[Tensor] | None] | None = None,
    ) -> Iterator[None]:
        """Inside, forwards are those of the parts of one step, in order: their losses' mean is the whole step's loss.

        Terms that are of all images of a step together (`rate`, also by layer, and `features`) take what they need of
        the other parts from a pass without gradients over all of them, which is run first: one more forward a part,
        with the teacher's where features are compared. It is left out where the weights of both are 0. Each part's
        forward inside draws the noise that it drew then. With `control: threshold` the thresholds are moved at the end,
        from the logits of all parts.

            with step.accumulating([images for images, _ in parts]):
                for images, labels in parts:
                    loss, terms = step(images, labels)
                    (loss / len(parts)).backward()
            optimizer.step()

        Enter it under the autocast, and in the mode, in which the parts are run. Under DistributedDataParallel it is a
        method of the module inside, and every rank has as many parts.

        Args:
            parts: the images of each part, as `forward` takes them, as many in each; gone through once. A list of one
                part is the step itself, and costs nothing.
            progress: as for `forward`, of the whole step; that of forwards inside may be left out.
            step: likewise.
            teachers: for each part what `forward` is given as `teacher`; None for nothing.

        Raises:
            DyTError: inside another one, no parts, parts of unequal size, or other forwards inside than one for each.
        """
        if self._turns is not None:
            raise DyTError("accumulating: one step's parts inside another's; leave the first `with` before the next")
        alone = isinstance(parts, Sized) and len(parts) == 1
        turns = self._turns = Turns(self.model, progress, step, alone)
        try:
            with torch.no_grad(), uncounted(self.model):
                for images, teacher in zip(parts, repeat(None) if teachers is None else teachers, strict=False):
                    self(images, None, teacher=teacher)
            torch.clear_autocast_cache()  # older versions of torch keep what was cast here, cut off from its gradient
            turns.begin()
            yield
        finally:
            self._turns = None
        turns.end()
        if turns.values:
            self._follow(turns.values, self._progress(progress), step)

    def _loss(
        self, images: Any, labels: Any, now: float, step: int | None, turn: Turn, teacher: Sequence[Tensor] | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        o, head = self.objective, self.model.head
        count, weight = turn.complete(image_count(images), o.complete_share)
        ran = self._run(images, now, self._due(step), count, teacher)
        labels = ran.labels if head.taught else labels
        parts = {"cls": head.loss(ran.logits, labels)}
        zero = parts["cls"].new_zeros(())
        parts |= {"complete": zero, "distill": zero, "features": zero, "rate": zero, "active_rate": zero + 1}
        if ran.complete is not None:
            if o.complete > 0:
                parts["complete"] = weight * head.loss(ran.complete, labels[:count])
            if o.distill > 0:
                parts["distill"] = weight * head.divergence(ran.complete, ran.logits[:count], o.temperature)
        features, whole = at(o.features, now), turn.whole
        if ran.routes:
            whole = joined([self._sums(ran, now)]) if whole is None else whole
            parts["rate"], parts["active_rate"] = self._rate(ran.routes, whole, now, step)
            if features > 0:
                parts["features"] = feature_distance(ran.routes, ran.teacher, head.reads_patches, whole)
            if o.control == "threshold" and self.training:
                values = [thresholds_of(r, s) for r, s in zip(ran.routes, self.model.sites, strict=True)]
                if turn.values is None:
                    self._follow([values], now, step)
                else:
                    turn.values.append(values)
        loss = parts["cls"] + o.complete_every * (o.complete * parts["complete"] + o.distill * parts["distill"])
        loss = loss + features * parts["features"] + o.rate_weight * parts["rate"]
        if ran.penalties:
            parts["reducer"] = torch.stack(ran.penalties).sum()
            loss = loss + parts["reducer"]
        return loss, {**parts, "total": loss}

    def _run(self, images: Any, now: float, due: bool, count: int, given: Sequence[Tensor] | None) -> _Ran:
        """The passes of a step, or of a part of it; the complete one of the first `count` images."""
        o, head, features = self.objective, self.model.head, at(self.objective.features, now)
        run = Passes(self.model, images, share=self.economical and head.shares_prefix)
        penalties: list[Tensor] = []
        complete: Any = None
        teacher: Sequence[Route | Tensor] = ()
        labels: Any = None
        told = {"all": 1.0, "sampled": o.router_sample, "active": 0.0, "none": None}[o.router_gradient]
        with context.changed(self.model.key, progress=now, keep_tokens=features > 0, told=told):
            logits, routes = self._recorded(run, penalties=(penalties,), executor=self._executor())
            reads_complete = o.complete > 0 or o.distill > 0 or (features > 0 and o.teacher == "complete")
            if due and reads_complete and count:
                complete, teacher = self._recorded(partial(run, count), complete=True)
            by_pretrained = features > 0 and o.teacher == "pretrained"
            if by_pretrained or head.taught:
                taught, sites = self._pretrained(run, images) if given is None else self._kept(given, logits)
                labels, teacher = taught, sites if by_pretrained else teacher
        return _Ran(routes, logits, penalties, complete, teacher, labels)

    def _recorded(self, run: Callable[[], Any], **changes: Any) -> tuple[Any, list[Route]]:
        """What a pass gives with these changes of the forward context, and its routes."""
        key = self.model.key
        routes: list[Route] = []
        with context.changed(key, records=(*context.current(key).records, routes), **changes):
            return run(), routes

    def _joins(self, now: float) -> bool:
        """Whether a term is of all images of the step together."""
        return bool(self.model.sites) and (self.objective.rate_weight > 0 or at(self.objective.features, now) > 0)

    def _sums(self, ran: _Ran, now: float) -> Sums:
        compared = at(self.objective.features, now) > 0
        return sums(ran.routes, ran.teacher if compared else (), self.model.head.reads_patches)

    def _looked(self, images: Any, now: float, step: int | None, teacher: Sequence[Tensor] | None) -> Sums:
        """Of a part that is looked at: the dynamic pass alone, or with the teacher's where features are compared."""
        if at(self.objective.features, now) > 0:
            count = image_count(images) if self.objective.teacher == "complete" else 0
            return self._sums(self._run(images, now, self._due(step), count, teacher), now)
        _, routes = self._recorded(partial(self.model, images), progress=now, executor=self._executor())
        return sums(routes)

    def _rate(self, routes: Sequence[Route], whole: Whole, now: float, step: int | None) -> tuple[Tensor, Tensor]:
        """The rate term, and the rate itself, detached."""
        o, (active, total), copies = self.objective, whole.counts, whole.copies
        own, number = counted(routes)[0], total.sum().clamp_min(1)
        rate = shared(own.sum(), active.sum(), number, copies)
        if o.layer_rates is None:
            return (rate - o.asked_rate(now, step)) ** 2, rate.detach()
        each = shared(own, active, total.clamp_min(1), copies)
        return (each - each.new_tensor(self._targets(now))).square().mean(), rate.detach()

    def _targets(self, now: float) -> list[float]:
        """The target rate of each site, at this progress."""
        return [self.objective.asked_of(rate, now) for rate in self.rates]

    def _follow(self, values: Sequence[Sequence[Tensor]], now: float, step: int | None) -> None:
        """Moves the thresholds to the next step's target, by what each part's sites gave."""
        by_site = [torch.cat(list(site)) for site in zip(*values, strict=True)]
        o, following = self.objective, None if step is None else step + 1
        rate = o.asked_rate(now, following) if o.layer_rates is None else self._targets(now)
        set_thresholds(self.model, by_site, rate)

    def _executor(self) -> Executor | None:
        """The executor of the dynamic pass: the one that a context around the step names, or else the step's own."""
        named = context.current(self.model.key).executor
        own = named is None and self.economical and self.training and not torch.compiler.is_compiling()
        return self._backward if own and not stochastic(self.model) else named

    def _due(self, step: int | None) -> bool:
        """Whether the complete pass is run at this step."""
        every = self.objective.complete_every
        if step is None and self.objective.spread is not None:
            raise DyTError("spread gives each step its own rate: pass step, the number of the training step, from 0")
        if every == 1:
            return True
        if step is None:
            raise DyTError(f"complete_every is {every}: pass step, the number of the training step, from 0")
        return step % every == 0

    def _pretrained(self, run: Passes, images: Tensor) -> tuple[Any, list[Route]]:
        """Outputs and routes of a pass with every token, no adapter, no reducer: what the backbone computed untuned.

        Only the backbone is run where the head is more than its classifier and not taught by this pass: that would
        cost, and its batch norms would take features into their statistics that are not the model's.
        """
        head = self.model.head
        whole = head.shares_prefix or head.taught
        features = run if whole else lambda: self.model.forward_features(head.frames(images))
        with torch.no_grad():
            return self._recorded(features, complete=True, plain=True)

    def _kept(self, given: Sequence[Tensor], outputs: Any) -> tuple[Any, Sequence[Tensor]]:
        """As `_pretrained`, from what `teacher_rows` gave of these images."""
        if not self.model.head.taught:
            return None, given
        return given[-1].reshape(outputs.shape), given[:-1]

    def _progress(self, progress: float | None) -> float:
        if progress is None:
            if self.scheduled:
                raise DyTError("this spec has schedules: pass progress, the fraction of the training done, from 0 to 1")
            return 0.0
        if not 0.0 <= progress <= 1.0:
            raise DyTError(f"progress is {progress}; it is the fraction of the training done, from 0 to 1")
        return progress
