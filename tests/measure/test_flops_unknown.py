"""Operators without a formula: refused or free, how a formula is added, and that torch's own table changes nothing."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import flop_counter
from torch.utils.flop_counter import FlopCounterMode

import dyt
from dyt.core.context import changed
from dyt.executors import unseen
from dyt.measure import executed_macs
from dyt.measure.flops import MacCounter, formula_of, register, table
from dyt.measure.flops.unknown import multiplies
from dyt.measure.macs import tokens_alone
from laws.models import TINY, masks, tiny

X = torch.ones(2, 3, 32, 32)


@torch.library.custom_op("dyt_tests::mix", mutates_args=())
def mix(x: Tensor, weight: Tensor) -> Tensor:
    """A product that torch's dispatcher sees nothing of."""
    return x @ weight


@torch.library.custom_op("dyt_tests::halve", mutates_args=())
def halve(x: Tensor) -> Tensor:
    return x / 2


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is forgotten."""
    monkeypatch.setattr(table, "_ADDED", {})


def count(run: Any) -> int:
    with torch.no_grad(), MacCounter() as counter:
        run()
    return counter.total


def test_an_operator_of_another_s_is_refused_until_it_says_what_it_costs() -> None:
    x, weight = torch.ones(2, 3), torch.ones(3, 5)
    with pytest.raises(dyt.UnsupportedError, match=r"dyt_tests::mix may multiply.*flops\.register\('dyt_tests::mix'"):
        count(lambda: mix(x, weight))
    register(mix, lambda out, x, weight: out.numel() * x.shape[-1])
    assert count(lambda: mix(x, weight)) == 2 * 3 * 5
    assert count(lambda: halve(x)) == 0  # one tensor alone


@pytest.mark.parametrize("operator", ["dyt_tests::mix", torch.ops.dyt_tests.mix, torch.ops.dyt_tests.mix.default, mix])
def test_an_operator_is_named_in_any_way(operator: Any) -> None:
    register(operator, lambda *args, **kwargs: 7)
    assert count(lambda: mix(torch.ones(2, 3), torch.ones(3, 5))) == 7
    with pytest.raises(dyt.DyTError, match="dyt_tests::mix has a formula already"):
        register(mix, lambda *args, **kwargs: 8)


def test_what_cannot_be_registered() -> None:
    with pytest.raises(dyt.DyTError, match=r"is no operator; give torch\.ops"):
        register(torch.matmul, lambda *args, **kwargs: 0)
    with pytest.raises(dyt.DyTError, match="aten::mm has a formula already"):
        register(torch.ops.aten.mm, lambda *args, **kwargs: 0)


def test_a_formula_that_only_torch_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(flop_counter.flop_registry, torch.ops.dyt_tests.mix, lambda *args, out_val, **kwargs: 60)
    assert count(lambda: mix(torch.ones(2, 3), torch.ones(3, 5))) == 30
    assert all(formula_of(operator) is not None for operator in flop_counter.flop_registry)


@pytest.mark.parametrize("knows", [False, True])
def test_it_makes_no_difference_what_torch_knows(knows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before 2.15 torch's own counter knows nothing of the CPU's attention."""
    operator = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    if knows:
        monkeypatch.setitem(flop_counter.flop_registry, operator, lambda *args, out_val, **kwargs: 10**9)
    else:
        monkeypatch.delitem(flop_counter.flop_registry, operator, raising=False)
    q = torch.ones(2, 4, 5, 8)
    assert count(lambda: F.scaled_dot_product_attention(q, q, q)) == 2 * 4 * 5 * 5 * 16


def test_it_is_what_torch_s_counter_sees_of_plain_products() -> None:
    model = timm.create_model("vit_tiny_patch16_224", **TINY).eval()
    for block in model.blocks:
        block.attn.fused_attn = False
    with torch.no_grad(), FlopCounterMode(display=False) as theirs:
        model(X)
    assert count(lambda: model(X)) == theirs.get_total_flops() // 2


