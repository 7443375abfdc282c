"""Files are written whole or not at all, and of what a killed save leaves nothing stays."""

import ast
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import dyt
from dyt import DyTError, writing
from dyt.config import files
from dyt.io import tensor_file
from dyt.measure.plots import save_figure
from dyt.train.state import RunError, write_whole
from dyt.writing import check_target, whole, write_text
from laws.models import tiny

posix = pytest.mark.skipif(os.name != "posix", reason="modes, links and locks of POSIX")
user = pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write everywhere")


LIGHT = f"""
import sys, types
face = sys.modules["dyt"] = types.ModuleType("dyt")
face.__path__ = [{str(Path(dyt.__file__).parent)!r}]
"""
"""Lets a process import one module without all the others."""


def content(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.iterdir()}


def test_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with whole(tmp_path / "a.txt") as draft:
        assert draft.name == "a.txt"  # some writers choose a format by the ending
        draft.write_text("new")
        assert (tmp_path / "a.txt").read_text() == "old"
    assert content(tmp_path) == {"a.txt": "new"}


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, DyTError, SystemExit])
def test_whatever_happens_meanwhile(error: type[BaseException], tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(error), whole(tmp_path / "a.txt") as draft:  # noqa: PT012
        draft.write_text("half")
        raise error
    assert content(tmp_path) == {"a.txt": "old"}


def test_files_beside_come_along(tmp_path: Path) -> None:
    """As ONNX has its weights, where they are large."""
    with whole(tmp_path / "a.onnx") as draft:
        draft.write_text("model")
        draft.with_name("a.onnx.data").write_text("weights")
    assert content(tmp_path) == {"a.onnx": "model", "a.onnx.data": "weights"}


@posix
@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_what_the_umask_leaves(mask: int, mode: int, tmp_path: Path) -> None:
    """Whatever mode the writer gave it, as safetensors does."""
    before = os.umask(mask)
    try:
        for name, given in (("a", None), ("b", 0o600), ("c", 0o777)):
            with whole(tmp_path / name) as draft:
                draft.write_text("new")
                if given is not None:
                    draft.chmod(given)
        dyt.save(tiny(), tmp_path / "model")
    finally:
        os.umask(before)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.iterdir()} == {mode}


