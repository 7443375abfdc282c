"""What a spec that came out of a file may say. A file may be from anyone, and names nothing but parts of a model.

A spec that a user writes may name files and repositories. One in a file may name an architecture of timm, registered
components and plain values; weights only as `pretrained`, timm's own for that name. The rest needs the caller's word.
Sizes and numbers of layers are compared with the file's tensors, before any model is made of them.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from pydantic_core import Url
from torch import nn

from dyt.assembly.backbone import GIVEN, on_meta
from dyt.config.base import Spec
from dyt.config.spec import DyTSpec
from dyt.errors import CheckpointError, SpecError
from dyt.io.bounded import Bounded
from dyt.io.header import Header, refusal

OWN = frozenset({"pretrained", "none", GIVEN})
"""Values of `backbone.weights` that name no file."""
NAME = re.compile(r"\w{1,120}(\.\w{1,120})?", re.ASCII)
"""A model of timm with or without a tag, or the name of a class."""
WORD = re.compile(r"\w{0,40}", re.ASCII)
"""One of the words that an argument of an architecture knows."""
INNER = re.compile(r"(?!.*__)[\w .+-]{0,200}")
"""A name within a model: of a component, a choice, a module. No path of more than a bare name, and no address."""
NOT_SAID = frozenset({"self", "device", "dtype", "num_classes", "cache_dir", "features_only", "out_indices"})
"""Arguments of constructors that are not the architecture's, or have a field of their own."""
LARGEST = 1 << 16
"""Of a whole number in a spec: of pixels, channels, tokens."""
PIXELS = 1 << 13
"""Of a side of an image that a model is said to be trained on."""
LAYERS = 64
"""More layers than there are tensors in the file; every layer that is dispatched has some."""
ENTRIES = 64
"""Of a list among the arguments of an architecture."""
WORDS = "give load(..., backbone=) the timm model, or trust_paths=True (--trust-paths) for a file of your own"

Trust = bool | Collection[str | Path]
"""True: everything that a file's spec names may be opened. Otherwise the paths and names that may be."""


def check_weights(given: str, header: Header, trusted: Trust) -> None:
    """Refuses to open a weights file on a file's own word.

    Raises:
        CheckpointError: naming it, and what to do.
    """
    if given in OWN or _trusts(trusted, given):
        return
    raise refusal(
        header.path,
        f"names '{_shown(given)}' as the file of its backbone's weights, which is not opened on a file's word: give "
        f"load(..., weights=) or --weights that file, load(..., backbone=) the timm model, or trust_paths=True "
        f"(--trust-paths) for a file of your own",
    )


def _trusts(trusted: Trust, named: Any) -> bool:
    return trusted if isinstance(trusted, bool) else str(named) in map(str, trusted)


def check_spec(spec: DyTSpec, header: Header, trusted: Trust) -> None:
    """Refuses what a file's spec may not say of its components, and sizes that none of the file's tensors has.

    Raises:
        CheckpointError: naming the field.
    """
    others = {name: value for name, value in spec if name != "backbone"}
    for field, value in _leaves(others):
        if isinstance(value, (PurePath, Url)) or (isinstance(value, str) and not INNER.fullmatch(value)):
            if not _trusts(trusted, value):
                raise refusal(
                    header.path, f"names '{_shown(value)}' in its {field}, which is no name in a model; {WORDS}"
                )
        elif isinstance(value, int) and abs(value) > _most(field, header):
            raise refusal(
                header.path, f"does not fit its spec: {field} is {_shown(value)}, and no tensor in it is that large"
            )


def check_backbone(spec: DyTSpec, header: Header, trusted: Trust) -> None:
    """Refuses an architecture that a file's spec may not name, and more of it than the file can have tensors for.

    Raises:
        CheckpointError: naming the field.
    """
    name, args = spec.backbone.name, spec.backbone.args
    _check_size(args, header)
    if trusted is True:
        return
    if not NAME.fullmatch(name) and not _trusts(trusted, name):
        raise refusal(header.path, f"was made on '{_shown(name)}', which is no name of a timm model; {WORDS}")
    if not args or not NAME.fullmatch(name):
        return
    allowed = architecture(name, header.path).arguments
    for arg, value in args.items():
        if arg not in allowed:
            raise refusal(
                header.path,
                f"sets backbone.args.{_shown(arg)}, which is no plain value of a {name}; allowed in a file: "
                f"{', '.join(sorted(allowed))}; {WORDS}",
            )
        if not _is_plain(value):
            raise refusal(
                header.path,
                f"sets backbone.args.{arg} to {_shown(value)}; allowed in a file: true, false, numbers, a word, and "
                f"lists of these; {WORDS}",
            )


