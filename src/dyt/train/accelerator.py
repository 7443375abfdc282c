"""The run's `accelerate.Accelerator`, and the one call into accelerate that is not public."""

from __future__ import annotations

from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs

from dyt.errors import SpecError
from dyt.train.spec import TrainSpec


def forget_accelerator() -> None:
    """Lets the next run of this process have another precision than the one before.

    accelerate keeps one state per process, refuses another precision, and has no public way to begin anew.
    """
    AcceleratorState._reset_state()


def accelerator_for(spec: TrainSpec, out: Path) -> Accelerator:
    """The `Accelerator` of a run in the folder `out`.

    Raises:
        SpecError: fp16 without an accelerator.
    """
    cpu = not torch.accelerator.is_available()
    if cpu and spec.precision == "fp16":
        raise SpecError("train.precision is fp16, which needs an accelerator; use bf16 or no on the CPU")
    forget_accelerator()
    return Accelerator(
        cpu=cpu,
        mixed_precision=spec.precision,
        gradient_accumulation_steps=spec.accumulate,
        log_with="tensorboard" if find_spec("tensorboard") else None,
        project_dir=str(out),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(seconds=spec.timeout))],
    )