REFUSED = (
    *("aten::_sparse_mm", "aten::_cudnn_rnn", "aten::_fft_r2c", "aten::_linalg_svd", "aten::_new_scaled_mm_v9"),
    *("aten::_next_flash_attention_forward", "torchao::da8w4_linear_cpu", "symm_mem::_async_input_mm"),
    *("xformers::efficient_attention_forward_cutlass", "flash_attn::_flash_attn_qkvpacked", "lib::lora", "conv_hop"),
)
FREE = (
    *("aten::upsample_bilinear2d", "aten::_upsample_bicubic2d_aa", "aten::igamma", "aten::hamming_window"),
    *("aten::cummax", "aten::mvlgamma", "aten::native_layer_norm", "aten::linalg_vector_norm", "torchvision::nms"),
    *("torchvision::roi_align", "prims::convert_element_type", "aten::_fused_sdp_choice", "torchao::dequantize_affine"),
    *("aten::avg_pool2d", "aten::grid_sampler_2d", "aten::embedding", "aten::_convert_indices_from_csr_to_coo"),
)


@pytest.mark.parametrize("name", REFUSED)
def test_names_that_tell_of_products(name: str) -> None:
    assert multiplies(name, (torch.ones(3),), {})


@pytest.mark.parametrize("name", FREE)
def test_names_that_tell_of_none(name: str) -> None:
    assert not multiplies(name, (torch.ones(3), torch.ones(3)), {})


def test_no_pointwise_operator_of_torch_s_is_taken_for_a_product() -> None:
    packets = [getattr(torch.ops.aten, name) for name in dir(torch.ops.aten)]
    found = {
        f"aten::{name}"
        for packet in packets
        if isinstance(packet, torch._ops.OpOverloadPacket)
        for overload in packet.overloads()
        if torch.Tag.pointwise in getattr(packet, overload).tags
        for name in [packet.__name__]
    }
    assert len(found) > 100
    assert not {name for name in found if multiplies(name, (), {}) and formula_of(name) is None}


@pytest.mark.parametrize("condition", [True, False])
def test_of_a_condition_the_branch_that_is_taken(condition: bool) -> None:
    x = torch.ones(3, 3)
    asked = torch.tensor(condition)
    assert count(lambda: torch.cond(asked, lambda y: y @ y, lambda y: y + y, (x,))) == (27 if condition else 0)


def test_a_kernel_that_the_dispatcher_does_not_see_says_what_it_multiplies() -> None:
    asked: list[int] = []
    unseen("kernel", lambda: asked.append(1) or 1)
    assert not asked  # nobody counts
    with MacCounter() as counter:
        unseen("kernel", lambda: 12)
    assert counter.by_operator == {"kernel": 12}


def test_what_a_batch_executes_is_told_apart_from_what_its_images_need() -> None:
    """The rows of a shorter image are computed and thrown away."""
    model = tiny(variant={"type": "attn"})
    given = [mask.clone() for mask in masks(model, X, ["all"], 0)]
    with dyt.forced(model, given), changed(model.key, executor=tokens_alone()):
        assert executed_macs(model, X) == int(dyt.count_macs(model, X).sum())
    for mask in given:
        mask[1, 5:] = False
    with dyt.forced(model, given):
        needed, executed = int(dyt.count_macs(model, X).sum()), executed_macs(model, X)
        assert executed > needed
        with dyt.execution(model, "masked"):
            assert executed_macs(model, X) >= executed
            assert int(dyt.count_macs(model, X).sum()) == needed


def test_a_model_with_an_unknown_operator_is_not_counted_too_low() -> None:
    class Mixed(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return mix(x, self.weight.t().contiguous()) + self.bias

    model = tiny(dispatcher={"type": "always"})
    plain = dyt.count_macs(model, X)
    mlp = model.backbone.blocks[0].mlp
    mlp.fc1 = Mixed(mlp.fc1.in_features, mlp.fc1.out_features)
    with pytest.raises(dyt.UnsupportedError, match="dyt_tests::mix"):
        dyt.count_macs(model, X)
    register(mix, lambda out, x, weight: out.numel() * x.shape[-1])
    assert torch.equal(dyt.count_macs(model, X), plain)
