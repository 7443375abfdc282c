"""A bank of tasks, a model for each task, and one model whose task is swapped: `python benchmarks/bank.py`.

A batch has images of all tasks in turns. The bank runs it at once; the others run image by image, since each image has
another task. Swapping copies a task's tensors into the model before each image, from memory, or from the task's file
(`dyt.load` on the backbone, which checks what it reads). All have random weights, and adapters of d = 8. Times are of
paired turns; the memory is that of the parameters.
"""

from __future__ import annotations

import argparse
import copy
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dyt
from dyt.bank.stack import Rows, SiteKind, Stack
from dyt.core.context import DecisionContext
from dyt.measure import paired
from gpu_parts.banks import BANK, COMPILED, SEPARATE, STAND_IN, SWAPPED, Tasks, apart, tasks
from gpu_parts.setting import synchronised

INDEXED, FILES = "bank, by indices", "one model, each task's file loaded"
COUNTS = (1, 10, 100)


def parsed() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    parser.add_argument("--compile", action="store_true", help="the bank compiled, too; on a CPU it takes minutes")
    parser.add_argument("--stand-ins", action="store_true", help="tasks with low_rank stand-ins of dim 8")
    parser.add_argument("--sites", action="store_true", help="time one site alone: the gather, and task by task")
    parser.add_argument("--memory", action="store_true", help="print the memory and time nothing")
    return parser.parse_args()


def loading(made: Tasks, folder: Path) -> Callable[[], list[Tensor]]:
    """Each image through a model that is loaded from its task's file on the backbone that is there."""
    for name, model in made.models.items():
        dyt.save(model, folder / f"{name}.safetensors")
    model = made.models[made.names[0]]
    plain = dyt.unwrap(copy.deepcopy(model))

    def run() -> list[Tensor]:
        out, backbone = [], plain
        for image, name in zip(made.images, made.names, strict=True):
            loaded = dyt.load(folder / f"{name}.safetensors", backbone=backbone)
            out.append(loaded.eval().to(made.images)(image[None])[0])
            backbone = dyt.unwrap(loaded)
        return out

    return run


def timed(made: Tasks, options: argparse.Namespace, folder: Path) -> None:
    """Prints the ratios of paired turns."""
    device = made.images.device
    calls: dict[str, Callable[[], Any]] = {
        BANK: lambda: made.bank(made.images, made.names),
        INDEXED: lambda: made.bank(made.images, made.bank.indices(made.names)),
        SEPARATE: made.separate,
        SWAPPED: made.swapped(),
        FILES: loading(made, folder),
    }
    if options.compile:
        calls[COMPILED] = made.compiled()
    alone = calls[SEPARATE]()
    differences = {name: apart(call(), alone) for name, call in calls.items()}
    found = paired({name: synchronised(call, 1, device) for name, call in calls.items()}, options.pairs, 0)
    print(f"largest difference of logits from each task's own model: {max(differences.values()):.1e}", flush=True)
    for of in (BANK, COMPILED) if options.compile else (BANK,):
        for name in calls:
            if name != of:
                print(f"the throughput of '{of}' over '{name}': {found.speedup(of, over=name)}")


def sites(pairs: int) -> None:
    """Prints, for one site's router and adapter alone, the speed of the gather over that of going task by task."""
    context = DecisionContext(False)
    for dim in (192, 768):
        stack = Stack(SiteKind(8, torch.nn.functional.relu, "token"), dim, 8, torch.zeros(()))
        for tensor in (*stack.parameters(), *stack.buffers()):
            torch.nn.init.normal_(tensor.unsqueeze(-1), std=0.05)
        for batch in (8, 32):
            x = torch.randn(batch, 197, dim)
            for count in (1, 2, 4, 8):
                index = torch.arange(batch) % count
                calls = {
                    "gather": partial(_site, stack, x, context, index),
                    "by task": partial(_by_task, stack, x, context, index.tolist()),
                    "one row": partial(_site, stack, x, context, 0),
                }
                assert torch.allclose(calls["gather"](), calls["by task"](), atol=1e-5)
                found = paired(calls, pairs)
                over = [str(found.speedup("gather", over=name)) for name in ("by task", "one row")]
                print(
                    f"{dim} channels, batch {batch} of {count} tasks: the gather over task by task {over[0]}, over "
                    f"one task for all {over[1]}, {found.best('gather') * 1e3:.2f} ms",
                    flush=True,
                )


