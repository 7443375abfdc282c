"""`bitfit`: which parameters are biases."""

import pytest
import torch
from timm.layers import RmsNorm
from timm.models.vision_transformer import VisionTransformer

import dyt
from dyt.io.checkpoint import stored
from dyt.model.parts import tuned_keys
from dyt.tuners import BitFit, BitFitSpec
from laws.models import TINY, Case, spec

CASE = Case(TINY, (32, 32), 2, 0)


def test_all_biases_but_the_head_s_and_ours() -> None:
    model = dyt.build(spec(tuner="bitfit"), backbone=CASE.backbone())
    inside = ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")
    expected = {f"blocks.{i}.{name}.bias" for i in range(2) for name in inside} | {"patch_embed.proj.bias", "norm.bias"}
    assert tuned_keys(model.backbone, model.tuner) == expected
    assert {f"tuner.{name}" for name in expected} <= set(stored(model))


@pytest.mark.parametrize(
    ("name", "trained"),
    [
        ("blocks.0.attn.q_bias", True),
        ("blocks.0.mlp_bias", True),
        ("blocks.0.attn.qkv.bias", True),
        ("blocks.0.attn.qkv.weight", False),
        ("blocks.0.attn.relative_position_bias_table", False),
    ],
)
def test_what_is_a_bias(name: str, trained: bool) -> None:
    assert BitFit(BitFitSpec()).trains(name) is trained


def test_a_backbone_without_biases_is_refused() -> None:
    vit = VisionTransformer(**TINY, num_classes=5, qkv_bias=False, proj_bias=False, norm_layer=RmsNorm)
    with torch.no_grad():
        for module in vit.modules():
            if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)) and module is not vit.head:
                module.register_parameter("bias", None)
    vit.head.bias = None
    with pytest.raises(dyt.UnsupportedError, match=r"tuner 'bitfit' is not available .* it has no biases"):
        dyt.build(spec(tuner="bitfit"), backbone=vit)
