"""What is known of installed plug-ins: their entry points, and why some are not used. Nothing is imported here.

The rules are the registry's (`dyt.registry`); here are the words and the facts that it needs for them.
"""

import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint
from typing import Any

from dyt.errors import RegistryError, shortened


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


def failure(offer: EntryPoint, error: BaseException) -> str:
    """Why a plug-in cannot be used that raised this when it was imported or looked at, and what to do."""
    said = str(error) if isinstance(error, RegistryError) else "".join(traceback.format_exception_only(error))
    what = "" if isinstance(error, RegistryError) else f"{shortened(offer.value)} cannot be imported: "
    return f"{what}{shortened(said, 500)}; {remedy(offer)}"


def remedy(offer: EntryPoint) -> str:
    """What a user can do about a plug-in that does not work."""
    return f"update or uninstall {offer.dist.name if offer.dist else 'it'}"


@contextmanager
def noticing_interrupts() -> Iterator[Callable[[], bool]]:
    """Tells a Ctrl-C of the user from a KeyboardInterrupt that a module raises itself while it is imported.

    Yields a function that says whether a KeyboardInterrupt is the user's.
    """
    previous: Any = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread():  # signals reach the main thread alone
        yield lambda: False
        return
    if not callable(previous):  # signals are ignored or end the process; or else a handler in C, which may raise
        yield lambda: previous is None
        return
    pressed = False

    def handler(number: int, frame: Any) -> Any:
        nonlocal pressed
        pressed = True
        return previous(number, frame)

    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed
    finally:
        if signal.getsignal(signal.SIGINT) is handler:  # else the module has set its own
            signal.signal(signal.SIGINT, previous)


def importing(offer: EntryPoint) -> bool:
    """Whether the plug-in's module, or a package above it, is just being imported: a failure proves nothing then."""
    parts = offer.value.partition(":")[0].strip().split(".")
    modules = (sys.modules.get(".".join(parts[: n + 1])) for n in range(len(parts)))
    return any(getattr(getattr(module, "__spec__", None), "_initializing", False) for module in modules)
