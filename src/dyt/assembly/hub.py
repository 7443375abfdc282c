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

FILES = ("model.safetensors", "pytorch_model.bin")


def offline_mode() -> bool:
    """Whether the user has asked for no network: HF_HUB_OFFLINE=1."""
    return bool(constants.is_offline_mode())


def reachable(patience: float = PATIENCE) -> bool:
    """Whether the hub answers within `patience` seconds; not asked in offline mode. Proxies are used.

    The question runs in a thread of its own, since looking up a name can hang for longer than any timeout of a request.
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
def at_hand() -> Iterator[bool]:
    """Inside, a hub that does not answer counts as offline: cached files are used, and a missing one fails at once.

    Without it huggingface_hub asks again for nearly a minute before it says so. The switch is the whole process's.

    Yields:
        Whether the hub answers.
    """
    before, online = constants.HF_HUB_OFFLINE, reachable()
    constants.HF_HUB_OFFLINE = not online
    try:
        yield online
    finally:
        constants.HF_HUB_OFFLINE = before


def cached(name: str) -> bool | None:
    """Whether the pretrained weights of a timm model are in the local cache; None for a model without hub weights."""
    cfg = get_pretrained_cfg(name)
    repository = None if cfg is None else cfg.hf_hub_id
    if not repository:
        return None
    repository = f"{repository}{name}" if repository.endswith("/") else repository
    found = (huggingface_hub.try_to_load_from_cache(repository, file) for file in FILES)
    return any(isinstance(path, str) for path in found)
