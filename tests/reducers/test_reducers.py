"""What holds for every registered reducer: alone, with the static adapter, with DyT, in every way a model is run."""

import copy
import threading
from functools import partial
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer

import dyt
from compilation import WHOLE
from dyt.config.files import override, read, write
from dyt.dispatchers.always import Always
from dyt.io.checkpoint import CHECKSUM, checksum
from dyt.model.dynamic import DynamicModel
from dyt.testing.laws import equals_masked, executed
from laws.models import CLASSES, Case, shaken, spec
from laws.strategies import names

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 4, "num_heads": 2}
X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
Y = torch.arange(3)
ADAPTER = {"type": "bottleneck", "dim": 8, "dropout": 0.0}
USES: dict[str, dict[str, Any]] = {
    "alone": {"dispatcher": "always", "adapter": "none"},
    "static": {"dispatcher": "always", "adapter": ADAPTER},
    "dyt": {"dispatcher": {"type": "learned", "noise": 0.0}, "adapter": ADAPTER},
}
each_reducer = pytest.mark.parametrize("name", names("reducers"))
each_use = pytest.mark.parametrize("use", list(USES))


def case(**args: Any) -> Case:
    return Case(ARGS | args, (32, 32), 3, 0)


def made(name: str, use: str = "static", args: dict[str, Any] | None = None, **changes: Any) -> DynamicModel:
    chosen = USES[use] | {"reducer": {"type": name}} | changes
    return shaken(dyt.build(spec(**chosen), backbone=case(**(args or {})).backbone()))


def run(model: DynamicModel, x: torch.Tensor = X) -> torch.Tensor:
    with torch.no_grad():
        return model(x)


@each_reducer
@each_use
def test_fewer_tokens_cost_less(name: str, use: str) -> None:
    plain, model = made(name, use, reducer=None), made(name, use)
    with torch.no_grad(), dyt.record(plain) as before, dyt.record(model) as after:
        assert model(X).shape == (3, CLASSES)
        features = model.forward_features(X)
        plain(X)
    counts = [route.active.shape[1] for route in after]
    assert len(after) == 2 * len(before)
    assert counts[:4] == sorted(counts[:4], reverse=True)
    assert counts[3] < before[3].active.shape[1]
    assert features.shape == (3, counts[3], 32)
    assert all(bool(route.active[:, : route.prefix].all()) for route in after)
    assert abs(int(dyt.count_macs(model, X).sum()) - executed(model, X)) <= 3
    masks = [torch.ones_like(route.active) for route in before]
    with dyt.forced(plain, masks), dyt.forced(model, [m[:, :n] for m, n in zip(masks, counts, strict=False)]):
        assert bool((dyt.count_macs(model, X) < dyt.count_macs(plain, X)).all())


@each_reducer
@each_use
def test_images_do_not_meet(name: str, use: str) -> None:
    model = made(name, use)
    together = run(model)
    for i in range(3):
        torch.testing.assert_close(run(model, X[i : i + 1])[0], together[i], atol=2e-5, rtol=2e-5)
    assert run(model, X[:0]).shape == (0, CLASSES)


@each_reducer
@each_use
def test_executors_agree(name: str, use: str) -> None:
    model = made(name, use)
    with dyt.record(model) as routes:
        run(model)
    masks = [torch.rand(route.active.shape) < 0.5 for route in routes]
    for mask in masks:
        mask[:, :1] = True
    expected = equals_masked(model, X, masks, ["sparse"], partial(torch.testing.assert_close, atol=2e-5, rtol=2e-5))
    assert not torch.allclose(expected, run(model), atol=1e-4)
    whole = [torch.ones(3, 17, dtype=torch.bool)] * 4
    refused = pytest.raises(dyt.DyTError, match=r"forced mask of site blocks\.[0-3]\.mlp has shape")
    with refused, dyt.forced(model, whole):
        run(model)


@each_reducer
@each_use
def test_a_step_trains_what_is_to_be_trained(name: str, use: str) -> None:
    model = made(name, use)
    frozen = {k: p.detach().clone() for k, p in model.named_parameters() if not p.requires_grad}
    with dyt.record(model) as routes:
        loss, parts = dyt.TuningStep(model).train()(X, Y)
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert torch.equal(parts["total"], loss)
    assert len(routes) == 8  # the complete pass reduces as well, and dispatches nothing
    assert routes[-1].active.shape[1] < 17
    assert all(bool(route.active.all()) for route in routes[4:])
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    assert all(torch.equal(p, frozen[k]) for k, p in model.named_parameters() if k in frozen)


