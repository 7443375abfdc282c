"""The errors that a user of `dyt` meets: each says in one line what was given, what is allowed, what to do."""

import difflib
import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any

LONGEST_NAME = 100
"""Characters; no name of anything is longer, so that nothing near is looked for."""
LONGEST_LIST = 700
"""Characters of the names that are allowed."""
LONGEST_LINE = 900
"""Characters of an error that lists whatever was wrong."""
LONGEST_ERROR = 1000
"""Characters of any error."""


class _Quoting(reprlib.Repr):
    """As `repr`, but it stops early: within a few items, levels and characters, whatever the value is."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 5, 300, 300, 300
        self.maxdict = self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxarray = 40

    def repr_str(self, x: str, level: int) -> str:
        return repr(x[: self.maxstring])

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of thousands of digits
        return repr(x) if x.bit_length() < 1000 else f"<an integer of {x.bit_length()} bits>"

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        if level <= 0:
            return "{...}"
        parts = [
            f"{self.repr1(key, level - 1)}: {self.repr1(value, level - 1)}"
            for key, value in islice(x.items(), self.maxdict)
        ]
        return f"{{{', '.join(parts)}{', ...' if len(x) > self.maxdict else ''}}}"


_quoting = _Quoting()


def quoted(value: object, limit: int = 60) -> str:
    """A value as a message quotes it: its `repr` on one line of at most `limit` characters, however large it is."""
    return shortened(_quoting.repr(value), limit)


def shortened(text: object, limit: int = 200) -> str:
    """Text on one line of at most `limit` characters; what is cut off is shown by three dots."""
    line = " ".join(str(text)[: 10 * limit].split())
    line = line if line.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def nearest(given: object, allowed: Iterable[str]) -> str:
    """`did you mean 'x'? allowed: x, y, z`, the same words wherever a name is refused."""
    names = sorted(allowed)
    short = isinstance(given, str) and len(given) <= LONGEST_NAME
    close = difflib.get_close_matches(str(given).lower(), names, n=1) if short else []
    hint = f"did you mean '{close[0]}'? " if close else ""
    said = ", ".join(names)
    if len(said) > LONGEST_LIST:
        said = f"{said[:LONGEST_LIST].rpartition(', ')[0]}, ... ({len(names)} in all)"
    return f"{hint}allowed: {said or 'none'}"


class DyTError(ValueError):
    """Bad input: a spec, a file, an image, a plug-in, a command line. The message is one line and complete.

    What others put into it, such as the name of a file, breaks no line and makes it no longer than 1,000 characters.
    """

    def __init__(self, message: object = "") -> None:
        text = str(message)
        super().__init__(text if text.isprintable() and len(text) <= LONGEST_ERROR else shortened(text, LONGEST_ERROR))


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
