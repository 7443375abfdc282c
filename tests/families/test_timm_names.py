"""What `dyt.supports` answers for models of timm's list, and that it is true: forward, law 1 and backward of each."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch

import dyt
from families.zoo import CLASSES, TINY, VARIANTS, needs_timm
from laws.models import spec

NAMES = {
    "vit": "vit_tiny_patch16_224 vit_base_patch16_224 vit_large_patch14_224 vit_tiny_r_s16_p8_224 flexivit_base "
    "deit_base_patch16_224 deit_base_distilled_patch16_224 deit3_base_patch16_224 vit_base_patch14_dinov2 "
    "vit_giant_patch14_reg4_dinov2 vit_base_patch16_clip_224 vit_base_patch16_siglip_224 vit_base_patch16_224_miil "
    "vit_so400m_patch16_siglip_512 vit_so400m_patch14_siglip_gap_448 aimv2_large_patch14_224 beit3_base_patch16_224 "
    "vit_medium_patch16_reg4_gap_256 eva_large_patch14_196 vit_dwee_patch16_reg1_gap_256 vit_base_mci_224 "
    "naflexvit_base_patch16_gap naflexvit_base_patch16_siglip naflexvit_base_patch16_par_gap "
    "naflexvit_huge_patch16_radio_v4",
    "vit_respost": "vit_base_patch16_rpn_224",
    "vit_parallel": "vit_base_patch16_xp_224 vit_pwee_patch16_reg1_gap_256",
    "vit_parallel_diff": "vit_dpwee_patch16_reg1_gap_256",
    "vit_parallel_things": "vit_small_patch16_18x2_224",
    "eva": "eva_giant_patch14_224 eva02_tiny_patch14_224 eva02_base_patch14_448 eva02_large_patch14_clip_224 "
    "vit_small_patch16_dinov3 vit_7b_patch16_dinov3 vit_base_patch16_rope_224 vit_base_patch16_rope_mixed_ape_224 "
    "vit_mediumd_patch16_rope_reg1_gap_256 vit_pe_core_base_patch16_224 vit_pe_spatial_base_patch16_512 "
    "vit_pe_lang_large_patch14_448 vit_base_patch16_sapiens2 vit_base_patch16_lingbot",
    "eva_postnorm": "eva02_enormous_patch14_clip_224",
    "beit": "beit_base_patch16_224 beitv2_large_patch16_224",
    "relpos": "vit_relpos_base_patch16_224 vit_relpos_base_patch16_clsgap_224 vit_srelpos_small_patch16_224",
    "relpos_respost": "vit_relpos_small_patch16_rpn_224",
    "cait": "cait_xxs24_224 cait_m36_384",
}
PAIRS = [(name, family) for family, names in NAMES.items() for name in names.split()]
ARGS: dict[str, dict[str, Any]] = {
    "vit_tiny_r_s16_p8_224": {"patch_size": None},  # it follows from a convolutional stem
    "vit_base_mci_224": {"patch_size": None, "embed_dim": None, "num_heads": 12},
    "vit_base_patch16_sapiens2": {"num_kv_heads": 1},  # otherwise one number for each of its blocks
}
"""What differs from the tiny arguments; None for the model's own."""
SINCE = {
    "vit_base_patch16_lingbot": "1.0.29",
    "vit_base_patch16_sapiens2": "1.0.30",
    "naflexvit_huge_patch16_radio_v4": "1.0.31",
}
"""The first timm that has the name, where that is not the lowest one that is allowed."""


@pytest.mark.parametrize(("name", "family"), PAIRS)
def test_supported(name: str, family: str) -> None:
    needs_timm(SINCE.get(name, "0"), name)
    changes = ARGS.get(name, {})
    answer = dyt.supports(name, depth=2, **{key: value for key, value in changes.items() if key not in TINY})
    assert (answer.family, answer.variants, dict(answer.refused)) == (family, VARIANTS, {})
    args = {key: value for key, value in (TINY | changes).items() if value is not None}
    plain = timm.create_model(name, **args).eval()
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = copy.deepcopy(plain)(x)
        model = dyt.build(spec(variant={"type": "layer"}), backbone=plain)
        with dyt.execution(model, "complete"):
            torch.testing.assert_close(model(x), expected, atol=1e-4, rtol=1e-4)
    loss, _ = dyt.TuningStep(model.train())(x, torch.arange(2) % CLASSES)
    loss.backward()
    assert all((parameter.grad is not None) == parameter.requires_grad for parameter in model.parameters())


def test_there_are_enough_names() -> None:
    assert len({name for name, _ in PAIRS}) == len(PAIRS) >= 50


@pytest.mark.parametrize(
    ("name", "blocks"),
    [
        ("xcit_nano_12_p8_224", "Xcit with blocks XCABlock"),
        ("pit_ti_224", "PoolingVisionTransformer with blocks Block"),
        ("levit_128", "LevitDistilled with blocks LevitBlock"),
        ("resnet18", "ResNet with blocks BasicBlock"),
        ("convnext_tiny", "ConvNeXt with blocks ConvNeXtBlock"),
    ],
)
def test_others_are_answered_with_the_reason(name: str, blocks: str) -> None:
    answer = dyt.supports(name)
    assert not answer
    assert answer.family is None
    assert set(answer.refused) == set(dyt.list("variants"))
    assert set(answer.refused.values()) == {f"no family knows the blocks of {blocks}"}
