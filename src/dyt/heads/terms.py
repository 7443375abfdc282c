"""Loss terms of heads as pure functions (paper section 3.5)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def classification(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy, in float32. `logits` (B, K); `labels` (B,) int64, or soft (B, K) float that sum to 1."""
    return F.cross_entropy(logits.float(), labels)


def distillation(complete: Tensor, dynamic: Tensor, temperature: float = 1.0) -> Tensor:
    """KL(complete || dynamic), batch mean, teacher detached, in float32, for logits (B, K).

    With a temperature T both sides are softened by it and the term is multiplied by T squared.
    """
    teacher = F.log_softmax(complete.detach().float() / temperature, dim=-1)
    student = F.log_softmax(dynamic.float() / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2
