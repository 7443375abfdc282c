"""One open catalogue per kind of component; a low room: nothing of `dyt` but its errors, and no torch.

    @dyt.registry.dispatchers("mine")           # in your own code
    class Mine(dyt.dispatchers.Dispatcher): ...

    [project.entry-points.dyt_dispatchers]      # or in the pyproject.toml of an installed plug-in
    mine = "my_package.routing:Mine"

`catalogue` holds what is registered. It knows no rules, so they are here: a name is never overwritten, a built-in wins
over a plug-in, a broken plug-in disables only itself and is reported, and plug-ins are neither looked for nor imported
before one is asked for or a listing is made. (catalogue does read the list of installed entry points once, when it is
imported; that list would miss what changes later and does not tell broken from absent, so it is not used.)

No lock is held while a plug-in is imported: a thread that imports the plug-in's module holds Python's lock of that
module and may wait for ours to register its class, so waiting for the module under our lock would be a deadlock. That
the module runs once is Python's own promise; what becomes of its class is decided under the lock, by whoever is first.
"""

import inspect
import itertools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib.metadata import EntryPoint, entry_points
from threading import RLock
from types import MappingProxyType
from typing import Any, Generic, Self, TypeVar

import catalogue

from dyt.entry_points import (
    Plugins,
    PluginWarning,
    Problem,
    failure,
    importing,
    label,
    noticing_interrupts,
    package_of,
    path_of,
)
from dyt.errors import RegistryError, nearest, quoted

T = TypeVar("T")
C = TypeVar("C", bound=type)

_NAME = re.compile("[a-z][a-z0-9_]*")
_serial = itertools.count()  # catalogue has one table for the whole process; this keeps registries of one kind apart


class UnknownNameError(RegistryError):
    """No component has that name; the message has the nearest name and all allowed ones."""


