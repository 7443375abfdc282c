"""Attacks `dyt.load` with changed files: is each refused in one line, or loaded as what it is?

    python scripts/attack_files.py --bytes 100000 --words 2000
    python scripts/attack_files.py --seed 3 --words 500 --bytes 0

Two kinds of change to a small sound file. `bytes`: flipped, overwritten, inserted and cut bytes, as damage has them.
`words`: values in the JSON of its spec and metadata replaced, removed and added, under a right checksum, as an attacker
would. The seed decides all of them. A file is

    refused      by a CheckpointError or a WeightsError of one bounded line
    equal        loaded, and the model has the tensors of the file
    wrong        loaded, and the model has other tensors, or values that are not finite
    foreign      another error

`slowest` is the longest that any one took, in seconds. What is wrong or foreign is printed, with the change.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save

from dyt import build
from dyt import save as save_model
from dyt.errors import CheckpointError, WeightsError
from dyt.io.checkpoint import CHECKSUM, checksum, load, stored

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
SPEC = {
    "backbone": {"name": "vit_tiny_patch16_224", "weights": "none", "args": SMALL},
    "head": {"num_classes": 4},
    "adapter": {"type": "bottleneck", "dim": 4},
}
ENTRIES = ("spec", "data_config", "break_even", "budgets", "resizable", "backbone")
ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 255, 4096, 65_537, 10**9, 10**20, 10**400, 0.0, 0.5, -0.5, 1e308, -1e308, 1e-320),
    *(float("nan"), float("inf"), "", "x" * 300, "none", "pretrained", "given", "whole", "full", "moe", "lora", "vpt"),
    *(
        "/etc/passwd",
        "../../etc/passwd",
        "http://127.0.0.1:9/x",
        "hf-hub:a/b",
        "file:///etc/passwd",
        "\x00\x1b[2J",
        "\ud800",
    ),
    *("os.system", "__class__", "blocks.0.mlp", "blocks.99.mlp", "upernet", "topk", "tome", "attn_mlp", "layer"),
    *([], {}, [[]], [None], [1, 2, 3], ["a"], {"type": "moe"}, {"type": ["moe"]}, {"a": {"b": {"c": []}}}, [0.5] * 50),
)
"""Values that something else was expected in place of."""


@dataclass
class Found:
    """What became of changed files, counted, with a line for each that is wrong or foreign."""

    mutations: int = 0
    refused: int = 0
    equal: int = 0
    wrong: int = 0
    foreign: int = 0
    slowest: float = 0.0
    examples: list[str] = field(default_factory=list)


def byte_mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """So many changed copies; half of the changes are in the header."""
    draw = random.Random(seed)
    header = 8 + int.from_bytes(content[:8], "little")
    for _ in range(count):
        changed = bytearray(content)
        place = draw.randrange(header if draw.random() < 0.5 else len(content))
        kind = draw.choice(("flip", "flip", "byte", "range", "insert", "cut", "move"))
        if kind == "flip":
            changed[place] ^= 1 << draw.randrange(8)
        elif kind == "byte":
            changed[place] = draw.randrange(256)
        elif kind == "range":
            changed[place : place + draw.randrange(1, 64)] = draw.randbytes(draw.randrange(1, 64))
        elif kind == "insert":
            changed[place:place] = draw.randbytes(draw.randrange(1, 16))
        elif kind == "cut":
            del changed[place : place + draw.randrange(1, 1 + len(content) // 2)]
        else:
            other = draw.randrange(len(content))
            changed[place : place + 8] = content[other : other + 8]
        yield bytes(changed)


def word_mutants(base: Path, count: int, seed: int) -> Iterator[bytes]:
    """So many copies with one to three changes to what the JSON of the metadata says, under a right checksum."""
    draw = random.Random(seed)
    with safe_open(base, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key) for key in file.keys()}, file.metadata()  # noqa: SIM118
    site = {"batches": [1, 8], "shares": [0.5, 0.5], "expected": 0.5}
    row = {"thresholds": [0.5, -0.5], "rates": [0.5, 1.0]}
    data = {
        "input_size": [3, 32, 32],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "label_names": list("abcd"),
        "data": {"size": 32},
    }
    said = {
        "spec": json.loads(metadata["spec"]),
        "break_even": {"blocks.0.mlp": site},
        "budgets": {"rates": [0.5, 1.0], "reached": [0.5, 1.0], "sites": {f"blocks.{i}.mlp": row for i in (0, 1)}}
        | {"budget": 0.5},
        "data_config": data,
        "resizable": {"sha256": "0", "size": [32, 32]},
        "backbone": "whole",
    }
    for _ in range(count):
        words = copy.deepcopy(said)
        for _ in range(draw.choice((1, 1, 1, 2, 3))):
            entry = draw.choice((*ENTRIES[:4], "spec", "spec", "spec", *ENTRIES[4:]))
            if isinstance(words[entry], (dict, list)):
                _change(words[entry], draw)
            elif draw.random() < 0.3:
                words[entry] = draw.choice(ODD)
        texts = {name: value if value == "whole" else json.dumps(value) for name, value in words.items()}
        texts = {**metadata, **texts}
        yield save(tensors, texts | {CHECKSUM: checksum(tensors, texts)})


def _change(value: Any, draw: random.Random) -> None:
    """Replaces, removes or adds one value anywhere in a mapping or a list, in place."""
    while True:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        if not keys:
            break
        key = draw.choice(keys)
        if not isinstance(value[key], (dict, list)) or draw.random() < 0.3:
            break
        value = value[key]
    kind = draw.random()
    if not keys or kind < 0.1:
        odd = copy.deepcopy(draw.choice(ODD))
        if isinstance(value, dict):
            value[draw.choice(("type", "pretrained_cfg", "depth", "x", "", "layers", "weights"))] = odd
        else:
            value.append(odd)
    elif kind < 0.2:
        del value[key]
    else:
        value[key] = copy.deepcopy(draw.choice(ODD))


def attacked(base: Path, mutants: Iterable[bytes]) -> Found:
    """Loads each changed copy of a file."""
    found = Found()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        for content in mutants:
            path.write_bytes(content)
            began = time.perf_counter()
            kind, line = judged(path)
            found.slowest = max(found.slowest, time.perf_counter() - began)
            found.mutations += 1
            setattr(found, kind, getattr(found, kind) + 1)
            if kind in {"wrong", "foreign"}:
                found.examples.append(f"{kind}: mutation {found.mutations} of {base.name}: {line}")
    return found


def judged(path: Path) -> tuple[str, str]:
    """What becomes of one file: `refused`, `equal`, `wrong` or `foreign`, and a line about it."""
    try:
        model = load(path)
    except (CheckpointError, WeightsError) as error:
        line = str(error)
        return ("refused" if line.isprintable() and len(line) < 1000 else "foreign"), line
    except Exception as error:  # what this script looks for
        return "foreign", f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    with safe_open(path, "pt") as file:
        given = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    own = stored(model, whole=True)
    same = own.keys() == given.keys() and all(torch.equal(own[key], given[key]) for key in own)
    finite = all(bool(tensor.isfinite().all()) for tensor in given.values())
    return ("equal", "") if same and finite else ("wrong", "the model has other tensors than its file")


def table(rows: Mapping[str, Found]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [
        "| Change | Files | Refused | Loaded equal | Loaded wrong | Other errors | Slowest (s) |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, f in rows.items():
        counts = " | ".join(f"{n:,}" for n in (f.mutations, f.refused, f.equal, f.wrong, f.foreign))
        lines.append(f"| {name} | {counts} | {f.slowest:.2f} |")
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--bytes", type=int, default=100_000, help="files with changed bytes")
    parser.add_argument("--words", type=int, default=2_000, help="files with changed words")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "sound.safetensors"
        save_model(build(SPEC), base, whole=True)
        size = base.stat().st_size
        rows = {
            "bytes": attacked(base, byte_mutants(base.read_bytes(), options.bytes, options.seed)),
            "words": attacked(base, word_mutants(base, options.words, options.seed)),
        }
    print(f"a file of {size:,} bytes, seed {options.seed}, torch {torch.__version__}")
    print("\n".join(table(rows)))
    examples = [line for row in rows.values() for line in row.examples]
    print("\n".join(examples[:50]))
    raise SystemExit(1 if examples else 0)


if __name__ == "__main__":
    main()
