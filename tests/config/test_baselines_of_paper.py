"""The presets of the paper's baselines: their parameters and multiply-accumulates on ViT-B, beside the paper's."""

import pytest
import timm
import torch

import dyt
from dyt.measure.flops import MacCounter
from dyt.model.parts import head_keys

PAPER = {  # millions of trained parameters without the head, GMACs; tables 3 (names in _vtab, bitfit) and 6
    "full": (85.8, 17.58),
    "linear": (0.0, 17.58),
    "bitfit": (0.10, 17.58),
    "lora_vtab": (0.29, 17.58),
    "lora": (1.19, 17.58),
    "vpt": (0.07, 18.32),
    "adaptformer": (1.19, 17.81),
    "adaptformer_vtab": (0.16, 17.61),
}
OURS = {"bitfit": 102_912, "lora_vtab": 294_912, "lora": 1_179_648, "vpt": 73_728, "vpt_vtab": 525_312}


def on_meta(name: str) -> dyt.DynamicModel:
    """The preset on ViT-B/16 at 224 pixels, without memory."""
    with torch.device("meta"):
        backbone = timm.create_model("vit_base_patch16_224", num_classes=100)
    return dyt.build(dyt.preset(name), backbone=backbone.eval())


def trained(model: dyt.DynamicModel) -> int:
    head = head_keys(model.backbone)
    return sum(p.numel() for n, p in model.backbone.named_parameters() if p.requires_grad and n not in head)


def gmacs(model: dyt.DynamicModel) -> float:
    with torch.no_grad(), MacCounter() as counter:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    return counter.total / 1e9


@pytest.mark.parametrize("name", PAPER)
def test_against_the_paper(name: str) -> None:
    model, (parameters, cost) = on_meta(name), PAPER[name]
    found = trained(model)
    assert found / 1e6 == pytest.approx(parameters, abs=max(0.01, 0.01 * parameters))
    assert found == OURS.get(name, found)
    assert gmacs(model) == pytest.approx(cost, rel=0.02)


def test_table_3_s_vpt_is_of_no_single_length() -> None:
    """Its 0.53 M are 57 deep prompts, the mean of lengths tuned per task; its 18.3 GMACs are those of 8."""
    model = on_meta("vpt_vtab")
    assert trained(model) == OURS["vpt_vtab"]
    assert trained(model) / 1e6 == pytest.approx(0.53, abs=0.01)
    assert gmacs(model) > 22
    assert trained(on_meta("vpt_shallow")) == 50 * 768


@pytest.mark.parametrize("name", [*PAPER, "vpt_vtab", "vpt_shallow"])
def test_nothing_is_dispatched_and_no_term_of_the_complete_model_is_left(name: str) -> None:
    spec = dyt.preset(name)
    assert spec.dispatcher.type == "always"
    assert (spec.objective.complete, spec.objective.distill, spec.objective.rate_weight) == (0.0, 0.0, 0.0)
    assert spec.adapter.type == ("bottleneck" if name.startswith("adaptformer") else "none")
