"""Whether what a family computes in the place of another library's block is still what that block computes.

A family writes anew what a block's forward does (`Family.written_for` names the methods), so another library's next
version can change a block under it without an error. `known_sources.json` has the digests of the sources that a family
was tested with, written by `scripts/known_sources.py`; any other source is refused until it has been tested.
"""

from __future__ import annotations

import inspect
import json
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata, resources
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

from torch import nn

from dyt.families.base import Family
from dyt.families.digest import digest, function_of, methods_of

TABLE = "known_sources.json"
OPT_IN = "DYT_UNCHECKED"
"""The environment variable that accepts the sources of named versions: `timm==1.0.40`, several with commas between."""
WRAPPERS = ("torch", "functools", "contextlib")
"""Packages whose decorators around a library's own method leave it what it is."""


class UncheckedWarning(UserWarning):
    """A model is built on a version of another library that its family was not tested with, as the user wished."""


@dataclass(frozen=True)
class Changed:
    """A method that is not one of those that a family was written for.

    Attributes:
        method: where it is, `timm.layers.attention.Attention.forward`.
        version: the library's version that is installed.
        what: what is the matter with it, in words.
        known: the versions whose method is known.
    """

    method: str
    version: str
    what: str
    known: tuple[str, ...]

    @property
    def library(self) -> str:
        """`timm` or `transformers`."""
        return self.method.partition(".")[0]

    def __str__(self) -> str:
        known = f"known of {self.library} {', '.join(self.known)}" if self.known else "no version of it is known"
        return f"{self.method} of {self.library} {self.version} {self.what} ({known})"


def refusal(family: Family, backbone: nn.Module) -> str | None:
    """Why the family may not be what these blocks compute, and what to do; None when it is, or the user accepts it.

    Warns:
        UncheckedWarning: it may not be, and the environment variable `DYT_UNCHECKED` names the installed version.
    """
    found = changed(family, backbone)
    if not found:
        return None
    reason = "; ".join(map(str, found))
    wanted = sorted({f"{each.library}=={each.version}" for each in found})
    given = os.environ.get(OPT_IN, "")
    if set(wanted) <= {each.strip() for each in given.split(",")}:
        warnings.warn(f"not tested, and built as {OPT_IN} asks: {reason}", UncheckedWarning, stacklevel=2)
        return None
    now = f", which is '{given}'" if given else ""
    return (
        f"{reason}; upgrade dyt, install a known version, or accept it untested with the environment variable "
        f"{OPT_IN}={','.join(wanted)}{now}"
    )


def changed(family: Family, backbone: nn.Module) -> list[Changed]:
    """The methods of this backbone's blocks that the family was not written for.

    A method that a subclass overrides is left out: what a family cannot know of it, `matches` and its refusals say.
    """
    paths = family.blocks(backbone) if family.written_for else ()
    kinds = {type(module) for path in paths for module in backbone.get_submodule(path).modules()}
    found: dict[str, Changed] = {}
    for kind in sorted(kinds, key=lambda kind: kind.__qualname__):
        for written, methods in family.written_for.items():
            cls = next((base for base in kind.__mro__ if _is(base, written)), None)
            if cls is not None:
                faults = (_fault(cls, method) for method in methods if not _overridden(kind, cls, method))
                found |= {fault.method: fault for fault in faults if fault is not None}
    return [found[name] for name in sorted(found)]


def survey(family: type[Family]) -> list[Changed]:
    """What is installed and not known, of all that a family was written for. A library may be missing."""
    found = []
    for written, methods in family.written_for.items():
        if isinstance(written, str):
            found += [_judged(name, value) for name, value in _unimported(written, methods)]
        else:
            found += [_fault(written, method) for method in methods]
    return [each for each in found if each is not None]


def installed(family: type[Family]) -> Iterator[tuple[str, str | None]]:
    """(method, digest) of all that a family was written for, as installed; None where the source cannot be read."""
    for written, methods in family.written_for.items():
        if isinstance(written, str):
            yield from _unimported(written, methods)
        else:
            yield from ((f"{_path(written)}.{method}", _digest(_function(written, method))) for method in methods)


