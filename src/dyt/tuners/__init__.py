"""How the frozen backbone itself is tuned, beside dispatchers and adapters or in their place: one file per tuner."""

from dyt.tuners.base import Tuner, TunerSpec
from dyt.tuners.bitfit import BitFit, BitFitSpec
from dyt.tuners.lora import LoRA, LoRASpec
from dyt.tuners.vpt import VPT, VPTSpec

__all__ = ["VPT", "BitFit", "BitFitSpec", "LoRA", "LoRASpec", "Tuner", "TunerSpec", "VPTSpec"]
