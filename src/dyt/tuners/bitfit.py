"""`bitfit`: trains only the biases of the backbone (BitFit, arXiv:2106.10199)."""

from __future__ import annotations

from torch import nn

from dyt.families.base import Family
from dyt.registry import tuners
from dyt.tuners.base import Tuner, TunerSpec


class BitFitSpec(TunerSpec):
    """`bitfit`: the backbone's biases are trained (BitFit, arXiv:2106.10199)."""

    type: str = "bitfit"


@tuners("bitfit")
class BitFit(Tuner):
    """All biases, those of norms and of the patch embedding included: 0.10 M in ViT-B (paper table 3)."""

    Spec = BitFitSpec

    def refusal(self, backbone: nn.Module, family: Family) -> str | None:
        return None if any(self.trains(name) for name, _ in backbone.named_parameters()) else "it has no biases"

    def apply(self, backbone: nn.Module, family: Family) -> None:
        """Nothing is added."""

    def trains(self, name: str) -> bool:
        # `q_bias`, `qkv_bias`: some timm blocks store a projection's bias separately. A relative-position table is
        # called bias as well, but is none.
        return name.rpartition(".")[2] == "bias" or name.endswith("_bias")

    def merge_refusal(self) -> str | None:
        return None

    def merge(self, backbone: nn.Module) -> None:
        """Nothing was added."""
