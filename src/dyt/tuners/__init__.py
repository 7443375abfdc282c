"""Tuners: how the frozen backbone itself is tuned, with or without dispatchers and adapters. One file per tuner."""

from dyt.tuners.base import Tuner, TunerSpec
from dyt.tuners.bitfit import BitFit, BitFitSpec
from dyt.tuners.lora import LoRA, LoRASpec
from dyt.tuners.vpt import VPT, VPTSpec

__all__ = ["VPT", "BitFit", "BitFitSpec", "LoRA", "LoRASpec", "Tuner", "TunerSpec", "VPTSpec"]
