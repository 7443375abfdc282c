"""What a model says of itself in words."""

from typing import Any

import pytest
import torch

import dyt
from laws.models import tiny


def lines(model: dyt.DynamicModel) -> dict[str, str]:
    parts = (line.partition(":") for line in model.summary().splitlines())
    return {name: said.strip() for name, _, said in parts}


def counted(model: torch.nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in model.parameters() if p.requires_grad), sum(p.numel() for p in model.parameters())


def test_trainable_parameters_are_printed_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny()
    model.print_trainable_parameters()
    trained, every = counted(model)
    printed = capsys.readouterr().out
    assert printed == f"trainable params: {trained:,d} || all params: {every:,d} || trainable%: 6.8644\n"
    model.requires_grad_(False).print_trainable_parameters()
    assert capsys.readouterr().out.endswith("trainable params: 0 || all params: 34,599 || trainable%: 0.0000\n")


def test_the_summary_says_what_is_there_without_a_forward() -> None:
    model = tiny({"depth": 3})
    model.register_forward_pre_hook(lambda *_: pytest.fail("a forward was run"))
    trained, every = counted(model)
    said = lines(model)
    assert said["backbone"] == "vit_tiny_patch16_224 (weights: none)"
    assert said["sites"] == "3 (blocks.0.mlp to blocks.2.mlp)"
    assert (said["variant"], said["dispatchers"]) == ("mlp", "learned")
    assert said["adapters"] == f"bottleneck (dim {model.spec.adapter.model_dump()['dim']})"
    assert said["parameters"].startswith(f"{trained:,d} trained of {every:,d} (")
    assert (said["rate"], said["thresholds"]) == ("0.5, asked of the training", "0, as built")
    assert not {"tuner", "reducer"} & set(said)


@pytest.mark.parametrize(
    ("changes", "rate"),
    [
        ({"dispatcher": {"type": "always"}}, "1, every token is active"),
        ({"dispatcher": {"type": "random", "rate": 0.25}}, "0.25, of the dispatcher"),
        ({"dispatcher": {"type": "topk", "count": 3}}, "by the dispatcher's count"),
        ({"objective": {"layer_rates": [0.25, 0.75]}}, "0.25 to 0.75 by layer, asked of the training"),
    ],
)
def test_the_rate_is_the_one_that_holds(changes: dict[str, Any], rate: str) -> None:
    assert lines(tiny(**changes))["rate"] == rate


def test_thresholds_tuners_and_reducers_are_told() -> None:
    model = tiny(tuner={"type": "bitfit"}, reducer={"type": "tome", "r": 1})
    model.sites[1].threshold.fill_(0.5)
    said = lines(model)
    assert said["thresholds"] == "0 to 0.5"
    assert (said["tuner"].split()[0], said["reducer"].split()[0]) == ("bitfit", "tome")
    assert lines(model.to("meta"))["thresholds"] == "not at hand (offloaded)"