@cache
def known() -> Mapping[str, Mapping[str, Sequence[str]]]:
    """{method: {digest: the versions that have it}}."""
    text = resources.files("dyt.families").joinpath(TABLE).read_text(encoding="utf-8")
    table: dict[str, dict[str, list[str]]] = json.loads(text)
    return table


def order(version: str) -> list[tuple[int, str]]:
    """What versions are sorted by: 1.0.9 before 1.0.10."""
    return [(len(part), part) for part in version.split(".")]


def version_of(library: str) -> str:
    """The version that is imported, or else installed."""
    imported: str | None = getattr(sys.modules.get(library), "__version__", None)
    return imported or metadata.version(library)


def _is(base: type, written: type | str) -> bool:
    """Whether a class is the one that a family names: by itself, or by its name where its library is not imported."""
    if not isinstance(written, str):
        return base is written
    return base.__name__ == written.rpartition(".")[2] and _root(base.__module__) == _root(written)


def _overridden(kind: type, cls: type, method: str) -> bool:
    return next(base for base in kind.__mro__ if method in vars(base) or base is cls) is not cls


def _fault(cls: type, method: str) -> Changed | None:
    """What is the matter with a method of a class that is imported."""
    name, function = f"{_path(cls)}.{method}", _function(cls, method)
    library = _root(cls.__module__)
    if foreign := _foreign(function, library):
        return Changed(name, version_of(library), f"was replaced by {foreign}, which would not run", _versions(name))
    return _judged(name, _digest(function))


def _judged(name: str, value: str | None) -> Changed | None:
    """What is the matter with a method that has this digest; None: its source cannot be read."""
    if value in known().get(name, {}):
        return None
    version = version_of(_root(name))
    if value is None and version in _versions(name):
        return None  # without its source (compiled, or in an archive) the version alone is to be trusted
    what = "cannot be read" if value is None else "is not what this version of dyt was tested with"
    return Changed(name, version, what, _versions(name))


def _versions(name: str) -> tuple[str, ...]:
    found = {version for versions in known().get(name, {}).values() for version in versions}
    return tuple(sorted(found, key=order))


def _root(name: str) -> str:
    return name.partition(".")[0]


def _path(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"


def _function(cls: type, method: str) -> Any:
    """As it is in the class or a base of it, unbound; None where there is none any more."""
    return inspect.getattr_static(cls, method, None)


def _layers(function: Any) -> Iterator[Any]:
    """A function, and what it wraps, down to the innermost."""
    while function is not None:
        yield function
        function = getattr(function, "__wrapped__", None)


def _foreign(function: Any, library: str) -> str | None:
    """Whose function stands in the place of the library's own, or around it; None for no one's."""
    for layer in _layers(function):
        home = layer.__globals__.get("__name__", "") if isinstance(layer, FunctionType) else library
        if _root(home) not in {library, *WRAPPERS}:
            return f"{home}.{layer.__code__.co_qualname}"
    return None


@cache
def _digest(function: Any) -> str | None:
    """Of the innermost function's source; None where it cannot be read."""
    *_, innermost = _layers(function) if function is not None else (None,)
    if not isinstance(innermost, FunctionType):
        return None
    try:
        return digest(function_of(inspect.getsource(innermost.__code__)))
    except (OSError, SyntaxError):
        return None


def _unimported(written: str, methods: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """(method, digest) of a class that is known by its path, from its file; none where its library is not installed."""
    module, _, name = written.rpartition(".")
    if find_spec(_root(module)) is not None:
        digests = _digests_of_file(module)
        yield from ((f"{written}.{method}", digests.get(f"{name}.{method}")) for method in methods)


@cache
def _digests_of_file(module: str) -> Mapping[str, str]:
    """Of the methods in a module's file, by `Class.method`; none where there is no file. The module is not imported."""
    root, *rest = module.split(".")
    spec = find_spec(root)
    for place in (spec.submodule_search_locations or ()) if spec is not None else ():
        path = Path(place).joinpath(*rest).with_suffix(".py")
        if path.is_file():
            return {name: digest(node) for name, node in methods_of(path.read_text(encoding="utf-8")).items()}
    return {}