def plain_arguments(architecture: type) -> frozenset[str]:
    """Names of an architecture's arguments that take plain values: of its constructor, and of those it passes on to.

    What takes classes and functions alone is left out, and so are devices, dtypes, and whatever is timm's own.
    """
    names: set[str] = set()
    for cls in architecture.__mro__:
        if cls in {nn.Module, object} or "__init__" not in vars(cls):
            continue
        parameters = inspect.signature(vars(cls)["__init__"]).parameters.values()
        names |= {p.name for p in parameters if p.kind in {p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD} and _takes_plain(p)}
        if not any(p.kind is p.VAR_KEYWORD for p in parameters):
            break
    return frozenset(names - NOT_SAID)


def _takes_plain(parameter: inspect.Parameter) -> bool:
    if isinstance(parameter.default, (bool, int, float, str, tuple, list)):
        return True
    said = re.findall(r"\w+", str(parameter.annotation))
    return bool({"bool", "int", "float", "str", "Literal"} & {*said, getattr(parameter.annotation, "__name__", "")})


def _is_plain(value: Any, level: int = 0) -> bool:
    if isinstance(value, list):
        return level < 2 and len(value) <= ENTRIES and all(_is_plain(part, level + 1) for part in value)
    if isinstance(value, str):
        return WORD.fullmatch(value) is not None
    return value is None or isinstance(value, bool) or (isinstance(value, (int, float)) and math.isfinite(value))


@dataclass(frozen=True)
class Architecture:
    """What a timm model is by its name alone.

    Attributes:
        arguments: of it that take plain values.
        size: of all of its tensors, in bytes.
    """

    arguments: frozenset[str]
    size: int


def architecture(name: str, path: Path) -> Architecture:
    """The architecture of that name, which the file of that path has.

    Raises:
        CheckpointError: timm has none.
    """
    try:
        return _known(name)
    except SpecError as error:
        raise unmade(path, name, error) from error


@lru_cache(maxsize=64)
def _known(name: str) -> Architecture:
    with Bounded(0):
        made = on_meta(name)
    return Architecture(plain_arguments(type(made)), size_of(made))


def size_of(module: nn.Module) -> int:
    """Bytes of all tensors of a module."""
    return sum(t.numel() * t.element_size() for t in (*module.parameters(), *module.buffers()))


def unmade(path: str | Path, name: str, error: SpecError) -> CheckpointError:
    """The refusal of a backbone that timm does not make by its name."""
    return refusal(
        path, f"was made on a {name}, which cannot be made by that name ({error}); give load(..., backbone=) one"
    )


def _check_size(args: Mapping[str, Any], header: Header) -> None:
    most = LAYERS + len(header.tensors)
    for field, value in _leaves(args):
        if isinstance(value, (int, float)) and abs(value) > LARGEST:
            raise refusal(
                header.path,
                f"does not fit its spec: backbone.args.{field} is {_shown(value)}; at most {LARGEST} in a file",
            )
    for arg, value in args.items():
        layers = sum(each for _, each in _leaves({arg: value}) if isinstance(each, int))
        if ("depth" in arg or "stage" in arg) and layers > most:
            raise refusal(
                header.path,
                f"does not fit its spec: backbone.args.{_shown(arg)} makes {layers} layers, and the file has "
                f"{len(header.tensors)} tensors",
            )


def _most(field: str, header: Header) -> int:
    """The largest whole number that a field of a component may have in this file."""
    sized = field.partition(".")[0] in {"adapter", "tuner"}  # of which every size is that of a tensor in the file
    return max(header.widest, 4096 if sized else LARGEST)


def check_sizes(values: Any, where: str, header: Header) -> None:
    """Refuses whole numbers in a file's data spec that no image has: of pixels, frames, views.

    Raises:
        CheckpointError: naming the field.
    """
    for field, value in _leaves(values):
        if isinstance(value, int) and abs(value) > PIXELS:
            raise refusal(header.path, f": its {where} cannot be used: {field} is {_shown(value)}; at most {PIXELS}")


def outside(values: Any) -> str | None:
    """What of a file's data spec names something outside of the data's directory, in words; None where nothing does."""
    found = (f"{field} is '{_shown(v)}'" for field, v in _leaves(values) if isinstance(v, str) and not _within(v))
    return next(found, None)


def _within(text: str) -> bool:
    path = PurePath(text)
    return not (path.is_absolute() or ".." in path.parts or text.startswith("~") or re.search(r"[\\:\x00-\x1f]", text))


def _leaves(values: Any, field: str = "") -> Iterator[tuple[str, Any]]:
    """(its field's path, value) for each value in a spec, a mapping or a sequence."""
    if isinstance(values, Spec):
        values = dict(values)
    if isinstance(values, Mapping):
        for name, value in values.items():
            yield from _leaves(value, f"{field}.{name}".lstrip("."))
    elif isinstance(values, (list, tuple)):
        for value in values:
            yield from _leaves(value, field)
    else:
        yield field, values


def _shown(value: Any) -> str:
    text = str(value) if isinstance(value, str) else repr(value) if not isinstance(value, int) else _digits(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def _digits(value: int) -> str:
    return str(value) if abs(value) < 1 << 256 else "a number of more than 77 digits"