@each_reducer
def test_gradient_checkpointing_changes_no_number(name: str) -> None:
    model, found = made(name, "dyt", {"init_values": 0.5, "qk_norm": True}).train(), []
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        torch.manual_seed(3)
        loss, _ = dyt.TuningStep(model)(X, Y)
        loss.backward()
        found.append((loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    assert torch.equal(found[0][0], found[1][0])
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))


@each_reducer
def test_saved_and_loaded(name: str, tmp_path: Any) -> None:
    model, path = made(name), tmp_path / "model.safetensors"
    dyt.save(model, path)
    loaded = dyt.load(path, backbone=case().backbone())
    assert torch.equal(run(loaded), run(model))
    assert loaded.spec == model.spec
    assert {type(module) for module in loaded.modules()} == {type(module) for module in model.modules()}
    with safe_open(path, "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    own = {f"reducers.{s.name}.{key}" for s in model.reductions for key in s.reducer_state()}
    assert own == {key for key in tensors if key.startswith("reducers.")}
    if own:
        assert f"reducers.blocks.1.{next(iter(model.reductions[1].reducer_state()))}" in own
        tensors.pop(min(own))
        save_file(tensors, path, metadata | {CHECKSUM: checksum(tensors, metadata)})
        with pytest.raises(dyt.CheckpointError, match=r"1 missing \(reducers.blocks"):
            dyt.load(path, backbone=case().backbone())


@each_reducer
@pytest.mark.parametrize("side", [8, 16, 24])
def test_few_patches(name: str, side: int) -> None:
    small = Case(ARGS | {"img_size": side}, (side, side), 2, 0)
    model = shaken(dyt.build(spec(reducer={"type": name}, **USES["static"]), backbone=small.backbone()))
    with torch.no_grad(), dyt.record(model) as routes:
        assert bool(torch.isfinite(model(small.images())).all())
    assert all(route.active.shape[1] > 1 for route in routes)
    loss, _ = dyt.TuningStep(model).train()(small.images(), Y[:2])
    loss.backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


@each_reducer
@each_use
@pytest.mark.parametrize("dtype", ["autocast", "bfloat16"])
def test_low_precision(name: str, use: str, dtype: str) -> None:
    low = Case(ARGS | {"init_values": 0.5}, (32, 32), 3, 0, dtype=dtype)
    model = shaken(dyt.build(spec(reducer={"type": name}, **USES[use]), backbone=low.backbone()))
    with low.precision():
        out = run(model, low.images())
    with low.precision():  # anew: older versions of torch keep what was cast without gradient
        loss, _ = dyt.TuningStep(model).train()(low.images(), Y)
    assert out.dtype == torch.bfloat16
    loss.backward()
    assert bool(torch.isfinite(loss))
    assert all(bool(torch.isfinite(p.grad).all()) for p in model.parameters() if p.grad is not None)


def pause(barrier: threading.Barrier) -> None:
    barrier.wait()


@each_reducer
def test_threads_and_models_do_not_meet(name: str) -> None:
    """Both forwards stand between the same two blocks at once, with other batch sizes, in one model and in two."""
    model = made(name, "dyt")
    for other in (model, copy.deepcopy(model)):
        expected, barrier, out = [run(model, X), run(other, X[:2])], threading.Barrier(2, timeout=10), [None, None]
        hooks = [m.backbone.blocks[1].register_forward_hook(lambda *_, b=barrier: pause(b)) for m in {model, other}]

        def work(i: int, m: DynamicModel, x: torch.Tensor, out: list[Any] = out) -> None:
            out[i] = run(m, x)

        threads = [threading.Thread(target=work, args=(i, m, X[: 3 - i])) for i, m in enumerate((model, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for hook in hooks:
            hook.remove()
        assert all(torch.equal(a, b) for a, b in zip(out, expected, strict=True))  # type: ignore[arg-type]


@each_reducer
def test_nothing_is_left_after_a_forward(name: str) -> None:
    model = made(name, "dyt")
    expected = run(model)
    hook = model.backbone.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run(model, X[:1])
    hook.remove()
    assert torch.equal(run(model), expected)  # an interrupted forward does not disturb the next
    state = {id(each.state) for each in model.reductions}
    assert len(state) == 1
    assert model.reductions[0].state.carried is None
    assert set(vars(model.reductions[0].state)) <= {"carried"}


def test_a_block_alone_says_what_it_lacks() -> None:
    with pytest.raises(dyt.DyTError, match=r"blocks\.2 was run without the blocks before it"):
        made("tome").backbone.blocks[2](torch.randn(1, 17, 32))


@each_reducer
def test_compiled_whole(name: str) -> None:
    torch._dynamo.reset()
    model = made(name, "static", {"depth": 2})
    torch.testing.assert_close(run(torch.compile(model, fullgraph=WHOLE, backend="eager")), run(model))
    torch._dynamo.reset()


# What is refused


@each_reducer
@pytest.mark.parametrize("variant", [name for name in names("variants") if name != "mlp"])
def test_other_variants_are_refused(name: str, variant: str) -> None:
    with pytest.raises(dyt.UnsupportedError, match=f"in variant '{variant}' not every token takes part"):
        made(name, variant={"type": variant})


@each_reducer
def test_what_does_not_go_together_is_refused(name: str) -> None:
    with pytest.raises(dyt.UnsupportedError, match=r"leave variant\.layers out"):
        made(name, variant={"type": "mlp", "layers": [0, 1]})
    with dyt.registry.dispatchers.temporary():

        @dyt.registry.dispatchers("ranked")
        class Ranked(Always):
            needs_attention = True

        with pytest.raises(dyt.UnsupportedError, match="dispatcher 'ranked' ranks the tokens that entered a block"):
            made(name, "static", dispatcher="ranked")
    model = made(name)
    with pytest.raises(dyt.UnsupportedError, match=f"one token per patch, which reducer '{name}' does not"):
        model.forward_intermediates(X)
    with pytest.raises(dyt.UnsupportedError, match="does not combine with attn_mask"):
        model.forward_features(X, attn_mask=torch.ones(17, 17, dtype=torch.bool))
    run(model)


@pytest.mark.parametrize(
    "args", [{"global_pool": "avg"}, {"global_pool": "map", "class_token": False}, {"global_pool": ""}]
)
def test_a_head_that_reads_patches_gets_all_of_them_or_is_refused(args: dict[str, Any]) -> None:
    for name in names("reducers"):
        backbone = case(**args).backbone()
        before = [id(module) for module in backbone.modules()]
        if dyt.registry.reducers.get(name).restores:
            model = dyt.build(spec(reducer={"type": name}, **USES["alone"]), backbone=backbone)
            assert model.forward_features(X).shape[1] == 16 + model.num_prefix_tokens
            continue
        with pytest.raises(
            dyt.UnsupportedError, match=f"reducer '{name}' is not available for VisionTransformer: its head"
        ):
            dyt.build(spec(reducer={"type": name}, **USES["alone"]), backbone=backbone)
        assert [id(module) for module in backbone.modules()] == before


def test_attention_without_one_key_per_token_is_refused() -> None:
    backbone = VisionTransformer(**ARGS, num_classes=CLASSES, attn_layer="diff")
    with pytest.raises(dyt.UnsupportedError, match="DiffAttention has no one key for each token"):
        dyt.build(spec(reducer="tome", **USES["alone"]), backbone=backbone)


def test_no_reducer_is_the_default_and_a_wrong_one_is_answered() -> None:
    assert dyt.DyTSpec().reducer is None
    assert not made("tome", reducer=None).reductions
    with pytest.raises(dyt.SpecError, match=r"reducer: reducers has no 'tom'; did you mean 'tome'"):
        made("tome", reducer={"type": "tom"})


@each_reducer
def test_it_can_be_set_over_a_spec_without_one(name: str) -> None:
    plain = dyt.DyTSpec().model_dump(mode="json")
    assert dyt.DyTSpec.model_validate(override(plain, [f"reducer.type={name}"])).reducer == made(name).spec.reducer
    assert dyt.DyTSpec.model_validate(override(plain, [f"reducer={name}"])).reducer == made(name).spec.reducer


@each_reducer
def test_specs_survive(name: str, tmp_path: Any) -> None:
    whole = dyt.DyTSpec.model_validate(spec(reducer=name))
    assert whole.reducer is not None
    assert whole.reducer.type == name
    for file in ("spec.json", "spec.yaml"):
        write(whole.model_dump(mode="json"), tmp_path / file)
        assert dyt.DyTSpec.model_validate(read(tmp_path / file)) == whole
