"""Samples are a function of (position, seed) alone: not of workers, caching or what was drawn before."""

import dataclasses
import os
import pickle
import random
import signal
import subprocess
import sys
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from dyt.tasks.data import DataSpec
from dyt.tasks.layouts import DataError, Split
from dyt.tasks.loading import Images, loader, seeded
from dyt.tasks.preparation import Preparation

PREPARATION = Preparation((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def split(count: int = 6) -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (count, 24, 20, 3), dtype=np.uint8)
    return Split("some", list(range(count)), partial(at, pixels))


def at(pixels: Any, i: int) -> Image.Image:
    return Image.fromarray(pixels[i])


def images(training: bool = True, **fields: Any) -> Images:
    return Images(split(), DataSpec(root=".", **fields), PREPARATION, training)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # more than this machine has cores, maybe
@pytest.mark.parametrize("augment", ["none", "crop", "timm"])
def test_workers_change_nothing(augment: str) -> None:
    plan = [[(0, 5), (3, 6)], [(1, 7)]]
    batches = []
    for workers in (0, 2):
        torch.manual_seed(workers)
        batches.append([batch for batch, _ in loader(images(augment=augment), plan, workers)])
    assert all(torch.equal(a, b) for a, b in zip(*batches, strict=True))
    assert batches[0][0].shape == (2, 3, 16, 16)


@pytest.mark.parametrize("workers", [0, 1])
def test_what_cannot_be_used_is_the_same_one_line_from_any_process(workers: int) -> None:
    whole = split()
    broken = dataclasses.replace(whole, read=partial(spoilt, whole.read))
    batches = loader(Images(broken, DataSpec(root="."), PREPARATION, True), [[(0, 0)], [(1, 0), (3, 0)]], workers)
    assert next(batches)[1].tolist() == [0]
    with pytest.raises(DataError) as caught:
        next(batches)
    assert type(caught.value) is DataError
    assert str(caught.value) == "3.jpg: cut off"


SCRIPT = """
import multiprocessing, sys
import torch
from dyt.tasks.base import Examples
from dyt.tasks.loading import loader

class Numbers(Examples):
    def __init__(self):
        pass
    def example(self, position, seed):
        return torch.tensor(position), 0

batches = loader(Numbers(), [[(k, 0)] for k in range(20)], 1)
next(batches)
(worker,) = multiprocessing.active_children()
print(worker.pid, flush=True)
sys.stdin.readline()
print(int(sum(batch for batch, _ in [next(batches) for _ in range(9)])), flush=True)
"""


def test_a_loader_process_outlives_signals_but_not_its_run() -> None:
    """SIGTERM and Ctrl-C of anyone else are the main process's; what it leaves over at its exit ends."""
    run = subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert run.stdin is not None
    assert run.stdout is not None
    try:
        worker = int(run.stdout.readline())
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(worker, number)
        said, _ = run.communicate("go on\n", timeout=60)
    finally:
        run.kill()
    assert (run.returncode, said.strip()) == (0, str(sum(range(1, 10))))
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


LOCKED = """
import os, sys, threading
import torch
from dyt.tasks.base import Examples
from dyt.tasks.loading import loader

class Numbers(Examples):
    def __init__(self):
        pass
    def example(self, position, seed):
        print("a warning", file=sys.stderr)
        return torch.tensor(position), 0

taken, given = os.pipe()
sys.stderr = open(given, "w", buffering=1)

def fill():
    writing = threading.Thread(target=sys.stderr.write, args=("x" * 2**21 + chr(10),), daemon=True)
    writing.start()
    writing.join(1)
    assert writing.is_alive()

def drain():
    while os.read(taken, 2**16):
        pass

os.register_at_fork(before=fill, after_in_parent=threading.Thread(target=drain, daemon=True).start)
print(sum(int(batch) for batch, _ in loader(Numbers(), [[(1, 0)], [(2, 0)]], 1)), flush=True)
os._exit(0)
"""


def test_a_loader_process_does_not_wait_for_a_stream_that_a_thread_was_writing_to() -> None:
    """As a progress bar's thread does; nobody is left in the loader process to give the stream's lock back."""
    done = subprocess.run([sys.executable, "-c", LOCKED], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "3")
    assert done.stderr.count("a warning") == 2


def spoilt(read: Any, i: int) -> Image.Image:
    if i == 3:
        raise DataError("3.jpg: cut off")
    image: Image.Image = read(i)
    return image


@pytest.mark.parametrize("augment", ["none", "crop", "timm"])
def test_it_can_be_sent_to_a_process(augment: str) -> None:
    strong = {"auto_augment": "rand-m9-mstd0.5", "random_erasing": 0.5} if augment == "timm" else {}
    some = images(augment=augment, **strong)
    assert torch.equal(pickle.loads(pickle.dumps(some)).sample(1, 2), some.sample(1, 2))


@pytest.mark.parametrize("augment", ["crop", "timm"])
def test_the_seed_decides(augment: str) -> None:
    some = images(augment=augment)
    assert torch.equal(some.sample(0, 3), some.sample(0, 3))
    assert not torch.equal(some.sample(0, 3), some.sample(0, 4))


@pytest.mark.parametrize("augment", ["none", "crop", "timm"])
def test_inference_is_not_random(augment: str) -> None:
    some = images(training=False, augment=augment)
    assert torch.equal(some.sample(0, 3), some.sample(0, 4))


def test_none_is_a_bicubic_resize() -> None:
    expected = np.asarray(split().read(0).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.array_equal(images().sample(0).permute(1, 2, 0).numpy(), expected)


def test_the_cache_holds_what_would_be_read() -> None:
    some, advanced = images(), []
    plain = [some[i, 0][0] for i in range(len(some))]
    some.fill(2, lambda: advanced.append(1))
    assert all(torch.equal(some[i, 9][0], image) for i, image in enumerate(plain))
    assert len(advanced) == len(some)


def test_what_is_cached() -> None:
    def worth(size: int, **fields: Any) -> bool:
        preparation = dataclasses.replace(PREPARATION, size=(size, size))
        return Images(split(), DataSpec(root=".", **fields), preparation, True).worth_caching()

    assert worth(16)
    assert not worth(100_000)
    assert worth(100_000, cache=True)
    assert not worth(16, cache=False)
    assert not worth(16, augment="crop")


def test_normalised_once() -> None:
    raw = torch.full((1, 3, 2, 2), 255, dtype=torch.uint8)
    assert torch.equal(PREPARATION.normalized(raw), torch.ones(1, 3, 2, 2))
    assert torch.equal(PREPARATION.normalized(PREPARATION.normalized(raw)), torch.ones(1, 3, 2, 2))


def test_the_backbone_says_its_size_and_statistics() -> None:
    backbone = timm.create_model("vit_tiny_patch16_224", img_size=48, depth=1)
    assert Preparation.of(backbone) == Preparation((48, 48), (0.5,) * 3, (0.5,) * 3, "bicubic", 0.9, "center")
    assert Preparation.of(backbone, 64).size == (64, 64)
    assert Preparation.of(backbone, (64, 32)).size == (64, 32)


def test_seeded_leaves_the_generators_as_they_were() -> None:
    def drawn() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = drawn()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with seeded(5):
        inside = drawn()
    assert drawn() == expected
    with seeded(5):
        assert drawn() == inside
