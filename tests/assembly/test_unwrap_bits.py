"""`dyt.unwrap` gives every frozen tensor back bit by bit: of every family, tuner and dtype, trained, saved, loaded."""

from __future__ import annotations

import copy
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import dyt
from dyt import registry
from dyt.assembly.compatibility import known_family
from dyt.model.parts import head_keys
from families.zoo import ZOO
from laws.models import shaken

TUNERS = (None, "bitfit", "lora")
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
SHORT = 8
"""Without --full one animal of so many, each with another tuner and dtype."""


@pytest.mark.parametrize("name", ZOO)
def test_frozen_tensors_come_back_bit_by_bit(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    place, full = list(ZOO).index(name), request.config.getoption("--full")
    if not full and place % SHORT:
        pytest.skip("one of eight; the others run with --full")
    if full:
        cases = [(tuner, dtype) for tuner in TUNERS for dtype in DTYPES]
    else:
        turn = place // SHORT
        cases = [(TUNERS[turn % len(TUNERS)], DTYPES[turn % len(DTYPES)])]
    for tuner, dtype in cases:
        if tuner != "lora" or find_spec("peft") is not None:
            came_back(name, tuner, dtype, tmp_path / "a.safetensors")


def came_back(name: str, tuner: str | None, dtype: torch.dtype, path: Path) -> None:
    """One build, one step of training, one save and one load, each taken apart."""
    animal = ZOO[name]
    plain = animal.backbone().to(dtype)
    before = copy.deepcopy(plain)
    spec = {"head": {"num_classes": plain.num_classes}, "tuner": tuner, "adapter": {"type": "bottleneck", "dim": 2}}
    family = known_family(plain)
    if tuner is not None and registry.tuners.get(tuner)(registry.tuners.get(tuner).Spec()).refusal(plain, family):
        return  # `tests/families/test_zoo.py` has the reasons
    model = dyt.build(spec, backbone=plain)
    own, target = head_keys(before), ".attn.qkv.weight"
    trains = {key for key in before.state_dict() if model.tuner is not None and model.tuner.trains(key)}
    trains |= {key for key in before.state_dict() if tuner == "lora" and key.endswith(target)} | own

    def check(given: dyt.DynamicModel) -> None:
        backbone = dyt.unwrap(given)
        assert str(backbone) == str(before)
        assert not hasattr(backbone, "peft_config")
        state = backbone.state_dict()
        assert list(state) == list(before.state_dict())
        for key, tensor in before.state_dict().items():
            assert state[key].dtype == dtype if tensor.is_floating_point() else state[key].dtype == tensor.dtype
            assert key in trains or torch.equal(state[key], tensor), key

    check(copy.deepcopy(model))
    shaken(model)
    if dtype == torch.float32:
        stepped(model, animal.images(before))
    dyt.save(model, path)
    check(model)
    check(dyt.load(path, backbone=copy.deepcopy(before)))


def stepped(model: dyt.DynamicModel, x: torch.Tensor) -> None:
    """One step of plain descent on whatever is trained."""
    parameters = [p for p in model.train().parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    model(x).float().square().mean().backward()
    optimizer.step()
    model.eval()
