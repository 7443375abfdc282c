"""`capacity` packs into a fixed number of rows, equals `masked` whatever has room, and never looks at the device."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)

import dyt
from dyt.core.route import Route, Tokens
from dyt.executors import Capacity, Masked, TokenCapacity
from dyt.executors.capacity import pack
from dyt.testing import laws, parts
from laws.models import Case, masks, tiny
from laws.strategies import batches, cases, chosen, mask_kinds, names

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
shares = st.sampled_from([0.01, 0.3, 0.5, 0.75, 0.9, 1.0])
each_method = pytest.mark.parametrize("method", parts.METHODS)


def run(method: str, capacity: TokenCapacity, x: Tensor, route: Route) -> Tensor:
    fn = parts.attention if method == "mixing" else lambda y: y.tanh() + 1
    return getattr(Capacity(capacity), method)(fn, x, route)


@pytest.mark.parametrize("variant", names("variants"))
@given(case=cases(), kinds=mask_kinds, share=shares, data=st.data())
def test_equals_masked_with_any_room(
    variant: str, case: Case, kinds: list[str], share: float, data: st.DataObject
) -> None:
    spec = {**data.draw(chosen(variant=variant)), "capacity": {"share": share}}
    laws.executor_equals_masked(case, spec, "capacity", kinds)


@pytest.mark.parametrize("dispatcher", names("dispatchers"))
@given(share=shares, data=st.data())
def test_a_dispatcher_s_own_routes_with_any_room(dispatcher: str, share: float, data: st.DataObject) -> None:
    case = data.draw(cases(dispatcher=dispatcher))
    laws.own_routes_equal_masked(
        case, {**data.draw(chosen(dispatcher=dispatcher)), "capacity": {"share": share}}, "capacity"
    )


@each_method
@given(batch=batches(), share=shares)
def test_an_image_is_right_or_nan(method: str, batch: tuple[Tensor, Tensor], share: float) -> None:
    """With `nan` no number is wrong: an image whose tokens have no room says so in every token."""
    x, active = batch
    out = run(method, TokenCapacity(share, "nan"), x, Route(active, 0))
    right = run(method, TokenCapacity(), x, Route(active, 0))
    lost = out.isnan().flatten(1).all(1)
    torch.testing.assert_close(out[~lost], right[~lost], atol=1e-5, rtol=1e-5)
    rows = max(int(-(-share * x.shape[1] // 1)), 1)
    crowded = active.sum(1) > rows if method == "mixing" else active.sum(1).cumsum(0) > rows * len(x)
    assert not lost[~crowded].any()
    assert lost[crowded & active.any(1)].all() or method == "pointwise"
    if method == "pointwise" and active.sum() > rows * len(x) and rows < x.shape[1]:
        assert lost.any()


@each_method
@given(batch=batches())
def test_gradients_with_room(method: str, batch: tuple[Tensor, Tensor]) -> None:
    x, active = batch
    found = {}
    for name, executor in (("masked", Masked()), ("capacity", Capacity(TokenCapacity(0.6)))):
        y, gate = x.clone().requires_grad_(), active.float().requires_grad_()
        fn = parts.attention if method == "mixing" else torch.tanh
        out = getattr(executor, method)(fn, y, Route(active, 0, gate))
        (out * torch.arange(out.numel()).reshape(out.shape).cos()).sum().backward()
        found[name] = y.grad, gate.grad[active]
    torch.testing.assert_close(found["capacity"], found["masked"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.5, 1.0])
def test_the_branch_is_given_the_same_number_of_rows_whatever_is_active(share: float) -> None:
    rows = []

    def branch(y: Tensor, tokens: Tokens | None = None) -> Tensor:
        rows.append(y.shape[0] * y.shape[1])
        return y

    for count in range(4):
        active = torch.arange(8).expand(2, 8) < count
        Capacity(TokenCapacity(share)).pointwise(branch, torch.randn(2, 8, 4), Route(active, 0))
        Capacity(TokenCapacity(share)).mixing(branch, torch.randn(2, 8, 4), Route(active, 0))
    assert set(rows) == {int(16 * share)}


def test_pointwise_rooms_are_shared_by_the_batch() -> None:
    active = torch.zeros(2, 8, dtype=torch.bool)
    active[0] = True
    out = run("pointwise", TokenCapacity(0.5, "nan"), torch.randn(2, 8, 4), Route(active, 0))
    assert not out.isnan().any()
    assert run("mixing", TokenCapacity(0.5, "nan"), torch.randn(2, 8, 4), Route(active, 0))[0].isnan().all()


def test_prefix_tokens_always_have_room_and_rows_left_over_hold_a_patch() -> None:
    seen = []

    def branch(y: Tensor, tokens: Tokens) -> Tensor:
        seen.append(tokens)
        return y

    active = torch.zeros(1, 8, dtype=torch.bool)
    active[:, :3] = True
    Capacity(TokenCapacity(0.01)).mixing(branch, torch.randn(1, 8, 4), Route(active, 3))
    Capacity(TokenCapacity(0.6)).mixing(branch, torch.randn(1, 8, 4), Route(active, 3))
    assert seen[0].index.tolist() == [[0, 1, 2]]
    assert seen[1].index.tolist() == [[0, 1, 2, 7, 7]]
    assert seen[1].valid.tolist() == [[True, True, True, False, False]]


def test_pack() -> None:
    active = torch.tensor([[False, True, True, False, True], [False, False, False, True, False]])
    index, place, fits = pack(active, 2)
    assert index.tolist() == [[1, 2], [3, 4]]
    assert place[active].tolist() == [0, 1, 1, 0]  # the third of the first group has no row
    assert (active & ~fits).tolist() == [[False, False, False, False, True], [False] * 5]


@pytest.mark.parametrize("variant", names("variants"))
def test_nothing_waits_for_the_device(variant: str) -> None:
    """Fake tensors have no values: whatever asks for one fails, as a capture of the forward as a CUDA graph would."""
    model = tiny(variant={"type": variant}, capacity={"share": 0.5, "overflow": "nan"})
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with torch.no_grad(), dyt.execution(model, "capacity"), fake:
        assert model(fake.from_tensor(X)).shape == (3, 5)
    with (
        torch.no_grad(),
        dyt.execution(model, "sparse"),
        fake,
        pytest.raises((DataDependentOutputException, DynamicOutputShapeException)),
    ):
        model(fake.from_tensor(X))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_cuda_graph_is_replayed_with_other_masks() -> None:
    model = tiny(capacity={"share": 0.6, "overflow": "nan"}).cuda()
    given_masks = [[m.cuda() for m in masks(model, X.cuda(), ["random"], seed)] for seed in range(3)]
    held, images = [m.clone() for m in given_masks[0]], X.cuda()
    with torch.no_grad(), dyt.forced(model, held), dyt.execution(model, "capacity"):
        for _ in range(3):
            model(images)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.cuda.graph(graph):
                out = model(images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        for others in given_masks:
            for place, mask in zip(held, others, strict=True):
                place.copy_(mask)
            graph.replay()
            with dyt.execution(model, "masked"):
                wanted = model(images)
            lost = out.isnan().any(1)
            torch.testing.assert_close(out[~lost], wanted[~lost], atol=1e-4, rtol=1e-4)


def test_it_is_refused_in_train_mode_while_the_branch_draws() -> None:
    model = tiny({"drop_path_rate": 0.2}).train()
    with (
        dyt.execution(model, "capacity"),
        pytest.raises(dyt.UnsupportedError, match="executor 'capacity' in train mode"),
    ):
        model(X)


@each_method
@pytest.mark.parametrize(("share", "dense"), [(1.0, True), (0.99, True), (0.8, False), (0.5, False)])
def test_where_there_is_room_for_all_the_branch_is_given_the_tokens_as_they_are(
    method: str, share: float, dense: bool
) -> None:
    x, seen = torch.randn(2, 8, 4), []

    def branch(y: Tensor, tokens: Tokens | None = None) -> Tensor:
        seen.append(y)
        return y * 2

    active = torch.arange(8).expand(2, 8) < 4
    getattr(Capacity(TokenCapacity(share)), method)(branch, x, Route(active, 0))
    assert (seen[0] is x) == dense


@each_method
def test_an_image_with_a_token_too_many_overflows_and_the_others_do_not(method: str) -> None:
    """Two rows for each image: two images have room, and the third's last token has not."""
    active = torch.tensor([[True, False, True, False], [False, False, False, True], [True, True, True, True]])
    x = torch.randn(3, 4, 5)
    expected = run(method, TokenCapacity(1.0), x, Route(active, 0))
    out = run(method, TokenCapacity(0.5, "nan"), x, Route(active, 0))
    torch.testing.assert_close(out[:2], expected[:2])
    assert out[2].isnan().all()
    torch.testing.assert_close(run(method, TokenCapacity(0.5), x, Route(active, 0)), expected)


@each_method
def test_the_least_share_has_a_row(method: str) -> None:
    x, active = torch.randn(2, 8, 4), torch.zeros(2, 8, dtype=torch.bool)
    assert not run(method, TokenCapacity(1e-9), x, Route(active, 0)).any()


def test_the_least_share_has_one_row_and_no_second() -> None:
    """Of an image without prefix tokens: a second active token has no room."""
    x, one = torch.randn(1, 8, 4), torch.arange(8)[None] < 1
    two = torch.arange(8)[None] < 2
    assert run("mixing", TokenCapacity(1e-9, "nan"), x, Route(one, 0)).isfinite().all()
    assert run("mixing", TokenCapacity(1e-9, "nan"), x, Route(two, 0)).isnan().all()
