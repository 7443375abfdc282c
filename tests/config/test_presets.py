"""Presets build, and are the paper's settings."""

import pytest

import dyt
from laws.models import tiny_backbone


@pytest.mark.parametrize("name", dyt.presets())
def test_each_preset_builds(name: str) -> None:
    plain = dyt.preset(name).model_dump() | {"backbone": tiny_backbone()}
    model = dyt.build(plain)
    assert dyt.preset(name).model_dump(exclude={"backbone"}) == model.spec.model_dump(exclude={"backbone"})


def test_what_they_say() -> None:
    assert dyt.preset("dyt") == dyt.DyTSpec()
    assert dyt.preset("dyt_vtab").adapter == dyt.adapters.BottleneckSpec(dim=8)
    for name in ("static_adapter", "static_adapter_vtab", "linear"):
        spec = dyt.preset(name)
        assert spec.dispatcher.type == "always"
        assert (spec.objective.complete, spec.objective.distill, spec.objective.rate_weight) == (0.0, 0.0, 0.0)
    assert dyt.preset("linear").adapter.type == "none"
    assert dyt.presets() == sorted(dyt.presets())


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    for ask in (dyt.preset, dyt.build):
        with pytest.raises(dyt.SpecError, match=r"did you mean 'linear'.*allowed: adaptformer, .* in all\)"):
            ask("linaer")  # type: ignore[operator]
