"""A run's pretrained teacher: its features of images that are the same in every epoch, computed before the first."""

from __future__ import annotations

from pathlib import Path

from dyt.config.schedules import ends
from dyt.objective.teacher import TeacherFeatures, teacher_rows
from dyt.registry import KINDS
from dyt.tasks.base import Examples
from dyt.train.inference import Inference
from dyt.train.spec import RunSpec
from dyt.train.state import RunError

LIMIT = 2**33
"""Bytes of features that are kept where nothing else is said."""


def kept_teacher(inference: Inference, images: Examples, scratch: Path) -> TeacherFeatures | None:
    """The teacher's features of all these training images; None where each step computes its own.

    They are computed in the same batches whenever a run begins or goes on, so that a resumed run has the same bits.

    Args:
        inference: has the model, and shares the images among the processes.
        images: of the training split.
        scratch: where large features are kept, in a file without a name.

    Raises:
        RunError: `keep_teacher: true`, and the images are not the same in every epoch.
        DyTError: no room for them.
    """
    run, model = inference.run, inference.model
    features = _compared(run)
    if not _wanted(run, images):
        return None
    training, kept, size = model.training, None, inference.task.batch
    mine = range(inference.rank, len(images), inference.world)
    plan = [mine[i : i + size] for i in range(0, len(mine), size)]
    model.eval()
    try:
        with inference.bar.task("reading the teacher", len(images)) as task:
            for positions, (found, _) in zip(plan, inference.batches(images, range(len(images)), size), strict=True):
                with inference.accelerator.autocast():
                    rows = teacher_rows(model, inference.normalized(found), features)
                if kept is None:
                    shapes = len(images), rows, len(positions)
                    if run.train.keep_teacher is None and TeacherFeatures.needed(*shapes) > LIMIT:
                        return None
                    kept = TeacherFeatures(*shapes, scratch)
                kept.put(positions, rows)
                inference.bar.advance(task, len(positions) * inference.world)
                inference.check()
    finally:
        model.train(training)
    if kept is not None:
        kept.join(inference.accelerator.device)
    return kept


def _compared(run: RunSpec) -> bool:
    """Whether features at the sites are compared with the pretrained backbone's."""
    objective = run.model.objective
    return objective.teacher == "pretrained" and max(ends(objective.features)) > 0


def _wanted(run: RunSpec, images: Examples) -> bool:
    """Whether the run has such a teacher, whose features are used again and stay the same."""
    train = run.train
    used = _compared(run) or KINDS["heads"].get(run.model.head.type).taught
    if train.keep_teacher is False or not used or train.epochs == 1:
        return False
    fixed = images.fixed and not train.mixup and not train.cutmix
    if train.keep_teacher and not fixed:
        raise RunError(
            "train.keep_teacher: true is for images that are the same in every epoch, and these are "
            "augmented or mixed; leave it out, or set data.augment: none, mixup: 0 and cutmix: 0"
        )
    return fixed
