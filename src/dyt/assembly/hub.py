"""The Hugging Face hub, where timm's pretrained weights come from: whether it answers, and what its cache holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import huggingface_hub
from huggingface_hub import constants
from timm.models import get_pretrained_cfg

PATIENCE = 3.0
"""Seconds to wait for the hub to answer at all."""

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""What timm looks for in a repository, where a model's description names no other file."""
CONFIG = "config.json"
"""What it reads besides, for a name with a scheme."""
SCHEMES = ("hf-hub", "hf_hub")
"""Before the colon of a name that is a repository of the hub."""


def offline_mode() -> bool:
    """Whether the user has switched the network off: HF_HUB_OFFLINE=1."""
    return bool(constants.is_offline_mode())


def reachable(patience: float = PATIENCE) -> bool:
    """Whether the hub answers within `patience` seconds; False in offline mode, without a request. Proxies are used.

    The request runs in a thread of its own, since looking up a host name can hang for longer than a request's timeout.
    """
    if offline_mode():
        return False
    answered = threading.Event()

    def ask() -> None:
        try:
            huggingface_hub.get_session().head(constants.ENDPOINT, timeout=patience)
        except Exception:  # of several libraries; all mean that nothing has answered
            return
        answered.set()

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return answered.is_set()


@contextmanager
def cache_only() -> Iterator[None]:
    """Inside, huggingface_hub reads its cache and sends no request; a file that is not there fails at once.

    Without it huggingface_hub asks for the newest version even of a file that it has, and without a network repeats
    that for nearly a minute. The switch is the whole process's: huggingface_hub has no other that timm would pass on.
    """
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def repository(name: str) -> tuple[str, str] | None:
    """The repository with the weights of a timm model, and its revision ("" for the newest); None for none known."""
    scheme, _, rest = name.rpartition(":")
    found = rest if scheme in SCHEMES else getattr(get_pretrained_cfg(name), "hf_hub_id", None)
    if not found:
        return None
    place, _, revision = found.partition("@")
    return (f"{place}{name}" if place.endswith("/") else place), revision


def cached(name: str) -> bool | None:
    """Whether the pretrained weights of a timm model are in the local cache; None for a model without hub weights."""
    where = repository(name)
    if where is None:
        return None
    if name.rpartition(":")[0] in SCHEMES:
        return _has(*where, CONFIG) and _has(*where, *WEIGHTS)
    cfg = get_pretrained_cfg(name)
    assert cfg is not None, "a repository is known of it"
    return _has(*where, *((cfg.hf_hub_filename,) if cfg.hf_hub_filename else WEIGHTS))


def _has(repository: str, revision: str, *files: str) -> bool:
    """Whether one of the files is in the cache; a revision of "" is the newest that the cache knows."""
    paths = (huggingface_hub.try_to_load_from_cache(repository, file, revision=revision or None) for file in files)
    return any(isinstance(path, str) for path in paths)  # else None, or a mark that the repository has no such file
