"""Loading draws nothing from the generators that everything in a process shares; building draws by their seeds."""

import copy
import inspect
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from torch import nn

import dyt
from dyt.core import randomness
from dyt.core.randomness import untouched
from laws.models import tiny


def drawn() -> tuple[float, ...]:
    """The next number of each generator; they are as before afterwards."""
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()
    numbers = float(torch.rand(())), random.random(), float(np.random.rand())
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
    return numbers


def test_what_is_drawn_inside_is_not_drawn_outside() -> None:
    before = drawn()
    with untouched():
        torch.rand(3), random.random(), np.random.rand()
        assert drawn() != before
    with pytest.raises(KeyError), untouched():
        raise KeyError(torch.rand(1), np.random.rand(), random.random())
    assert drawn() == before


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Path]:
    folder = tmp_path_factory.mktemp("saved")
    plain = dyt.unwrap(copy.deepcopy(model := tiny()))
    dyt.save(model, folder / "part")
    dyt.save(model, folder / "whole", whole=True)
    return plain, folder


def other(plain: nn.Module) -> nn.Module:
    """A backbone of other weights."""
    changed = copy.deepcopy(plain)
    with torch.no_grad():
        next(changed.blocks.parameters()).add_(1)  # type: ignore[operator, union-attr]
    return changed


def refused(path: Path, backbone: nn.Module) -> None:
    with pytest.raises(dyt.CheckpointError):
        dyt.load(path, backbone)


def official() -> None:
    """Of the released code; tests/io/test_official.py has what comes of it."""
    path = min((Path(__file__).parents[1] / "golden").glob("*.safetensors"))
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        state = {key.removeprefix("state."): file.get_tensor(key) for key in file.keys() if key.startswith("state.")}  # noqa: SIM118
    sizes = {key: config[key] for key in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")}
    dyt.from_official(state, **sizes)


LOADS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "whole": lambda plain, folder: dyt.load(folder / "whole"),
    "on a backbone": lambda plain, folder: dyt.load(folder / "part", copy.deepcopy(plain)),
    "refused": lambda plain, folder: refused(folder / "part", other(plain)),
    "official": lambda plain, folder: official(),
}


@pytest.mark.parametrize("how", LOADS)
def test_loading_leaves_the_generators_alone(how: str, saved: tuple[nn.Module, Path]) -> None:
    before = drawn()
    LOADS[how](*saved)
    assert drawn() == before


def test_a_build_draws_by_the_user_s_seed() -> None:
    before = drawn()
    first = tiny()
    assert drawn() != before
    torch.manual_seed(0)
    again = tiny().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in first.state_dict().items())


def test_generators_of_devices_in_use_alone_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unused accelerator would be started."""

    class Module:
        started = False

        def is_initialized(self) -> bool:
            return self.started

    module = Module()
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch, "get_device_module", lambda device: module)
    assert randomness._devices() == ("cuda", [])
    module.started = True
    assert randomness._devices() == ("cuda", [0, 1])
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert randomness._devices() == ("cuda", [])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_loading_leaves_the_gpu_s_generator_alone(saved: tuple[nn.Module, Path]) -> None:
    plain, folder = saved
    backbone = copy.deepcopy(plain).cuda()
    torch.cuda.manual_seed(1)
    before = torch.cuda.get_rng_state()
    with torch.device("cuda"):
        dyt.load(folder / "part", backbone)
        dyt.load(folder / "whole")
    assert torch.equal(before, torch.cuda.get_rng_state())


def test_it_is_documented() -> None:
    assert "generators of random numbers are left as they were" in str(inspect.getdoc(dyt.load))
    assert "torch.manual_seed" in str(inspect.getdoc(dyt.build))
