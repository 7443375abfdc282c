"""The errors that a user of `dyt` meets: each says in one line what was given, what is allowed, what to do."""

import difflib
from collections.abc import Iterable


def nearest(given: object, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? allowed: x, y, z`, the same words wherever a name is refused."""
    names = sorted(allowed)
    close = difflib.get_close_matches(given.lower(), names, n=1) if isinstance(given, str) else []
    hint = f"did you mean '{close[0]}'? " if close else ""
    return f"{hint}allowed: {', '.join(names) or 'none'}"


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


class ContextError(DyTError):
    """A context that was not left as contexts nest, or that would steer what it was not entered for."""


class UnsupportedError(DyTError):
    """A backbone, variant or executor that cannot be combined; the message says why; nothing was changed."""
