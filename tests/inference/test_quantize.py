"""int8 weights: near the model's numbers, a quarter of the bytes, and for inference alone."""

from pathlib import Path

import pytest
import torch

import dyt
from dyt.core.offloading import plain_parts
from dyt.inference import quantize as int8
from laws.models import masks, tiny

pytest.importorskip("torchao", reason="the extra dyt[int8]")
X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def weights(model: dyt.DynamicModel, name: str) -> torch.Tensor:
    return model.get_parameter(f"backbone.blocks.0.{name}")


@pytest.mark.parametrize("activations", [False, True])
@pytest.mark.parametrize("variant", ["mlp", "attn"])
def test_numbers_are_near_under_the_same_masks(variant: str, activations: bool) -> None:
    model = tiny(variant={"type": variant})
    given = masks(model, X, ["random"], 0)
    short = dyt.quantize(model, activations)
    with torch.no_grad(), dyt.forced(model, given), dyt.forced(short, given):
        wanted = model(X)
        for executor in ("masked", "sparse"):
            with dyt.execution(short, executor):
                apart = (short(X) - wanted).norm() / wanted.norm()
            assert 0 < apart < 0.05


def test_the_blocks_layers_are_int8_and_nothing_else_is() -> None:
    model = tiny()
    short = dyt.quantize(model)
    for name in ("attn.qkv.weight", "attn.proj.weight", "mlp.fc1.weight", "mlp.fc2.weight"):
        stored = weights(short, name)
        assert torch.int8 in {part.dtype for _, part in plain_parts(stored, name)}
        assert type(weights(model, name)) is torch.nn.Parameter
    kinds = {name for name, p in short.named_parameters() if type(p) is torch.nn.Parameter}
    assert {"backbone.head.weight", "backbone.patch_embed.proj.weight"} <= kinds
    assert {name for name, _ in short.named_parameters() if ".sites." in name} <= kinds


def test_it_is_for_inference_alone(tmp_path: Path) -> None:
    short = dyt.quantize(tiny())
    with pytest.raises(dyt.UnsupportedError, match="a quantised model is for inference; train the model that it was"):
        short.train()
    with pytest.raises(dyt.CheckpointError, match="save the model that it was made from"):
        dyt.save(short, tmp_path / "x.safetensors")
    with pytest.raises(dyt.UnsupportedError, match="a quantised model cannot be quantised"):
        dyt.quantize(short)
    with pytest.raises(dyt.UnsupportedError, match="an optimised model cannot be quantised"):
        dyt.quantize(dyt.optimize(tiny()))


def test_it_can_be_optimised_and_calibrated() -> None:
    """Quantised layers stay as they are, and the report says so; the numbers are the quantised model's."""
    short = dyt.quantize(tiny())
    fast = dyt.optimize(short)
    assert "another library's modules are in its MLP" in str(fast.report)
    given = masks(short, X, ["random"], 0)
    with torch.no_grad(), dyt.forced(short, given), dyt.forced(fast, given):
        torch.testing.assert_close(fast(X), short(X), atol=1e-4, rtol=1e-4)
    assert set(dyt.calibrate_break_even(short, X, (1,)).sites) == {site.name for site in short.sites}


def test_without_torchao_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "find_spec", lambda name: None)
    with pytest.raises(dyt.UnsupportedError, match=r"pip install 'dyt\[int8\]'"):
        dyt.quantize(tiny())