@posix
def test_the_umask_is_never_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the whole process's: another thread's files would have any mode meanwhile."""

    def changed(mask: int) -> int:
        raise AssertionError("the umask was changed")

    monkeypatch.setattr(os, "umask", changed)
    dyt.save(tiny(), tmp_path / "a")
    write_text(tmp_path / "b", "")
    source = Path(dyt.__file__).parent
    assert not [path for path in source.rglob("*.py") if "umask(" in path.read_text(encoding="utf-8")]


@posix
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o444])
def test_an_existing_file_keeps_its_mode(mode: int, tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    (tmp_path / "a").chmod(mode)
    write_text(tmp_path / "a", "new")
    assert content(tmp_path) == {"a": "new"}
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@posix
def test_a_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "latest").symlink_to("store/model")
    for text in ("first", "second"):  # the first finds a link to nothing
        write_text(tmp_path / "latest", text)
        assert (tmp_path / "latest").is_symlink()
        assert content(tmp_path / "store") == {"model": text}
    (tmp_path / "folder").symlink_to("store")
    write_text(tmp_path / "folder" / "model", "third")
    assert content(tmp_path / "store") == {"model": "third"}
    assert len(list(tmp_path.iterdir())) == 3


@posix
def test_devices_and_pipes_are_written_to_and_not_replaced(tmp_path: Path) -> None:
    write_text("/dev/null", "gone")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    dyt.save(tiny(), "/dev/null")
    assert stat.S_ISCHR(Path("/dev/null").stat().st_mode)
    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_text(tmp_path / "pipe", "through")
    reader.join(10)
    assert read == ["through"]
    assert [file.name for file in tmp_path.iterdir()] == ["pipe"]


@posix
def test_a_stream_that_leads_to_a_file_is_written_to(tmp_path: Path) -> None:
    code = f"{LIGHT}from dyt.writing import write_text\nwrite_text('/dev/stdout', 'text')\nprint(' more')"
    with (tmp_path / "out").open("ab") as out:
        subprocess.run([sys.executable, "-c", code], stdout=out, check=True)
    assert (tmp_path / "out").read_text() == "text more\n"


# What cannot be written -----------------------------------------------------------------------------------------------


def full_disk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    def refuse(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    return tmp_path / "a"


def a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    (tmp_path / "b").mkdir()
    return tmp_path / "b"


WRONG: dict[str, tuple[Callable[[pytest.MonkeyPatch, Path], Path], str]] = {
    "full disk": (full_disk, "No space left on device; make room, or give a path on another disk"),
    "a directory": (a_directory, "it is a directory; give the path of a file"),
    "no directory": (lambda _, folder: folder / "none" / "a", "no directory '.*none'; make it first"),
    "below a file": (lambda _, folder: folder / "a" / "b", "Not a directory"),
    "too long a name": (lambda _, folder: folder / ("a" * 300), "File name too long; give another name"),
    "too long a path": (
        lambda _, folder: folder / "/".join(["b" * 200] * 40),
        r"'\.\.\.|\.\.\.b+.*: File name too long",
    ),
    "a null character": (lambda _, folder: folder / "a\0b", "a null character; give another name"),
}
WRITERS: dict[str, Callable[[Path], None]] = {
    "write_text": lambda path: write_text(path, "new"),
    "save": lambda path: dyt.save(tiny(), path),
    "spec": lambda path: files.write({"a": 1}, path),
    "run": lambda path: write_whole(path, "new"),
}


@posix
@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("what", WRONG)
def test_what_cannot_be_written_is_one_error_and_leaves_nothing(
    what: str, writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_text("old")
    path = WRONG[what][0](monkeypatch, tmp_path)
    with pytest.raises(DyTError, match=WRONG[what][1]) as caught:
        WRITERS[writer](path)
    assert str(caught.value).startswith("cannot write '")
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)
    assert {file.name: file.is_dir() or file.read_text() for file in tmp_path.iterdir()} == {
        "a": "old",
        **({"b": True} if what == "a directory" else {}),
    }
    if what != "full disk":
        with pytest.raises(DyTError, match=WRONG[what][1]):  # already before anything is computed
            check_target(path)


@posix
def test_a_name_as_long_as_names_can_be(tmp_path: Path) -> None:
    for name in ("a" * 255, "ü" * 127):
        write_text(tmp_path / name, "new")
    assert set(content(tmp_path).values()) == {"new"}


@user
def test_no_permission(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    tmp_path.chmod(0o500)
    with pytest.raises(DyTError, match="Permission denied; give a path that you may write to"):
        write_text(tmp_path / "a", "new")
    assert content(tmp_path) == {"a": "old"}
    tmp_path.chmod(0o700)


def test_no_permission_is_named_whoever_runs_this(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> str:
        raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path))

    monkeypatch.setattr(writing.tempfile, "mkdtemp", refuse)
    with pytest.raises(dyt.CheckpointError, match=r"'.*a': Permission denied; give a path that you may write to"):
        dyt.save(tiny(), tmp_path / "a")


def save_tensors(path: Path, count: int) -> None:
    """As a run saves its state."""
    with whole(path, RunError) as draft:
        tensor_file.write({"a": torch.ones(count)}, {"format": "test"}, draft)


@posix
def test_a_disk_that_fills_up_meanwhile(tmp_path: Path) -> None:
    """Simulated by a largest size of files, at which the system's own writes fail in safetensors and torch."""
    import resource

    model, other = tiny(), tmp_path / "tensors"
    dyt.save(model, tmp_path / "model")
    save_tensors(other, 1)
    before = (tmp_path / "model").read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(dyt.CheckpointError, match=r"^cannot write '.*model': File too large; make room"):
            dyt.save(model, tmp_path / "model")
        with pytest.raises(RunError, match=r"^cannot write '.*tensors': File too large; make room"):
            save_tensors(other, 99_999)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["model", "tensors"]
    assert (tmp_path / "model").read_bytes() == before
    assert load_file(other)["a"].tolist() == [1]


# Writers that are killed ----------------------------------------------------------------------------------------------

SAVING = f"""{LIGHT}
from pathlib import Path
from dyt.writing import whole

print("ready", flush=True)
for number in range(10**9):
    with whole(Path(sys.argv[1])) as draft:
        with draft.open("w") as file:
            for _ in range(64):
                file.write(f"{{number}}\\n" * 64)
                file.flush()
"""


def killed_while_saving(path: Path, seconds: float) -> None:
    child = subprocess.Popen([sys.executable, "-c", SAVING, str(path)], stdout=subprocess.PIPE)
    assert child.stdout is not None
    with child.stdout:
        assert child.stdout.readline() == b"ready\n"
        time.sleep(seconds)
        child.send_signal(signal.SIGKILL)
        child.wait()


def is_whole(path: Path) -> bool:
    lines = path.read_text().splitlines()
    return len(lines) == 64 * 64 and len(set(lines)) == 1


