#!/usr/bin/env python3
"""Attack specs: valid ones of every registered component with nasty values put in, by every way that a spec comes in.

Each is given as Python values, as YAML or JSON text, or as `--set` assignments, for a model or a whole run. It must be
accepted, or refused by an error of the library, on one line of at most 1,000 characters, in less than a second. A model
that is accepted and small is built as well. No network is used::

    python scripts/attack_specs.py                       # 10,000 specs, seed 0
    python scripts/attack_specs.py --count 200 --seed 7
    python scripts/attack_specs.py --only 4711           # one of them, with its traceback
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

import dyt
from dyt.config.files import override, parse_json, parse_yaml
from dyt.config.spec import DyTSpec, parse
from dyt.errors import LONGEST_ERROR, DyTError, SpecError, quoted
from dyt.registry import KINDS
from dyt.train.named_runs import changed, with_preset, with_task
from dyt.train.spec import RunSpec

TINY: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "weights": "none",
    "args": {"depth": 2, "img_size": 32, "embed_dim": 24},
}
SLOTS = {
    "head": "heads",
    "variant": "variants",
    "dispatcher": "dispatchers",
    "adapter": "adapters",
    "tuner": "tuners",
    "reducer": "reducers",
}
SLOWEST = 1.0
"""CPU seconds that one spec may take."""


def nested(depth: int, kind: type = list) -> Any:
    """A list or a mapping inside another, so many times."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


def looped(kind: type = list) -> Any:
    """A list or a mapping that contains itself."""
    if kind is list:
        items: list[Any] = []
        items.append(items)
        return items
    mapping: dict[str, Any] = {}
    mapping["a"] = mapping
    return mapping


class Rude:
    """An object whose `repr` fails."""

    def __repr__(self) -> str:
        raise RuntimeError("no")


NASTY: list[Callable[[], Any]] = [
    lambda value=value: copy.deepcopy(value)  # type: ignore[misc]
    for value in (
        None, True, False, 0, -1, 1, 2, 7, 8.0, 0.5, -0.0, 1e-320, 1e18, 1e19, 1e308, -1e308, float("nan"),
        float("inf"), 10**6, 10**7, 2**31, 2**63 - 1, 2**63, -(2**63), 10**400, "", " ", "8", "1e-3", "true", "null",
        "none", "nan", 3, 4, 16, 32, 0.1, 0.3, 1.0, 5.0, "full", "token", "sample", "linear", "threshold", [0], [1],
        "pretrained", "given", "mlp", "\0", "\n", "a\nb", "\u2028", "\ud800", "😀", "{x}", "%s", "../..", "/",
        "x" * 101, "x" * 9_999, "x" * 100_001, b"bytes", (), [], {}, [[]], [{}], [None], [1, "a"], [0.5, 0.5], {"a": 1},
        {"": 1}, {1: 2}, {None: 1}, {"type": None}, {"type": []}, {"type": {"a": 1}}, {"start": 1, "end": 1e300},
        {"start": 2, "end": 1},
        {"start": 1e-300, "end": 1, "shape": "exponential"}, {1, 2}, frozenset(), 1j, object(), int, len, range(3),
    )
]  # fmt: skip
NASTY += [
    lambda: nested(40),
    lambda: nested(10_000),
    lambda: nested(10_000, dict),
    looped,
    lambda: looped(dict),
    lambda: [1] * 5_000,
    lambda: {f"k{i}": i for i in range(5_000)},
    lambda: [["x" * 50] * 30] * 30,
    Rude,
    lambda: iter([1, 2]),
]
TEXTS = [
    "[" * 5_000, "{a: " * 5_000, "a: &x [1]\nb: *x", "&a [*a]", "!!python/object/apply:os.system ['true']", "'" * 9_999,
    "- " * 5_000, "? " * 5_000, "a:\tb", "\0", "%YAML 9\n---\n", "1" * 5_000, "[" + "1," * 40_000 + "]", "x" * 200_000,
    "a: |\n" + " x\n" * 20_000, "# c\n" * 20_000, "{" + ", ".join(f"k{i}: 1" for i in range(6_000)) + "}",
    "\ufeff", "---",
    '{"a": NaN}', '{"a": 1e999}', '{"a": 1, "a": 2}', '{"\\ud800": "\\ud800"}', "[" * 90_000, '{"a":' * 15_000,
]  # fmt: skip