def _site(stack: Stack, x: Tensor, context: DecisionContext, index: Tensor | int) -> Tensor:
    stack.decided(x[:, 1:], context, index)
    return stack.delta(x, None, index)


def _by_task(stack: Stack, x: Tensor, context: DecisionContext, names: list[int]) -> Tensor:
    active, out = torch.zeros(len(x), x.shape[1] - 1, dtype=torch.bool), torch.zeros_like(x)
    rows = {task: torch.tensor([i for i, name in enumerate(names) if name == task]) for task in dict.fromkeys(names)}
    for task, own in rows.items():
        active[own] = stack.decided(x.index_select(0, own)[:, 1:], context, task).active
    for task, own in rows.items():
        out[own] = stack.delta(x.index_select(0, own), None, task)
    return out


def memory(bank: dyt.Bank) -> None:
    """Prints what tasks take, in two dtypes, as shares of the backbone."""
    assert bank.contents is not None
    assert bank.contents.sole is not None
    assert bank.model is not None
    for dtype in (torch.float32, torch.bfloat16):
        bank.to(dtype)
        stacks = [parts for parts in bank.modules() if isinstance(parts, Stack)]
        parts = {
            "adapters": sum(_row(stack, "up", "down", "scale") for stack in stacks),
            "dispatchers": sum(_row(stack, "router", "threshold") for stack in stacks),
            "classifiers": _row(bank.contents.heads[bank.contents.sole], "weight", "bias"),
        }
        if any(stack.stand_in_input is not None for stack in stacks):
            parts["stand-ins"] = sum(_row(stack, "stand_in") for stack in stacks)
        own = {id(t) for rows in bank.modules() if isinstance(rows, Rows) for t in rows.parameters()}
        frozen = sum(t.numel() * t.element_size() for t in bank.parameters() if id(t) not in own)
        print(f"{dtype}: backbone {frozen / 2**20:.1f} MiB")
        for count in COUNTS:
            room = 8
            while room < count:
                room *= 2
            shares = ", ".join(f"{part} {count * size / frozen:.2%}" for part, size in parts.items())
            size = sum(parts.values())
            print(
                f"{count:3d} tasks: {shares}; bank {(frozen + count * size) / 2**20:.1f} MiB "
                f"({(frozen + room * size) / 2**20:.1f} with room for {room}); "
                f"models {count * (frozen + size) / 2**20:.1f} MiB"
            )


def _row(rows: torch.nn.Module, *names: str) -> int:
    """Bytes of one row of the tensors whose names begin with these."""
    tensors = [*rows.named_parameters(), *rows.named_buffers()]
    return sum(t[0].numel() * t.element_size() for name, t in tensors if name.startswith(names))


def main() -> None:
    """Prints speed for one batch, and memory for 1, 10 and 100 tasks."""
    options = parsed()
    if options.threads:
        torch.set_num_threads(options.threads)
    if options.sites:
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}")
        with torch.no_grad():
            sites(options.pairs)
        return
    device, dtype = torch.device(options.device), getattr(torch, options.dtype)
    count, stand_in = 1 if options.memory else options.tasks, STAND_IN if options.stand_ins else None
    made = tasks(options.backbone, count, options.batch, device, dtype, stand_in=stand_in)
    if not options.memory:
        where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
        print(f"{options.backbone}, {options.dtype}, batch {options.batch} of {options.tasks} tasks, {where}")
        print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores", flush=True)
        with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
            timed(made, options, Path(folder))
    memory(made.bank)


if __name__ == "__main__":
    main()
