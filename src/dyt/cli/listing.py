"""`dyt list`: what can be named in a spec."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated

import typer


def listing(
    kind: Annotated[
        str | None,
        typer.Argument(
            help="A kind (dispatchers, adapters, variants, executors, families, tuners, reducers, heads), presets or "
            "recipes."
        ),
    ] = None,
) -> None:
    """List components (plug-ins included, with their origin), presets and recipes."""
    from dyt.cli.probe import disabled, probe
    from dyt.errors import DyTError, nearest
    from dyt.registry import KINDS, PluginWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # what they say is said below
        probe()
        known = catalogue()
    if kind is not None and kind not in known:
        raise DyTError(f"nothing to list under '{kind}'; {nearest(kind, list(known))}")
    for title in known if kind is None else [kind]:
        if kind is None:
            typer.echo(f"{title}:")
        for name, note in known[title].items():
            typer.echo(f"{'  ' if kind is None else ''}{name}{f'  ({note})' if note else ''}")
    for line in disabled([KINDS[name] for name in (KINDS if kind is None else [kind]) if name in KINDS]):
        typer.echo(f"dyt: {line}", err=True)


def catalogue() -> Mapping[str, Mapping[str, str]]:
    """For every kind its names, with the origin of those that are not built in."""
    from dyt.config.presets import presets
    from dyt.registry import KINDS
    from dyt.train.named_runs import recipes

    def origins(kind: str) -> dict[str, str]:
        found = {name: KINDS[kind].origin(name) for name in KINDS[kind].names()}
        return {name: "" if origin == "dyt" else origin for name, origin in found.items()}

    return {kind: origins(kind) for kind in KINDS} | {
        "presets": dict.fromkeys(presets(), ""),
        "recipes": dict.fromkeys(recipes(), ""),
    }