def valid(rng: random.Random) -> dict[str, Any]:
    """A model spec as plain data with a registered component in each slot."""
    spec: dict[str, Any] = {"backbone": copy.deepcopy(TINY), "objective": {"distill": 0.0}, "trainable": "adapters"}
    for slot, kind in SLOTS.items():
        if slot not in {"tuner", "reducer"} or rng.random() < 0.3:
            spec[slot] = {"type": rng.choice(KINDS[kind].names())}
    return spec


def run_of(rng: random.Random, model: dict[str, Any]) -> dict[str, Any]:
    """A run of a model, with data of its head's task, or rarely of another."""
    own = KINDS["heads"].get(model["head"]["type"]).task
    task = own if rng.random() < 0.9 else rng.choice(["classification", "video", "segmentation", "detection"])
    return {"model": model, "data": {"task": task, "root": "images"}, "train": {"epochs": 3, "lr": 1e-3}}


def places(data: Any, spec: Any = None) -> Iterator[tuple[dict[str, Any], str]]:
    """(mapping, field) of every field that plain data has, and of those that its spec has beside them."""
    if isinstance(data, dict):
        for key in list(data):
            yield data, key
            yield from places(data[key])
        if isinstance(data.get("type"), str):
            for kind in SLOTS.values():
                if data["type"] in KINDS[kind].names():
                    yield from ((data, name) for name in KINDS[kind].get(data["type"]).Spec.model_fields)
    if spec is not None:
        for name, info in spec.model_fields.items():
            if isinstance(data.get(name), dict) and hasattr(info.annotation, "model_fields"):
                yield from ((data[name], inner) for inner in info.annotation.model_fields)


ARGS = ("depth", "embed_dim", "img_size", "num_heads", "mlp_ratio", "patch_size", "reg_tokens", "in_chans", "depths")


def mutated(rng: random.Random, data: dict[str, Any], spec: Any) -> dict[str, Any]:
    """The data with one to three nasty values."""
    found = list(places(data, spec))
    found += [(holder["args"], name) for holder, key in found if key == "args" for name in ARGS]
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        holder, key = rng.choice(found)
        way = rng.random()
        if way < 0.75:
            holder[key] = rng.choice(NASTY)()
        elif way < 0.85:
            holder.pop(key, None)
        elif way < 0.95:
            holder[rng.choice(["unknown", f"{key}s", "", "type", "x" * 5_000, "a.b", "\n"])] = rng.choice(NASTY)()
        else:
            holder[key] = [holder.get(key)]
    return data


@dataclass
class Attack:
    """One hostile spec: what is done with it, and what it says when it is shown."""

    way: str
    act: Callable[[], Any]


def attack(seed: int, number: int) -> Attack:
    """The attack of this number; the same for the same numbers."""
    rng = random.Random(f"{seed}/{number}")
    whole = rng.random() < 0.4
    plain = run_of(rng, valid(rng)) if whole else valid(rng)
    spec = RunSpec if whole else DyTSpec
    way = rng.choice(["python", "python", "yaml", "json", "text", "set", "set"])
    if way == "text":
        text, parsing = rng.choice(TEXTS), rng.choice([parse_yaml, parse_json])
        return Attack("text", lambda: _finished(spec, parsing(text)))
    if way == "set":
        return _assigned(rng, plain, spec)
    data = mutated(rng, plain, spec)
    if way == "python":
        return Attack("python", lambda: _finished(spec, data))
    try:
        text = json.dumps(data) if way == "json" else yaml.safe_dump(data)
    except (TypeError, ValueError, RuntimeError, yaml.YAMLError):  # it cannot be written, and so is given as it is
        return Attack("python", lambda: _finished(spec, data))
    return Attack(way, lambda: _finished(spec, (parse_json if way == "json" else parse_yaml)(text)))


def _assigned(rng: random.Random, plain: dict[str, Any], spec: Any) -> Attack:
    changes = [_assignment(rng, plain) for _ in range(rng.randint(1, 3))]
    if spec is DyTSpec:
        return Attack("set", lambda: _finished(spec, override(plain, changes)))
    preset, task = rng.choice([None, None, "lora", "\n", [1]]), rng.choice([None, None, "video", "x" * 999, {}])
    return Attack("set", lambda: _finished(spec, changed(_prepared(plain, preset, task), changes, ours=True)))