class Registry(Generic[T]):
    """The components of one kind by name; call it with a name to register a class.

    Args:
        kind: plural noun for messages, such as "dispatchers".
        group: entry point group in which installed distributions offer such components; `dyt_<kind>` by default.
    """

    def __init__(self, kind: str, group: str | None = None) -> None:
        self.kind = kind
        self.group = group or f"dyt_{kind}"
        self._table = catalogue.create("dyt", kind, str(next(_serial)))
        self._origins: dict[str, str] = {}
        self._base: type | None = None
        self._spec: type | None = None
        self._plugins = Plugins()
        self._lock = RLock()

    def __repr__(self) -> str:
        return f"Registry({self.kind!r}, group={self.group!r}, registered={sorted(self._registered())})"

    def accepts(self, base: C, spec: type | None = None) -> C:
        """Declares what a component is: a concrete subclass of `base`. Said once, by the room that owns the base class.

        Args:
            base: the class.
            spec: what a component's attribute `Spec` is a subclass of; None where components have none.

        Returns:
            `base` itself, so that this can be used as a decorator.

        Raises:
            RegistryError: another base was declared before, or something registered is not of this one.
        """
        with self._lock:
            if self._base not in (None, base):
                raise RegistryError(f"{self.kind} already accepts {path_of(self._base)}, not {path_of(base)} as well")
            for name, component in self._registered().items():
                self._check(name, component, base, spec)
            self._base, self._spec = base, spec
        return base

    def __call__(self, name: str) -> Callable[[C], C]:
        """Registers a class: `@registry("name")`; the class is returned unchanged, and once more is harmless.

        Args:
            name: lower-case identifier, `[a-z][a-z0-9_]*`.

        Raises:
            RegistryError: a name against that rule, something other than a concrete class of the accepted base, or a
                name that another component or an installed distribution has.
        """
        self._check_name(name)

        def register(component: C) -> C:
            self._check(name, component, self._base, self._spec)
            self._register(name, component)
            return component

        return register

    def get(self, name: str) -> type[T]:
        """The class registered under `name`; imports the plug-in that offers it, where one does.

        Raises:
            UnknownNameError: there is no such name.
            RegistryError: there is, but its plug-in is broken, in conflict with another, or just being imported.
        """
        try:
            return self._get(name)
        except RegistryError:
            with suppress(PluginWarning):  # where warnings are errors, they must not hide this error, which says more
                self._warn(stacklevel=3)
            raise

    def names(self) -> list[str]:
        """All names that can be had, sorted; imports every plug-in of the kind, warns once of each that is broken."""
        return [name for name, _ in self._listing()]

    def items(self) -> list[tuple[str, type[T]]]:
        """All names with their classes, sorted by name; imports and warns as `names` does."""
        return self._listing()

    def at_hand(self) -> list[tuple[str, type[T]]]:
        """The names with their classes that no installed plug-in brings, sorted by name; imports nothing."""
        held = sorted(self._registered().items())
        origins = ((name, component, self._origins[name]) for name, component in held)
        return [(name, component) for name, component, by in origins if by == "dyt" or by.startswith("module ")]

    def problems(self) -> tuple[Problem, ...]:
        """The entry points that are not used, each with the reason; imports as `names` does, and does not warn."""
        self._settle_all()
        return tuple(sorted(self._plugins.problems, key=lambda p: (p.name, p.distribution)))

    def unsettled(self) -> list[EntryPoint]:
        """The entry points that a listing would import; none is imported by this."""
        ours, plugins = "dyt", self._plugins
        return [
            offers[0]
            for name, offers in self._offers().items()
            if len(offers) == 1 and name not in plugins.resolved and self._origins.get(name) != ours
        ]

    def disable(self, offer: EntryPoint, reason: str) -> None:
        """Refuses an entry point of `unsettled` for a reason that was found elsewhere; it is then not imported."""
        self._resolve(offer.name, [offer], None, reason)

    def origin(self, name: str) -> str:
        """Who brought the component: "dyt", a distribution with its version ("vit-tricks 1.2"), or "module its.module".

        Raises:
            RegistryError: as `get`.
        """
        self.get(name)
        self._settle(name)  # a plug-in that was imported by hand has registered itself without saying whose it is
        return self._origins[name]

    def __contains__(self, name: object) -> bool:
        """Whether `get` would answer; imports no other plug-in than the one that offers `name`."""
        if not isinstance(name, str):
            return False
        if name not in self._registered():
            self._settle(name)
        return name in self._registered()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    @contextmanager
    def temporary(self) -> Iterator[Self]:
        """For tests: what is registered inside is forgotten afterwards, by every thread; plug-ins are sought anew."""
        with self._lock:
            kept = self._registered(), dict(self._origins), self._base, self._spec, self._plugins
            self._plugins = Plugins()
        try:
            yield self
        finally:
            with self._lock:
                for name in self._registered():
                    del catalogue.REGISTRY[(*self._table.namespace, name)]  # catalogue itself offers no way to remove
                components, self._origins, self._base, self._spec, self._plugins = kept
                for name, component in components.items():
                    self._table.register(name, func=component)

    def _registered(self) -> dict[str, type[T]]:
        found: dict[str, type[T]] = self._table.get_all()  # a copy, made in one step: reading needs no lock
        return found

    def _put(self, name: str, component: type, origin: str) -> None:
        self._origins[name] = origin  # first, so that whoever finds the component finds its origin
        self._table.register(name, func=component)

    def _register(self, name: str, component: type) -> None:
        built_in = component.__module__.startswith("dyt.")
        origin = "dyt" if built_in else f"module {component.__module__}"
        offers = [] if built_in else self._offered(name)  # built-ins come while dyt is imported: no look at plug-ins
        with self._lock:
            held = self._registered().get(name)
            if held is component:
                return
            if held is not None:
                holder = self._origins[name]
                if not (built_in and holder in map(label, self._offered(name))):
                    raise self._taken(name, holder, path_of(held), origin, component)
                self._plugins.resolved.discard(
                    name
                )  # the built-in takes over, and the next listing reports the plug-in
            for offer in offers:  # a plug-in may register its own class, from the package that its entry point names
                if package_of(offer.value) != package_of(component.__module__):
                    raise self._taken(name, label(offer), offer.value, origin, component)
            self._put(name, component, origin)

    def _taken(self, name: str, holder: str, held: str, origin: str, given: type) -> RegistryError:
        return RegistryError(
            f"{self.kind} '{name}' is taken by {held} ({holder}); register {path_of(given)} ({origin}) "
            f"under another name"
        )

    def _check_name(self, name: object) -> None:
        if not (isinstance(name, str) and _NAME.fullmatch(name)):
            given = quoted(name) if isinstance(name, str) else path_of(name)
            raise RegistryError(f"{self.kind}: a name is a lower-case identifier, {_NAME.pattern}; given: {given}")

    def _check(self, name: str, component: object, base: type | None, spec: type | None) -> None:
        self._check_name(name)
        given = path_of(component)
        if isinstance(component, type) and issubclass(component, base or object):
            if not inspect.isabstract(component):
                own = getattr(component, "Spec", None)
                if spec is not None and not (isinstance(own, type) and issubclass(own, spec)):
                    raise RegistryError(
                        f"{self.kind} '{name}' needs an attribute Spec, a subclass of {path_of(spec)}; {given} has "
                        f"{'none' if own is None else path_of(own)}"
                    )
                return
            given += f", which is abstract: it lacks {', '.join(sorted(getattr(component, '__abstractmethods__', ())))}"
        wanted = f"a concrete subclass of {path_of(base)}" if base else "a concrete class"
        raise RegistryError(f"{self.kind} '{name}' must be {wanted}; given: {given}")

    def _get(self, name: str) -> type[T]:
        if name in self:
            return self._registered()[name]
        refused = [str(problem) for problem in self._plugins.problems if problem.name == name]
        if refused:
            raise RegistryError("; ".join(refused))
        if isinstance(name, str) and self._offered(name):
            raise RegistryError(f"{self.kind} '{name}' cannot be had yet: its plug-in is just being imported")
        raise self._unknown(name)

    def _unknown(self, name: object) -> UnknownNameError:
        self._settle_all()
        given = quoted(name) if isinstance(name, str) else f"{path_of(name)}, where a name is a string"
        return UnknownNameError(f"{self.kind} has no {given}; {nearest(name, self._registered())}")

    def _listing(self) -> list[tuple[str, type[T]]]:
        self._settle_all()
        self._warn(stacklevel=4)
        return sorted(self._registered().items())

    def _warn(self, stacklevel: int) -> None:
        with self._lock:
            news, self._plugins.unwarned = self._plugins.unwarned, []
        for problem in news:
            warnings.warn(str(problem), PluginWarning, stacklevel=stacklevel)

    def _offers(self) -> dict[str, list[EntryPoint]]:
        plugins = self._plugins
        if plugins.offers is None:
            offers: dict[str, list[EntryPoint]] = {}
            for offer in entry_points(group=self.group):
                offers.setdefault(offer.name, []).append(offer)
            plugins.offers = offers
        return plugins.offers

    def _offered(self, name: str) -> list[EntryPoint]:
        return self._offers().get(name, [])

    def _settle_all(self) -> None:
        for name in self._offers():
            self._settle(name)

    def _settle(self, name: str) -> None:
        """Takes or refuses what distributions offer under `name`; a plug-in just being imported is left for later."""
        offers, plugins = self._offered(name), self._plugins
        if not offers or name in plugins.resolved:
            return
        component: Any = None
        reason = ""
        if self._origins.get(name) == "dyt":
            reason = "the built-in of that name wins; the plug-in needs another name"
        elif len(offers) > 1:
            reason = f"the name is offered by {' and by '.join(map(label, offers))}; uninstall all but one"
        else:
            with noticing_interrupts() as interrupted:
                try:
                    component = offers[0].load()
                    self._check(name, component, self._base, self._spec)
                except BaseException as error:  # a plug-in may fail in any way
                    if isinstance(error, KeyboardInterrupt) and interrupted():
                        raise
                    if importing(offers[0]):
                        return
                    reason = failure(offers[0], error)
        self._resolve(name, offers, component, reason)

    def _resolve(self, name: str, offers: list[EntryPoint], component: Any, reason: str) -> None:
        plugins = self._plugins
        with self._lock:
            if name in plugins.resolved:
                return
            held = self._registered().get(name, component)
            if not reason and held is not component:
                reason = (
                    f"{self._origins[name]} has registered {path_of(held)} under that name, not {path_of(component)}"
                )
            if not reason:
                self._put(name, component, label(offers[0]))
            plugins.resolved.add(name)
            found = [Problem(self.kind, name, label(offer), reason) for offer in offers if reason]
            plugins.problems += found
            plugins.unwarned += found


dispatchers: Registry[Any] = Registry("dispatchers")
adapters: Registry[Any] = Registry("adapters")
variants: Registry[Any] = Registry("variants")
executors: Registry[Any] = Registry("executors")
families: Registry[Any] = Registry("families")
tuners: Registry[Any] = Registry("tuners")
reducers: Registry[Any] = Registry("reducers")
heads: Registry[Any] = Registry("heads")

KINDS: Mapping[str, Registry[Any]] = MappingProxyType(
    {kind.kind: kind for kind in (dispatchers, adapters, variants, executors, families, tuners, reducers, heads)}
)
"""Every catalogue by its kind."""

__all__ = [
    "KINDS",
    "PluginWarning",
    "Problem",
    "Registry",
    "RegistryError",
    "UnknownNameError",
    "adapters",
    "dispatchers",
    "executors",
    "families",
    "heads",
    "reducers",
    "tuners",
    "variants",
]
