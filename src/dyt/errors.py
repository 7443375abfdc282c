"""The errors that a user of `dyt` meets: each says in one line what was given, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


def nearest(given: object, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? allowed: x, y, z`, the same words wherever a name is refused."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given.lower(), names, n=1) if isinstance(given, str) else []
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}allowed: {', '.join(names) or 'none'}"


def bounded(text: str, limit: int = 600) -> str:
    """A text that may have the words of a stranger's file in it as one line of at most `limit` printable characters."""
    line = " ".join(text.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line[: limit + 1])
    return shown if len(shown) <= limit else f"{shown[: limit - 3]}..."


class DyTError(ValueError):
    """Bad input: a spec, a file, an image, a plug-in, a command line. The message is one line and complete."""


class SpecError(DyTError):
    """A spec that does not validate; the message names the field, what was given and what is allowed."""


class CheckpointError(DyTError):
    """A file that cannot be loaded whole; nothing was changed."""


class WeightsError(DyTError):
    """Pretrained weights that cannot be had (offline, unknown to timm, a wrong file)."""


class RegistryError(DyTError):
    """A component that cannot be registered or had."""


class UnsupportedError(DyTError):
    """A backbone, variant or executor that cannot be combined; the message says why; nothing was changed."""
