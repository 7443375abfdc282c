"""Small faults put into the code one at a time: which do the tests notice?

    python scripts/mutate.py --sample 150 --out mutations.jsonl
    python scripts/mutate.py --list
    python scripts/mutate.py --only objective/joint.py

A fault (mutant) is one node of a file's syntax tree replaced by another: a comparison flipped, an operator swapped, a
constant moved by one, a condition negated, a statement dropped. Each is written into a copy of `src` and `tests`, and
the tests that the file is mapped to (`scripts/mutate.toml`) are run there until the first failure. One that they pass
has survived: a test is missing, or the mutant does the same as the code. The latter are named, with the reason, in
`scripts/mutate.toml` and left out.

torch, timm and pytest are imported once; each mutant is run in a fork of that process, which imports `dyt` afresh.
Results are appended to `--out` as they come, and a later call with the same file goes on where it stopped. It runs a
mutant again when its file has changed, and a survivor also when its tests have. Needs `os.fork` (Linux, macOS).
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import tomllib
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TABLE = Path(__file__).with_suffix(".toml")
KILLED, SURVIVED, TIMED_OUT, EQUIVALENT = "killed", "survived", "timed out", "equivalent"

COMPARED: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
SWAPPED: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
}
NAMES = {
    "min": "max",
    "minimum": "maximum",
    "clamp_min": "clamp_max",
    "any": "all",
    "sum": "mean",
    "floor": "ceil",
    "zeros": "ones",
    "new_zeros": "new_ones",
    "zeros_like": "ones_like",
}
NAMES |= {new: old for old, new in NAMES.items()}
DROPPED = ("detach", "clone")
"""Methods whose call is replaced by what it is called on."""


@dataclass(frozen=True)
class Mutant:
    """One fault.

    Attributes:
        file: below `src/dyt`.
        name: the same for as long as the function around it and its text are: `function: old -> new`, with a number
            where there are several.
        line: where it is.
        source: of the whole file, with the fault.
    """

    file: str
    name: str
    line: int
    source: str

    @property
    def id(self) -> str:
        return f"{self.file}::{self.name}"


# Making them ----------------------------------------------------------------------------------------------------------


def mutants(file: str, source: str) -> list[Mutant]:
    """All of a file."""
    made: list[Mutant] = []
    seen: Counter[str] = Counter()
    starts = [0]
    for text in source.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(text))
    encoded = source.encode()
    for function, node, new in _changes(ast.parse(source)):
        first = starts[node.lineno - 1] + node.col_offset
        last = starts[node.end_lineno - 1] + node.end_col_offset
        old = encoded[first:last].decode()
        changed = encoded[:first] + new.encode() + encoded[last:]
        try:
            ast.parse(changed)
        except SyntaxError:  # an expression that needs brackets where it stands
            changed = encoded[:first] + f"({new})".encode() + encoded[last:]
            ast.parse(changed)
        name = f"{function}: {_short(old)} -> {_short(new)}"
        seen[name] += 1
        number = f" [{seen[name]}]" if seen[name] > 1 else ""
        made.append(Mutant(file, name + number, node.lineno, changed.decode()))
    return made


def _short(text: str) -> str:
    return " ".join(text.split())


def _changes(tree: ast.Module) -> Iterator[tuple[str, Any, str]]:
    """(function, node, what it becomes) of every change; annotations, decorators, assertions and messages are left."""

    def walk(node: ast.AST, function: str) -> Iterator[tuple[str, Any, str]]:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}" if function else node.name
        if isinstance(node, (ast.Assert, ast.JoinedStr, ast.Import, ast.ImportFrom)):
            return
        if isinstance(node, ast.stmt | ast.expr):
            for new in _of(node):
                yield function or "module", node, new
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns", "decorator_list", "bases", "type_params"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, ast.AST) and not _left_out(child):
                    yield from walk(child, function)

    yield from walk(tree, "")


def _left_out(node: ast.AST) -> bool:
    """Docstrings; and `strict=` of zip, a guard against what does not occur."""
    docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    return docstring or (isinstance(node, ast.keyword) and node.arg == "strict")


def _of(node: ast.stmt | ast.expr) -> Iterator[str]:  # noqa: PLR0912
    """What a node may become."""
    match node:
        case ast.Compare(ops=[op]):
            for other in COMPARED[type(op)]:
                yield _with(node, ops=[other()])
        case ast.BinOp(op=op) if type(op) in SWAPPED:
            yield _with(node, op=SWAPPED[type(op)]())
        case ast.AugAssign(op=op):
            if type(op) in SWAPPED:
                yield _with(node, op=SWAPPED[type(op)]())
            yield "pass"
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub() | ast.Invert()):
            yield ast.unparse(node.operand)
        case ast.Constant(value=bool()):
            yield repr(not node.value)
        case ast.Constant(value=int() | float()):
            yield repr(node.value + 1)
            yield repr(node.value - 1)
        case ast.IfExp():
            yield _with(node, body=node.orelse, orelse=node.body)
        case ast.Call(func=ast.Name(id=name)) if name in NAMES:
            yield _with(node, func=ast.Name(NAMES[name]))
        case ast.Call(func=ast.Attribute(value=value, attr=name)):
            if name in NAMES:
                yield _with(node, func=ast.Attribute(value, NAMES[name]))
            if name in DROPPED and not node.args:
                yield ast.unparse(value)
        case ast.Return(value=value) if value is not None and not isinstance(value, ast.Constant):
            yield "return None"
        case ast.Expr(value=ast.Call()) | ast.Raise():
            yield "pass"
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "pass"


def _with(node: Any, **fields: Any) -> str:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return ast.unparse(changed)


# Running them ---------------------------------------------------------------------------------------------------------


class Runner:
    """A copy of the code and its tests, in which one mutant at a time is tried in a fork of this process."""

    def __init__(self, folder: Path, timeout: float, examples: int) -> None:
        self.folder, self.timeout, self.examples = folder, timeout, examples
        for name in ("src", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        sys.dont_write_bytecode = True
        # what is slow to import and is none of ours
        import hypothesis  # noqa: F401
        import timm.models  # noqa: F401
        import torch
        import torch.utils.flop_counter

        torch.set_num_threads(1)

    def tried(self, mutant: Mutant | None, tests: Sequence[str]) -> tuple[str, float, str]:
        """(outcome, seconds, the first failure), of the code as it is for None."""
        path = None if mutant is None else self.folder / "src" / "dyt" / mutant.file
        before = None if path is None else path.read_text()
        begun = time.monotonic()
        log = self.folder / "log.txt"
        try:
            if path is not None and mutant is not None:
                path.write_text(mutant.source)
            child = os.fork()
            if child == 0:
                self._child(log, tests)
            code = self._waited(child)
        finally:
            if path is not None and before is not None:
                path.write_text(before)
        outcome = TIMED_OUT if code is None else SURVIVED if code == 0 else KILLED
        text = log.read_text(errors="replace")
        if code == 5:
            raise SystemExit(f"no tests were collected from {list(tests)}:\n{text[-2000:]}")
        failed = [line for line in text.splitlines() if line.startswith(("FAILED", "ERROR"))]
        return outcome, time.monotonic() - begun, failed[0] if failed else "" if code == 0 else text[-300:]

    def _child(self, log: Path, tests: Sequence[str]) -> None:
        """Runs the tests and ends the process; never returns."""
        code = 70
        try:
            os.setsid()
            out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(out, 1)
            os.dup2(out, 2)
            os.chdir(self.folder)
            os.environ["PYTHONPATH"] = str(self.folder / "src")
            sys.path.insert(0, str(self.folder / "src"))
            import pytest

            given = [
                "-x",
                "-q",
                "--no-header",
                "--assert=plain",
                "-p",
                "no:cacheprovider",
                "--examples",
                str(self.examples),
            ]
            code = int(pytest.main([*given, *(arguments(tests))]))
        except BaseException:  # whatever it is, this process must not go on as if it were the other
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _waited(self, child: int) -> int | None:
        """Its exit code; None when it took too long, and was killed with all that it started."""
        until = time.monotonic() + self.timeout
        while time.monotonic() < until:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return None


def arguments(tests: Sequence[str]) -> list[str]:
    """What pytest is given for an entry of the table: paths below tests, and options as they are."""
    return [name if name.startswith("-") else f"tests/{name}" for name in tests]


def digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def tests_digest(tests: Sequence[str]) -> str:
    """Of what the tests are: of every file of those folders and files."""
    found = []
    for name in tests:
        if name.startswith("-"):
            continue
        path = ROOT / "tests" / name.partition("::")[0]
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        found += [file.read_text() for file in files]
    return digest("\0".join([*tests, *found]))


# The command ----------------------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, metavar="N", help="a seeded sample of so many, in place of all")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (0)")
    parser.add_argument("--only", action="append", metavar="TEXT", help="those whose id has this text; may be repeated")
    parser.add_argument("--timeout", type=float, default=120, metavar="S", help="for each, in seconds (120)")
    parser.add_argument("--examples", type=int, default=2, metavar="N", help="of each property in the tests (2)")
    parser.add_argument("--out", type=Path, default=Path("mutations.jsonl"), help="results, also of earlier calls")
    parser.add_argument("--again", action="store_true", help="run again those that survived")
    parser.add_argument("--list", action="store_true", help="list the mutants and stop")
    given = parser.parse_args()
    table = tomllib.loads(TABLE.read_text())
    made = chosen(table, given)
    if given.list:
        print("\n".join(f"{each.id}  (line {each.line})" for each in made))
        return
    equivalent = {f"{each['file']}::{each['change']}": each["reason"] for each in table.get("equivalent", [])}
    rows = (
        {row["key"]: row for row in map(json.loads, given.out.read_text().splitlines())} if given.out.exists() else {}
    )
    found: dict[str, dict[str, Any]] = {}
    # of now: the copy is made of them before they may be edited
    digests = {tests: tests_digest(tests) for tests in map(tuple, table["tests"].values())}
    with tempfile.TemporaryDirectory(prefix="mutate-") as folder:
        runner: Runner | None = None
        passed: set[tuple[str, ...]] = set()
        for number, mutant in enumerate(made, 1):
            tests = tuple(table["tests"][mutant.file])
            if mutant.id in equivalent:
                found[mutant.id] = {"id": mutant.id, "line": mutant.line, "outcome": EQUIVALENT}
                continue
            key, those = f"{mutant.id} {digest(mutant.source)}", f"{digests[tests]} {given.examples}"
            kept = rows.get(key)
            if kept is None or (kept["outcome"] == SURVIVED and (given.again or kept["tests"] != those)):
                runner = runner or Runner(Path(folder), given.timeout, given.examples)
                if tests not in passed:
                    outcome, seconds, failure = runner.tried(None, tests)
                    if outcome != SURVIVED:
                        raise SystemExit(f"the tests fail without a fault ({outcome}): {failure}")
                    print(f"without a fault {seconds:.0f} s: {' '.join(tests)}", flush=True)
                    passed.add(tests)
                outcome, seconds, failure = runner.tried(mutant, tests)
                kept = {"key": key, "tests": those, "id": mutant.id, "line": mutant.line, "outcome": outcome}
                kept |= {"seconds": round(seconds, 1), "by": failure}
                with given.out.open("a") as file:
                    file.write(json.dumps(kept) + "\n")
                print(f"{number}/{len(made)} {outcome} {seconds:.0f} s  {mutant.id}", flush=True)
            found[mutant.id] = kept
    print(report(found))


def chosen(table: dict[str, Any], given: argparse.Namespace) -> list[Mutant]:
    """The mutants of all mapped files, or the sample of them; of those the ones that have the text of `--only`."""
    made = []
    for file in table["tests"]:
        made += mutants(file, (ROOT / "src" / "dyt" / file).read_text())
    if given.sample is not None and given.sample < len(made):
        picked = sorted(random.Random(given.seed).sample(range(len(made)), given.sample))
        made = [made[number] for number in picked]
    return [each for each in made if not given.only or any(text in each.id for text in given.only)]


def report(found: dict[str, dict[str, Any]]) -> str:
    """A row for each file, and the survivors by name."""
    kinds = (KILLED, TIMED_OUT, SURVIVED, EQUIVALENT)
    lines = [f"{'file':36}" + "".join(f"{kind:>12}" for kind in kinds)]
    by_file: dict[str, Counter[str]] = {}
    for name, row in found.items():
        by_file.setdefault(name.partition("::")[0], Counter())[row["outcome"]] += 1
    total = sum(by_file.values(), Counter())
    for file, counts in [*by_file.items(), ("all", total)]:
        lines.append(f"{file:36}" + "".join(f"{counts[kind]:12}" for kind in kinds))
    noticed, real = total[KILLED] + total[TIMED_OUT], total.total() - total[EQUIVALENT]
    lines.append(f"noticed: {noticed} of {real}" + (f" ({noticed / real:.1%})" if real else ""))
    survivors = [f"  {name}  (line {row['line']})" for name, row in found.items() if row["outcome"] == SURVIVED]
    return "\n".join([*lines, "survived:" if survivors else "none survived", *survivors])


if __name__ == "__main__":
    main()
