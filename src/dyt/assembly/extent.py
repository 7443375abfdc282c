"""How large a model may be: refused by arithmetic, before timm makes it and before any memory is taken for it.

Sizes of components are bounded in their specs. Here are the arguments of timm's models, which have no spec, and the
rule that nothing is begun whose parameters alone are more than the machine's memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any

import timm
import torch
from torch import nn

from dyt.errors import SpecError, quoted, shortened

DEEPEST = 128
"""Blocks, over all stages. The deepest models of timm have about 50; each takes milliseconds to make, however small."""
LARGEST_ARGUMENT = 65_536
"""Of any integer argument: channels, tokens, heads."""
LARGEST_IMAGE = 16_384
"""Pixels per side, for each of which there may be position embeddings."""
_BLOCKS = frozenset({"depth", "depths", "num_layers"})
_ORDINARY_BLOCKS, _ORDINARY_INT, _ORDINARY_FLOAT = 48, 1024, 16.0
"""Nothing is counted up to here: these models are of a size that is in use."""


def check_arguments(name: str, args: Mapping[str, Any], **ours: Any) -> None:
    """Refuses arguments of `timm.create_model` that ask for a model which this machine cannot hold.

    Args:
        name: a name that timm knows.
        args: plain values, lists as tuples already.
        **ours: further arguments, such as `num_classes`.

    Raises:
        SpecError: naming the argument and the limit.
    """
    ordinary = True
    for field, value in args.items():
        numbers = list(_numbers(value))
        blocks = sum(numbers) if field in _BLOCKS else 0
        if blocks > DEEPEST:
            raise SpecError(f"backbone.args.{field}: {quoted(value)} is {blocks:g} blocks; at most {DEEPEST}")
        largest = max((abs(number) for number in numbers if isinstance(number, int)), default=0)
        most = LARGEST_IMAGE if field == "img_size" else LARGEST_ARGUMENT
        if largest > most:
            raise SpecError(
                f"backbone.args.{shortened(field, 60)}: an integer is at most {most} (given {quoted(value)})"
            )
        real = max((abs(number) for number in numbers if isinstance(number, float)), default=0.0)
        ordinary &= blocks <= _ORDINARY_BLOCKS and largest <= _ORDINARY_INT and real <= _ORDINARY_FLOAT
    if not ordinary and torch.get_default_device().type == "cpu":
        check_memory(_needed(name, dict(args), ours), f"backbone.args: {quoted(dict(args), 120)} for {name}")


def check_memory(needed: int, what: str) -> None:
    """Refuses what needs more bytes for its parameters than the machine has memory.

    Raises:
        SpecError: with both numbers.
    """
    there = machine_memory()
    if there is not None and needed > there:
        raise SpecError(
            f"{what}: its parameters are {needed / 2**30:,.1f} GiB, and this machine has {there / 2**30:,.1f} GiB of "
            f"memory; make it smaller"
        )


def machine_memory() -> int | None:
    """Bytes of this machine's memory; None on a system that does not say."""
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names or "SC_PAGE_SIZE" not in names:
        return None
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size if pages > 0 and size > 0 else None


def nbytes(module: nn.Module) -> int:
    """Bytes of a module's parameters and buffers."""
    return sum(tensor.numel() * tensor.element_size() for tensor in chain(module.parameters(), module.buffers()))


def _needed(name: str, args: dict[str, Any], ours: Mapping[str, Any]) -> int:
    """Bytes of the model, counted without memory; of many like blocks the second is counted, and multiplied."""
    depth = args.get("depth")
    if isinstance(depth, int) and depth > 2:
        one, two = (_counted(name, {**args, "depth": count}, ours) for count in (1, 2))
        return one + (depth - 1) * (two - one)
    return _counted(name, args, ours)


def _counted(name: str, args: Mapping[str, Any], ours: Mapping[str, Any]) -> int:
    with torch.device("meta"):
        return nbytes(timm.create_model(name, **args, **{**ours, "pretrained": False}))


def _numbers(value: Any) -> Iterator[int | float]:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        yield value
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _numbers(inner)
    elif isinstance(value, Mapping):
        yield from _numbers(tuple(value.values()))
