"""`model.save_pretrained`, `dyt.DynamicModel.from_pretrained`, `model.push_to_hub`: what the functions do."""

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import COMMIT, Hub

import dyt
from dyt.inference.rewrites.model import InferenceModel
from dyt.model.sharing import Shareable
from laws.models import tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
REPO = "someone/flowers"


def same(a: dyt.DynamicModel, b: dyt.DynamicModel) -> bool:
    with torch.no_grad():
        return torch.equal(a(X), b(X))


@pytest.mark.parametrize(
    ("method", "function"),
    [
        (dyt.DynamicModel.save_pretrained, dyt.save_pretrained),
        (dyt.DynamicModel.push_to_hub, dyt.push_to_hub),
        (dyt.DynamicModel.from_pretrained, dyt.from_pretrained),
    ],
)
def test_a_method_has_the_arguments_of_its_function(method: Any, function: Any) -> None:
    named = list(inspect.signature(method).parameters.values())
    wanted = list(inspect.signature(function).parameters.values())
    skipped = 0 if function is dyt.from_pretrained else 1  # self, and the model
    assert [(each.name, each.kind, each.default) for each in named[skipped:]] == [
        (each.name, each.kind, each.default) for each in wanted[skipped:]
    ]


def test_a_method_passes_each_argument_to_its_function(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each argument has a value of its own, so that none can stand at another's place."""
    model, called = tiny(), []
    for name in ("save_pretrained", "from_pretrained", "push_to_hub"):
        method = getattr(model, name)
        signature = inspect.signature(getattr(Shareable._sharing, name))

        def spy(*args: Any, signature: inspect.Signature = signature, **kwargs: Any) -> None:
            called.append(signature.bind(*args, **kwargs).arguments)

        monkeypatch.setattr(Shareable, "_sharing", dataclasses.replace(Shareable._sharing, **{name: spy}))
        given = {each: object() for each in inspect.signature(method).parameters}
        method(**given)
        assert called.pop() == given | ({} if name == "from_pretrained" else {"model": model})


def test_methods_do_what_the_functions_do(hub: Hub, tmp_path: Path) -> None:
    model, folder = tiny(), tmp_path / "a" / "flowers"
    model.save_pretrained(folder, whole=True, license="mit")
    dyt.save_pretrained(model, tmp_path / "b" / "flowers", whole=True, license="mit")
    for file in ("model.safetensors", "README.md"):
        assert (folder / file).read_bytes() == (tmp_path / "b" / "flowers" / file).read_bytes()
    loaded = dyt.DynamicModel.from_pretrained(folder)
    assert type(loaded) is dyt.DynamicModel
    assert same(loaded, model)
    address = model.push_to_hub(REPO, whole=True, license="mit")
    assert address == f"{hub.address}/{REPO}/commit/{COMMIT}"
    assert hub.repositories[REPO]["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    assert same(dyt.DynamicModel.from_pretrained(REPO, revision=COMMIT), model)
    with pytest.raises(dyt.WeightsError, match="no such revision"):
        dyt.DynamicModel.from_pretrained(REPO, revision="v9")


def test_a_subclass_is_no_class_of_a_file(tmp_path: Path) -> None:
    with pytest.raises(dyt.UnsupportedError, match=r"^InferenceModel\.from_pretrained: .* call DynamicModel"):
        InferenceModel.from_pretrained(tmp_path)