@posix
def test_kills_leave_whole_files_and_the_next_save_tidies_up(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole(path) as draft:
        draft.write_text("0\n" * 64 * 64)
    for seconds in (0.01, 0.023, 0.037, 0.051, 0.064):
        killed_while_saving(path, seconds)
        assert is_whole(path)
    write_text(path, "new")
    assert content(tmp_path) == {"a": "new"}


@posix
def test_only_what_dead_writers_of_the_same_target_left_is_removed(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with whole(tmp_path / "a") as living, whole(tmp_path / "other") as other:
        leftover = living.parent.with_name(living.parent.name.replace(".tmp", "x.tmp"))  # nobody holds its lock
        leftover.mkdir()
        (leftover / "a").write_text("half")
        lone = other.parent.with_name(other.parent.name.replace(".tmp", "x.tmp"))  # of another target
        lone.mkdir()
        living.write_text("living")
        other.write_text("other")
        write_text(tmp_path / "a", "between")
        assert not leftover.exists()
        assert living.exists()
        assert lone.exists()
        assert (tmp_path / "a").read_text() == "between"
    assert (tmp_path / "a").read_text() == "living"
    write_text(tmp_path / "other", "again")
    assert content(tmp_path) == {"a": "living", "other": "again"}


@posix
def test_a_folder_taken_for_a_dead_writer_s_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making the folder and locking it, another save may come by."""
    make, taken = writing.tempfile.mkdtemp, []

    def interrupted(**where: Any) -> str:
        made = make(**where)
        if len(taken) < 2:
            taken.append(made)
            writing._remove_leftovers(tmp_path, Path(made).name)
            assert not Path(made).exists()
        return made

    monkeypatch.setattr(writing.tempfile, "mkdtemp", interrupted)
    write_text(tmp_path / "a", "new")
    assert len(taken) == 2
    assert content(tmp_path) == {"a": "new"}


def test_many_threads_save_the_same_file(tmp_path: Path) -> None:
    wrong: list[BaseException] = []

    def save(letter: str) -> None:
        try:
            for _ in range(8):
                write_text(tmp_path / "a", letter * 10_000)
                assert len(set((tmp_path / "a").read_text())) == 1
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=save, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(tmp_path.iterdir())) == 1


def test_the_file_and_its_folder_are_brought_to_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file before it is moved, the folder after."""
    done, sync, move = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (done.append(stat.S_IFMT(os.fstat(handle).st_mode)), sync(handle)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append(0), move(a, b)))
    write_text(tmp_path / "a", "new")
    assert done == ([stat.S_IFREG, 0, stat.S_IFDIR] if hasattr(os, "O_DIRECTORY") else [stat.S_IFREG, 0])


# Everything that the library writes -----------------------------------------------------------------------------------


def test_figures_are_written_whole(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    for ending in ("png", "svg", "pdf"):
        save_figure(Figure(), tmp_path / f"a.{ending}", None)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(DyTError, match="no directory"):
        save_figure(Figure(), tmp_path / "none" / "a.png")


ELSEWHERE = {
    "train/state.py": {"open"},  # metrics.jsonl grows by a line, and a line that was cut off is left out
    "sweeps/pool.py": {"open"},  # the log that a process writes to
    "scaffold/__init__.py": {"write_text"},  # in a folder that is moved into place as a whole
    "demo/digits.py": {"save", "write_bytes"},  # images of a hundred bytes, at once
    "tasks/processes.py": {"open"},  # a stream
    "cli/probe.py": {"fdopen"},  # answers to the parent
    "train/loop.py": {"save"},  # the keeper's, which writes by `whole`
}
"""What writes by other means, and why."""


def written(tree: ast.AST) -> set[str]:
    """Calls by which a file is written, other than to a draft of `whole`."""
    found = set()
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        arguments = [ast.unparse(each) for each in node.args]
        target = ast.unparse(node.func.value) if isinstance(node.func, ast.Attribute) else ""
        modes = [each for each in arguments if each.strip("'\"") and set(each.strip("'\"")) <= set("wabx+rt")]
        writes = name in {"write_text", "write_bytes", "savefig", "save_file", "to_csv", "tofile", "touch"} and target
        writes = writes or (name == "save" and target not in {"", "self", "dyt", "self.directory"})
        writes = writes or (name in {"open", "fdopen"} and any(set(mode) & set("wax+") for mode in modes))
        if writes and "draft" not in {target, *arguments} and "file" not in arguments:
            found.add(name)
    return found


def test_everything_else_is_written_by_this_module() -> None:
    source = Path(dyt.__file__).parent
    found = {
        str(path.relative_to(source)): calls
        for path in source.rglob("*.py")
        if path.name not in {"writing.py", "tensor_file.py"} and (calls := written(ast.parse(path.read_text("utf-8"))))
    }
    assert found == ELSEWHERE


def test_an_equal_model_has_the_same_bytes(tmp_path: Path) -> None:
    """Also from another process, whose sets have another order."""
    torch.manual_seed(0)
    model = tiny()
    for name in "abc":
        dyt.save(model, tmp_path / name)
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import torch; torch.set_num_threads(1)\n"
        f"import dyt; from laws.models import tiny; torch.manual_seed(0); dyt.save(tiny(), {str(tmp_path / 'd')!r})"
    )
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": "7"}, check=True)
    assert len({file.read_bytes() for file in tmp_path.iterdir()}) == 1
    assert len(list(tmp_path.iterdir())) == 4
