"""Loss terms of heads as pure functions (paper section 3.5)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from dyt.errors import DyTError

SLACK = 1e-2
"""By how much the sum of an image's soft labels may differ from 1: labels of 16 bits are rounded."""


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy, in float32. `logits` (B, K); `labels` (B,) int64, or soft (B, K) float that sum to 1.

    Raises:
        DyTError: a single output, labels of another form, or several labels for an image.
    """
    if logits.shape[1] == 1:
        raise DyTError("cross_entropy of one output is 0 whatever the target; use head.loss: bce or mse")
    soft = labels.ndim == 2 and labels.shape == logits.shape and labels.is_floating_point()
    if not soft and (labels.ndim != 1 or labels.is_floating_point() or labels.dtype == torch.bool):
        raise DyTError(
            f"cross_entropy takes labels (images,) int64, or soft ones {tuple(logits.shape)} that sum to 1; given "
            f"{labels.dtype} {tuple(labels.shape)}; use head.loss: bce for several labels an image, mse for numbers"
        )
    if soft and not torch.compiler.is_compiling() and bool(((labels.float().sum(1) - 1).abs() > SLACK).any()):
        raise DyTError(
            "cross_entropy takes soft labels that sum to 1 for each image; use head.loss: bce for several labels"
        )
    return F.cross_entropy(logits.float(), labels)


def distillation(complete: Tensor, dynamic: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(complete || dynamic), batch mean, teacher detached, in float32, for logits (B, K).

    With a temperature T both sides are softened by it and the term is multiplied by T squared.
    """
    teacher = F.log_softmax(complete.detach().float() / temperature, dim=-1)
    student = F.log_softmax(dynamic.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def binary(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over images and outputs of the binary cross entropy, in float32: each output is a decision of its own.

    `logits` (B, K); `labels` (B, K) in [0, 1], or (B,): the one class that is there, of a single output 0 or 1.

    Raises:
        DyTError: labels of another shape, or outside [0, 1].
    """
    targets = many_hot(labels, logits.shape[1])
    if targets.shape != logits.shape:
        raise DyTError(
            f"bce takes labels {tuple(logits.shape)} in [0, 1], or (images,); given {tuple(labels.shape)} for "
            f"{len(logits)} images"
        )
    if not torch.compiler.is_compiling() and bool(((targets < 0) | (targets > 1)).any()):
        raise DyTError("bce takes labels in [0, 1]: 1 for each that an image has; given others")
    return F.binary_cross_entropy_with_logits(logits.float(), targets)


def many_hot(labels: Tensor, classes: int) -> Tensor:
    """Labels as `binary` takes them, as (B, K) float32."""
    if labels.ndim == 1:
        labels = labels[:, None] if classes == 1 else F.one_hot(labels.long(), classes)
    return labels.float()


def binary_distillation(complete: Tensor, dynamic: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(complete || dynamic) of each output's decision, mean over images and outputs as `binary` has it; float32.

    With a temperature T both sides are softened by it and the term is multiplied by T squared.
    """
    teacher, student = complete.detach().float() / temperature, dynamic.float() / temperature
    there = teacher.sigmoid() * (F.logsigmoid(teacher) - F.logsigmoid(student))
    absent = (-teacher).sigmoid() * (F.logsigmoid(-teacher) - F.logsigmoid(-student))
    return (there + absent).mean() * temperature**2


def squares(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error, in float32. `outputs` (B, K); `targets` (B, K), or (B,) for a single output.

    Raises:
        DyTError: targets of another shape.
    """
    given = targets[:, None] if targets.ndim == 1 and outputs.shape[1] == 1 else targets
    if given.shape != outputs.shape:
        raise DyTError(f"mse takes targets {tuple(outputs.shape)}; given {tuple(targets.shape)}")
    return F.mse_loss(outputs.float(), given.float())
