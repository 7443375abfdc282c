"""The names that users type, and how they are called. A change here is a change for users."""

import inspect
import re
from importlib.resources import files

import pytest

import dyt

FUNCTIONS = {
    "build": "(spec, backbone=None)",
    "load": "(path, backbone=None, weights=None, *, trust_paths=False, allow_nonfinite=False)",
    "save": "(model, path, *, whole=None)",
    "plain": "(model)",
    "unwrap": "(model)",
    "record": "(model)",
    "forced": "(model, masks)",
    "execution": "(model, name)",
    "calibrate_capacity": "(model, batches, quantile=1.0, margin=0.05, together=1, overflow='dense')",
    "carry_context": "(function)",
    "count_macs": "(model, images)",
    "optimize": "(model, last_block=True, kernels='torch')",
    "quantize": "(model, activations=False)",
    "calibrate_budgets": "(model, batches, rates=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0), "
    "tolerance=0.005, progress=...)",
    "budgets": "(model, rates)",
    "calibrate_thresholds": "(model, batches, rate, tolerance=0.005)",
    "calibrate_break_even": "(model, sample, batch_sizes=(1, 8, 32), device=None, progress=...)",
    "calibrate": "(model, sample, batch_sizes=(1, 8, 32), device=None, progress=...)",
    "from_official": "(source, backbone='vit_base_patch16_224', **timm_kwargs)",
    "from_adaptformer": "(source, backbone='vit_base_patch16_224', scale=0.1, **timm_kwargs)",
    "from_peft": "(folder, backbone, *, allow_nonfinite=False)",
    "to_peft": "(model, folder)",
    "merge": "(model)",
    "save_pretrained": "(model, folder, *, whole=None, license=None)",
    "from_pretrained": "(folder_or_repo_id, revision=None, token=None, cache_dir=None, local_files_only=False, "
    "backbone=None, weights=None, trust_paths=False, allow_nonfinite=False)",
    "push_to_hub": "(model, repo_id, *, revision=None, private=None, token=None, "
    "commit_message='Upload a dyt model', create_pr=False, whole=None, license=None)",
    "supports": "(name, **args)",
    "list": "(kind)",
    "presets": "()",
    "preset": "(name)",
    "TuningStep": "(model, objective=None, economical=True)",
}
CLASSES = {
    *(
        "BackboneSpec",
        "Bank",
        "Budget",
        "CapacitySpec",
        "DyTSpec",
        "DynamicModel",
        "HeadSpec",
        "ObjectiveSpec",
        "Ramp",
        "Route",
        "Support",
        "Tokens",
    ),
    *("CheckpointError", "ContextError", "DyTError", "SpecError", "UnsupportedError", "WeightsError"),
}
ROOMS = {
    *("adapters", "dispatchers", "executors", "families", "heads", "reducers", "tuners", "variants"),
    *("registry", "testing"),
}


def test_the_public_names() -> None:
    assert set(dyt.__all__) == {*FUNCTIONS, *CLASSES, *ROOMS}
    assert len(dyt.__all__) == len(set(dyt.__all__))
    assert all(hasattr(dyt, name) for name in dyt.__all__)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_how_they_are_called(name: str) -> None:
    plain = inspect.signature(getattr(dyt, name))
    bare = plain.replace(
        parameters=[p.replace(annotation=inspect.Parameter.empty) for p in plain.parameters.values()],
        return_annotation=inspect.Signature.empty,
    )
    assert re.sub(r"<function .*? at 0x[0-9a-f]+>", "...", str(bare)) == FUNCTIONS[name]


@pytest.mark.parametrize("name", [*FUNCTIONS, *sorted(CLASSES)])
def test_each_is_documented_and_typed(name: str) -> None:
    thing = getattr(dyt, name)
    assert inspect.getdoc(thing)
    if name in FUNCTIONS:
        function = thing.__init__ if inspect.isclass(thing) else inspect.unwrap(thing)
        assert "return" in function.__annotations__


def test_no_submodule_bears_the_name_of_a_public_function() -> None:
    folder = files("dyt")
    modules = {entry.name.removesuffix(".py") for entry in folder.iterdir()} - {"__init__", "__pycache__"}
    assert not modules & {*FUNCTIONS, *CLASSES}


def test_types_are_shipped() -> None:
    assert files("dyt").joinpath("py.typed").is_file()


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("dispatchers", {"always", "learned", "random"}),
        ("adapters", {"bottleneck", "none"}),
        ("variants", {"mlp"}),
        ("executors", {"masked", "sparse"}),
        ("families", {"vit"}),
        ("tuners", {"bitfit", "lora", "vpt"}),
        ("reducers", {"dynamicvit", "evit", "tome"}),
    ],
)
def test_the_built_ins_are_listed(kind: str, names: set[str]) -> None:
    assert names <= set(dyt.list(kind))
    assert dyt.list(kind) == sorted(dyt.list(kind))


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(dyt.DyTError, match=r"no kind of component 'dispatcher'; .*dispatchers, "):
        dyt.list("dispatcher")


def test_every_error_is_a_value_error() -> None:
    for name in ("CheckpointError", "SpecError", "UnsupportedError", "WeightsError"):
        assert issubclass(getattr(dyt, name), dyt.DyTError)
    assert issubclass(dyt.DyTError, ValueError)
