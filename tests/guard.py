"""A guard: while it is up, whatever code does beyond reading its own file and the weights cache is noted as a fault.

It hears Python's audit events (PEP 578), which an audit hook cannot be taken out of again: the hook is installed once,
and hears nothing while no guard is up. What the interpreter and libraries read of themselves is left alone.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CODE = (".py", ".pyc", ".so", ".pyd", ".pth")
CHANGES = frozenset(
    {
        *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.chmod"),
        *("os.chown", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile", "shutil.unpack_archive"),
    }
)
RUNS = frozenset(
    {
        *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.startfile", "subprocess.Popen", "os.fork"),
        *("pickle.find_class", "ctypes.dlopen", "webbrowser.open", "pty.spawn"),
    }
)
CALLS = frozenset({"socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"})
SYSTEM = (
    *("/proc/cpuinfo", "/proc/meminfo", "/proc/self/maps", "/proc/self/status", "/proc/self/cgroup", "/proc/sys/"),
    *("/sys/devices/system/cpu", "/sys/fs/cgroup"),
)
"""What torch, numpy and others ask the machine about its processors and memory."""
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass
class Guard:
    """What has been done beside the allowed.

    Attributes:
        read: files that may be read, with the folders under which everything may be.
        written: files that may be written, likewise.
        faults: an event with what it was about, in order.
    """

    read: Collection[Path]
    written: Collection[Path] = ()
    faults: list[str] = field(default_factory=list)

    def hear(self, event: str, args: tuple[Any, ...]) -> None:
        """One audit event."""
        if event == "open":
            self._opened(*args)
        elif event in CALLS or (event in RUNS and not _own_library(event, args)):
            self.faults.append(f"{event} {args[-1]!r}")
        elif event in CHANGES and not _under(args[0], self.written):
            self.faults.append(f"{event} {args[0]!r}")

    def _opened(self, path: Any, mode: Any, flags: Any) -> None:
        if not isinstance(path, (str, bytes, os.PathLike)):
            return  # a descriptor: opened before
        writes = any(c in str(mode or "") for c in "wax+") or bool((flags or 0) & WRITES)
        if writes and not _under(path, self.written) and os.fsdecode(path) != os.devnull:
            self.faults.append(f"write {os.fsdecode(path)}")
        elif not writes and not _under(path, [*self.read, *self.written]) and not _of_python(path):
            self.faults.append(f"read {os.fsdecode(path)}")


_up: list[Guard] = []


def _hook(event: str, args: tuple[Any, ...]) -> None:
    for guard in _up:
        guard.hear(event, args)


sys.addaudithook(_hook)


@contextmanager
def guarded(*read: Path, written: Collection[Path] = ()) -> Iterator[Guard]:
    """Inside, everything but reading these files and the weights cache is noted; at the end nothing may be.

    Raises:
        AssertionError: something was.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    guard = Guard([*(path.resolve() for path in read), cache.resolve()], [path.resolve() for path in written])
    _up.append(guard)
    try:
        yield guard
    finally:
        _up.remove(guard)
    if guard.faults:
        raise AssertionError("; ".join(guard.faults))


def _under(path: Any, allowed: Collection[Path]) -> bool:
    if not isinstance(path, (str, bytes, os.PathLike)):
        return False
    real = Path(os.fsdecode(path)).resolve()
    return any(real == each or each in real.parents for each in allowed)


def _of_python(path: Any) -> bool:
    """What the interpreter and installed packages read of themselves."""
    real = Path(os.fsdecode(path)).resolve()
    if real.suffix in CODE:
        return True
    places = {Path(place).resolve() for name, place in sysconfig.get_paths().items() if name != "scripts"}
    import dyt

    places |= {Path(sys.base_prefix).resolve() / "lib", Path(dyt.__file__).resolve().parent}
    return any(place in real.parents for place in places) or os.fsdecode(path).startswith(SYSTEM)


def _own_library(event: str, args: tuple[Any, ...]) -> bool:
    """Whether a shared library is loaded that is a package's or the system's, as an import does."""
    return event == "ctypes.dlopen" and (args[0] is None or "tmp" not in Path(str(args[0])).parts[:2])
