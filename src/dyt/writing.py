"""Files that are written whole or not at all: every file that this library leaves behind is written here.

A file is written in a folder of its own beside its target, brought to the disk, and then moved into place in one step.
The writer holds a lock in that folder. So a later save of the same target can tell, and remove, what a killed one left.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from dyt.errors import DyTError

try:
    import fcntl
except ImportError:  # Windows; what a killed save leaves there stays
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room, or give a path on another disk"),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "give a path that you may write to"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ), "give another name"),
    errno.ELOOP: "a link there points to itself; give another path",
}
"""What to do, by the number of the system's error."""


@contextmanager
def whole(path: str | Path, kind: type[DyTError] = DyTError) -> Iterator[Path]:
    """A path to write a file to, which replaces `path` when the context ends without an error.

    At any moment there is the old file or the new one, also after a crash of the machine. An existing file keeps its
    mode; a new one has what the process's umask leaves. A link stays, and what it points to is replaced. To a device
    or a pipe, such as /dev/stdout, the file's content is written. The given path has the name of `path`; further
    files that the writer puts beside it are moved along.

    Args:
        path: the file.
        kind: of the errors.

    Raises:
        kind: it cannot be written, and why. Nothing is left behind, and the old file is as it was.
    """
    path = Path(path)
    try:
        target = _target(path, kind)
        with tempfile.TemporaryDirectory() if target is None else _folder(target) as folder:
            draft = Path(folder, path.name)
            mode = _mode(draft, target)
            yield draft
            if target is None:
                with draft.open("rb") as source, path.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
            else:
                _publish(draft, target, mode)
    except Exception as error:
        # torch.save hides a full disk behind an error of its own
        reason = error if isinstance(error, OSError) else error.__context__ if isinstance(error, RuntimeError) else None
        if not isinstance(reason, OSError):
            raise
        raise _refusal(path, reason, kind) from error


def write_text(path: str | Path, text: str, kind: type[DyTError] = DyTError) -> None:
    """Writes a text file as UTF-8, with the text's own ends of lines.

    Raises:
        kind: as `whole`.
    """
    with whole(path, kind) as draft:
        draft.write_text(text, encoding="utf-8", newline="")


def check_target(path: str | Path, kind: type[DyTError] = DyTError) -> None:
    """Refuses, before anything is computed, a path that no file can be written to.

    Raises:
        kind: a directory, in a directory that does not exist, or a name that the system does not take.
    """
    path = Path(path)
    try:
        _target(path, kind)
    except OSError as error:
        raise _refusal(path, error, kind) from error


def tidy(path: str | Path) -> None:
    """Removes what killed saves of this file have left beside it. A save does so by itself."""
    target = Path(os.path.realpath(path))
    _remove_leftovers(target.parent, _prefix(target))


def _prefix(target: Path) -> str:
    """How the names of the folders begin that saves of the target write in."""
    name = os.fsencode(target.name)  # which may be as long as names can be
    return f".{name[:64].decode(errors='ignore')}.{zlib.crc32(name):08x}."


def _target(path: Path, kind: type[DyTError]) -> Path | None:
    """The file that is to be replaced, behind all links; None for a device, a pipe, or a stream of this process."""
    if "\0" in str(path):
        raise kind(f"cannot write {_shown(path)}: a name with a null character; give another name")
    try:
        found = path.stat()
    except FileNotFoundError:
        found = None
    if found is not None and stat.S_ISDIR(found.st_mode):
        raise kind(f"cannot write {_shown(path)}: it is a directory; give the path of a file")
    streams = ("/dev/", "/proc/")  # /dev/stdout may lead to a file, which the shell holds open
    if found is not None and (not stat.S_ISREG(found.st_mode) or os.path.abspath(path).startswith(streams)):
        return None
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise kind(f"cannot write {_shown(path)}: no directory {_shown(target.parent)}; make it first")
    return target


@contextmanager
def _folder(target: Path) -> Iterator[Path]:
    """A new folder beside the target, which is removed in the end, by this process or by a later save."""
    prefix = _prefix(target)
    _remove_leftovers(target.parent, prefix)
    while True:
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=".tmp"))
        lock = _locked(folder)
        if lock is not None:
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """An open file whose lock says that the folder is used; None where another process removes, or removed, it."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o600)
    except FileNotFoundError:
        return None
    try:
        if fcntl is not None:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_nlink:
            return lock
    except BlockingIOError:
        pass
    except OSError as error:  # a file system without locks, where nobody removes anything of others
        if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}:
            return lock
        os.close(lock)
        raise
    os.close(lock)
    return None


def _remove_leftovers(parent: Path, prefix: str) -> None:
    """Removes folders of saves of the same target that were killed; those of living ones are locked."""
    if fcntl is None:
        return
    try:
        found = [Path(entry.path) for entry in os.scandir(parent) if entry.name.startswith(prefix)]
    except PermissionError:  # a folder in which one may write, but not look
        return
    for folder in found:
        with suppress(OSError):  # of another user, gone meanwhile, or no locks there: it is left alone
            lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def _mode(draft: Path, target: Path | None) -> int:
    """Makes the empty file. The mode that it is to have: that of the one it replaces, or what the system gives it."""
    made = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        new = os.fstat(made).st_mode
    finally:
        os.close(made)
    return (target.stat().st_mode if target is not None and target.is_file() else new) & 0o777


def _publish(draft: Path, target: Path, mode: int) -> None:
    """Moves the file, and what was written beside it, from its folder to the target's, the file last."""
    beside = [file for file in sorted(draft.parent.iterdir()) if file.name not in {draft.name, LOCK}]
    for file in (*beside, draft):
        file.chmod(mode | stat.S_IRUSR | stat.S_IWUSR)
        with file.open("r+b") as written:
            os.fsync(written.fileno())
        file.chmod(mode)
        os.replace(file, target if file == draft else target.with_name(file.name))
    if hasattr(os, "O_DIRECTORY"):
        folder = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        except OSError as error:
            if error.errno != errno.EINVAL:  # not every file system can do it with a folder
                raise
        finally:
            os.close(folder)


def _refusal(path: Path, error: OSError, kind: type[DyTError]) -> DyTError:
    reason = error.strerror or " ".join(str(error).split())[:200]
    return kind(f"cannot write {_shown(path)}: {reason}; {REMEDIES.get(error.errno or 0, 'give another path')}")


def _shown(path: Path) -> str:
    text = repr(str(path))
    return text if len(text) <= 300 else f"{text[:150]}...{text[-100:]}"
