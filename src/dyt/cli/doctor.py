"""`dyt doctor`: is everything there, and what could be missing on this machine."""

from __future__ import annotations

import os
import platform
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version

import typer

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "accelerate",
    "torchmetrics",
    "pydantic",
    "safetensors",
    "matplotlib",
    "typer",
)
OPTIONAL = {
    "datasets": "Hugging Face datasets as training data",
    "peft": "the tuner lora",
    "tensorboard": "TensorBoard logs",
}


def doctor() -> None:
    """Check versions, blocks, devices, plug-ins and the model hub. Exit code 1 when something is broken."""
    from dyt.cli.probe import probe
    from dyt.registry import PluginWarning

    broken: list[str] = []
    warned: list[str] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)  # what they say is said here
        probe()  # before anything asks for families, whose plug-ins may hang
        for title, lines in {
            "versions": _versions(broken),
            "blocks of other libraries": _blocks(warned),
            "devices": _devices(),
            "plug-ins": _plugins(broken),
            "model hub": _hub(),
        }.items():
            typer.echo(title)
            for line in lines:
                typer.echo(f"  {line}")
    if warned:
        typer.echo(f"{len(warned)} warned of: {'; '.join(warned)}")
    typer.echo(f"{len(broken)} broken: {'; '.join(broken)}" if broken else "all is well" if not warned else "0 broken")
    if broken:
        raise typer.Exit(1)


def _versions(broken: list[str]) -> Iterator[str]:
    import dyt

    yield f"dyt {dyt.__version__}, python {platform.python_version()}, {platform.platform(terse=True)}"
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            broken.append(f"{package} is not installed")
    yield ", ".join(found)
    for package, purpose in OPTIONAL.items():
        try:
            yield f"{package} {version(package)} (optional)"
        except PackageNotFoundError:
            yield f"{package} not installed (optional: {purpose})"


def _blocks(warned: list[str]) -> Iterator[str]:
    """Whether timm and transformers compute in their blocks what the families were written for."""
    from dyt.families import sources
    from dyt.registry import families

    changed: dict[sources.Changed, list[str]] = {}
    for name, family in families.items():
        for each in sources.survey(family):
            changed.setdefault(each, []).append(name)
    for each, names in changed.items():
        warned.append(each.method)
        yield f"WARNING: {each}; refused: family {', '.join(names)}"
    if changed:
        wanted = ",".join(sorted({f"{each.library}=={each.version}" for each in changed}))
        yield f"upgrade dyt, install a known version, or accept it untested: {sources.OPT_IN}={wanted}"
    else:
        yield "all as the families were tested with"


def _devices() -> Iterator[str]:
    import torch

    yield f"cpu: {os.cpu_count()} cores, torch uses {torch.get_num_threads()} threads"
    if not torch.accelerator.is_available():
        yield "no accelerator"
        return
    kind = torch.accelerator.current_accelerator()
    for index in range(torch.accelerator.device_count()):
        name = f" ({torch.cuda.get_device_name(index)})" if torch.cuda.is_available() else ""
        yield f"{kind}:{index}{name}"


def _plugins(broken: list[str]) -> Iterator[str]:
    from dyt.registry import KINDS

    for kind, registry in KINDS.items():
        names = registry.names()
        foreign = [f"{name} (from {registry.origin(name)})" for name in names if registry.origin(name) != "dyt"]
        yield f"{kind}: {len(names) - len(foreign)} built in{''.join(f', {name}' for name in foreign)}"
        for problem in registry.problems():
            broken.append(str(problem))


def _hub() -> Iterator[str]:
    from huggingface_hub.constants import HF_HUB_CACHE

    from dyt.assembly import hub
    from dyt.config.spec import BackboneSpec

    if hub.offline_mode():
        yield "offline, as HF_HUB_OFFLINE asks: only cached weights can be used"
    elif hub.reachable():
        yield "reachable: pretrained weights can be fetched"
    else:
        yield f"no answer within {hub.PATIENCE:g} s: only cached weights, local files and 'dyt demo' can be used"
    yield f"cache: {HF_HUB_CACHE}{'' if os.path.isdir(HF_HUB_CACHE) else ' (not made yet)'}"
    default = BackboneSpec().name
    yield f"{default}: {'cached' if hub.cached(default) else 'not cached'}"
