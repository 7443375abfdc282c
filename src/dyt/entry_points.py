"""What is known of installed plug-ins: their entry points, and why some are not used. Nothing is imported here.

The rules are the registry's (`dyt.registry`); here are the words and the facts that it needs for them.
"""

import re
import sys
import traceback
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint

from dyt.errors import RegistryError


class PluginWarning(UserWarning):
    """An installed plug-in is disabled; `problems()` of its registry has the reason."""


@dataclass(frozen=True)
class Problem:
    """Why one entry point of an installed distribution is not used.

    Args:
        kind: the registry's kind, such as "dispatchers".
        name: the entry point's name.
        distribution: name and version of the distribution that offers it.
        reason: one line.
    """

    kind: str
    name: str
    distribution: str
    reason: str

    def __str__(self) -> str:
        return f"{self.kind} '{self.name}' of {self.distribution} is disabled: {self.reason}"


@dataclass
class Plugins:
    """What is known so far about the entry points of one kind."""

    offers: dict[str, list[EntryPoint]] | None = None  # None: not looked for yet
    resolved: set[str] = field(default_factory=set)  # names whose offers were taken or refused
    problems: list[Problem] = field(default_factory=list)
    unwarned: list[Problem] = field(default_factory=list)


def path_of(component: object) -> str:
    """`module:Class`, as an entry point writes it; of anything else only the type, since its repr may be long."""
    if isinstance(component, type):
        return f"{component.__module__}:{component.__qualname__}"
    return f"a value of type {type(component).__name__}"


def package_of(path: str) -> str:
    return re.split("[.:]", path.strip(), maxsplit=1)[0]


def label(offer: EntryPoint) -> str:
    return f"{offer.dist.name} {offer.dist.version}" if offer.dist else "an unnamed distribution"


def one_line(error: BaseException) -> str:
    if isinstance(error, RegistryError):
        return str(error)
    return " ".join("".join(traceback.format_exception_only(error)).split())


def importing(offer: EntryPoint) -> bool:
    """Whether the plug-in's module, or a package above it, is just being imported: a failure proves nothing then."""
    parts = offer.value.partition(":")[0].strip().split(".")
    modules = (sys.modules.get(".".join(parts[: n + 1])) for n in range(len(parts)))
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in modules)
