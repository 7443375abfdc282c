"""What the counter sees of operators that run here, against arithmetic from shapes."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from dyt.measure.flops import MacCounter

B, H, Q, K, D, E = 2, 4, 5, 7, 8, 6


def counted(run: Callable[[], object], inference: bool) -> int:
    with torch.inference_mode() if inference else torch.no_grad(), MacCounter() as counter:
        run()
    assert counter.total == sum(counter.by_operator.values())
    return counter.total


either = pytest.mark.parametrize("inference", [False, True], ids=["no_grad", "inference_mode"])
q, k, v = (
    torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for shape in ((B, H, Q, D), (B, H, K, D), (B, H, K, E))
)
MASK = torch.ones(Q, K, dtype=torch.bool)
CALLS: dict[str, Callable[[], object]] = {
    "plain": lambda: F.scaled_dot_product_attention(q, k, k),
    "mask": lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=MASK),
    "bias": lambda: F.scaled_dot_product_attention(q, k, k, attn_mask=MASK.float()),
    "grouped": lambda: F.scaled_dot_product_attention(q, k[:, :2], k[:, :2], enable_gqa=True),
    "half": lambda: F.scaled_dot_product_attention(q.bfloat16(), k.bfloat16(), k.bfloat16()),
    "by hand": lambda: (q @ k.mT).softmax(-1) @ k,
}


@either
@pytest.mark.parametrize("backend", [SDPBackend.MATH, SDPBackend.FLASH_ATTENTION], ids=["math", "flash"])
@pytest.mark.parametrize("call", CALLS)
def test_attention_costs_the_same_whatever_computes_it(call: str, backend: SDPBackend, inference: bool) -> None:
    with sdpa_kernel(backend):
        try:
            CALLS[call]()
        except RuntimeError as reason:  # older kernels know no grouped queries
            pytest.skip(str(reason))
        assert counted(CALLS[call], inference) == B * H * Q * K * 2 * D


@either
def test_values_may_have_other_channels_than_keys(inference: bool) -> None:
    assert counted(lambda: F.scaled_dot_product_attention(q, k, v), inference) == B * H * Q * K * (D + E)


x = torch.ones(B, Q, D)
HEADS = 4 * B * Q * D * D + 2 * B * Q * Q * D
linear, attend, layer = (
    torch.nn.Linear(D, 3),
    torch.nn.MultiheadAttention(D, 2, batch_first=True).eval(),
    torch.nn.TransformerEncoderLayer(D, 2, 16, batch_first=True).eval(),
)
numbers = torch.ones(32, 16, dtype=torch.int8)


def _nested_attention() -> Tensor:
    nested = torch.nested.nested_tensor([q[0], q[1, :, :3]])
    return F.scaled_dot_product_attention(nested, nested, nested)


def _int8_weights() -> Tensor:
    return torch._weight_int8pack_mm(x[0].bfloat16(), numbers[:, :D].contiguous(), torch.ones(32).bfloat16())


RUNS: dict[str, tuple[Callable[[], object], int]] = {
    "linear": (lambda: linear(x), B * Q * D * 3),
    "matmul": (lambda: x @ x.mT, B * Q * D * Q),
    "vectors": (lambda: (x[0] @ x[0, 0], x[0, 0] @ x[0, 0]), Q * D + D),
    "into": (lambda: torch.addmm(torch.zeros(Q, Q), x[0], x[0].t(), out=torch.zeros(Q, Q)), Q * D * Q),
    "in place": (lambda: torch.zeros(Q, Q).addmm_(x[0], x[0].t()), Q * D * Q),
    "einsum": (lambda: torch.einsum("bij,bkj->bik", x, x), B * Q * D * Q),
    "bilinear": (lambda: F.bilinear(x, x, torch.ones(3, D, D)), B * Q * D * D * 3),
    "distances": (lambda: torch.cdist(x, x), B * Q * Q * D),
    "many distances": (lambda: torch.cdist(x.repeat(1, 8, 1), x.repeat(1, 8, 1)), B * 64 * Q * Q * D),
    "convolution": (lambda: F.conv1d(x, torch.ones(6, Q, 3)), B * 6 * 6 * Q * 3),
    "transposed convolution": (lambda: F.conv_transpose1d(x, torch.ones(Q, 6, 3)), B * Q * D * 6 * 3),
    "int8": (lambda: torch._int_mm(numbers, numbers.t().contiguous()), 32 * 16 * 32),
    "int8 weights": (_int8_weights, Q * D * 32),
    "fast attention": (lambda: attend(x, x, x, need_weights=False), HEADS),
    "fast layer": (lambda: layer(x), HEADS + 2 * B * Q * D * 16),
    "nested": (lambda: linear(torch.nested.nested_tensor([x[0], x[1, :3]])), (Q + 3) * D * 3),
    "jagged": (lambda: linear(torch.nested.nested_tensor([x[0], x[1, :3]], layout=torch.jagged)), (Q + 3) * D * 3),
    "nested attention": (_nested_attention, H * (Q * Q + 9) * 2 * D),
    "elementwise": (lambda: (x * x).sum() + F.layer_norm(x, (D,)).mean() + F.gelu(x).max(), 0),
    "norm": (lambda: torch.linalg.vector_norm(x), 0),
}  # fmt: skip


@either
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("what", RUNS)
def test_what_runs_costs_what_arithmetic_says(what: str, inference: bool) -> None:
    run, expected = RUNS[what]
    assert counted(run, inference) == expected


def test_grouped_products() -> None:
    if not torch._C._dispatch_has_kernel_for_dispatch_key("aten::_grouped_mm", "CPU"):
        pytest.skip("this torch has no grouped products on the CPU")
    rows, weights = torch.ones(16, 16, dtype=torch.bfloat16), torch.ones(2, 16, 32, dtype=torch.bfloat16)
    assert (
        counted(lambda: torch._grouped_mm(rows, weights, offs=torch.tensor((4, 16), dtype=torch.int32)), False)
        == 16 * 16 * 32
    )


@either
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention(inference: bool) -> None:
    from torch.nn.attention.flex_attention import flex_attention

    assert counted(lambda: flex_attention(q, k, k), inference) == B * H * Q * K * 2 * D


@either
@pytest.mark.parametrize("fullgraph", [False, True])
def test_compiled_code_is_counted_as_it_was_written(fullgraph: bool, inference: bool) -> None:
    compiled = torch.compile(lambda y: linear(y).relu(), backend="aot_eager", fullgraph=fullgraph)
    with torch.no_grad():
        compiled(x)
    assert counted(lambda: compiled(x), inference) == B * Q * D * 3