def _prepared(plain: dict[str, Any], preset: Any, task: Any) -> dict[str, Any]:
    plain = plain if preset is None else with_preset(plain, preset)
    return plain if task is None else with_task(plain, task)


def _assignment(rng: random.Random, plain: dict[str, Any]) -> str:
    text = rng.choice([*TEXTS, "{a: 1}", "[1]", "8", "8.0", "'8'", "1e-3", "true", "1e400", "1e308", "", "null", "-1"])
    path = rng.choice(
        [".".join(["a"] * 5_000), "x" * 100_000, "." * 50, "", "a.b.c", "backbone.args.depth", "objective.rate"]
        + [f"{slot}.type" for slot in SLOTS]
        + [f"model.{slot}" for slot in SLOTS]
        + [*plain, "data.task", "data.size", "train.epochs", "train.lr", "train.optimizer", "adapter.dim", "head"]
    )
    return f"{path}{rng.choice(['=', '=', '=', '', ' = '])}{text}"


def _finished(spec: Any, data: Any) -> Any:
    """The spec of the data, and the model where it is small."""
    found = parse(spec, data)
    model = found.model if isinstance(found, RunSpec) else found
    if _small(model):
        dyt.build(model)
    return found


def _small(model: DyTSpec) -> bool:
    """Whether building it takes a moment and no network; a large one is right, but takes its time."""
    backbone = model.backbone
    plain = model.model_dump(mode="json", include={"head", "adapter", "tuner"})
    sizes = [abs(number) for number in _numbers([plain, backbone.args])]
    known = backbone.name == TINY["name"] and backbone.args.keys() >= TINY["args"].keys()
    return known and backbone.weights != "pretrained" and max(sizes) <= 1024


def _numbers(value: Any) -> Iterator[float]:
    if isinstance(value, (int, float)):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _numbers(inner)


@dataclass
class Outcome:
    """What became of the attacks."""

    specs: int = 0
    accepted: int = 0
    refused: int = 0
    foreign: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Errors of the library that are longer than they may be, or more than one line."""
    slowest: float = 0.0
    slowest_number: int = -1
    longest: int = 0

    def add(self, seed: int, number: int) -> None:
        """Runs one attack."""
        made = attack(seed, number)
        begun = time.process_time()
        try:
            made.act()
            self.accepted += 1
        except DyTError as error:
            self.refused += 1
            said = str(error)
            self.longest = max(self.longest, len(said))
            if len(said) > LONGEST_ERROR or len(said.splitlines()) != 1:
                self.wrong.append(f"{number} ({made.way}): {said[:200]!r}")
        except BaseException as error:  # whatever it is, it is counted
            if isinstance(error, KeyboardInterrupt):
                raise
            self.foreign.append(f"{number} ({made.way}): {type(error).__name__}: {str(error)[:200]!r}")
        taken = time.process_time() - begun
        self.specs += 1
        if taken > self.slowest:
            self.slowest, self.slowest_number = taken, number

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.foreign and not self.wrong and self.slowest < SLOWEST


def attacked(count: int, seed: int) -> Outcome:
    """The outcome of so many attacks, after one of each kind of thing that is imported when it is first used."""
    for warm in ({"backbone": TINY}, {"backbone": TINY, "tuner": {"type": "lora"}}):
        dyt.build(warm)
    outcome = Outcome()
    for number in range(count):
        outcome.add(seed, number)
    return outcome


def main() -> int:
    """Prints the figures; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="run this one, and show what it raises")
    given = parser.parse_args()
    if given.only is not None:
        made = attack(given.seed, given.only)
        try:
            print(f"{made.way}: accepted, {quoted(made.act(), 2000)}")
        except SpecError as error:
            print(f"{made.way}: refused, {error}")
        return 0
    outcome = attacked(given.count, given.seed)
    print(f"specs            {outcome.specs}")
    print(f"accepted         {outcome.accepted}")
    print(f"refused          {outcome.refused}")
    print(f"foreign errors   {len(outcome.foreign)}")
    print(f"wrong lines      {len(outcome.wrong)}")
    print(f"slowest          {outcome.slowest:.2f} CPU seconds (number {outcome.slowest_number})")
    print(f"longest message  {outcome.longest} characters")
    for line in (*outcome.foreign[:20], *outcome.wrong[:20]):
        print(line)
    return 0 if outcome.good else 1


if __name__ == "__main__":
    sys.exit(main())
