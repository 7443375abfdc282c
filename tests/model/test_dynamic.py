"""DynamicModel: timm's interface, recording, forcing, and the tools that users put models through."""

import copy
import warnings
from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay

import dyt
from compilation import WHOLE
from dyt.dispatchers import sampling
from dyt.model.site import Site
from laws.models import CLASSES, TINY, masks, shaken, spec, tiny, tiny_backbone

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def run(model: Any, x: torch.Tensor = X) -> Any:
    with torch.no_grad():
        return model(x)


# Recording and forcing ---------------------------------------------------------------------------


def test_routes_are_recorded_in_forward_order_by_each_forward() -> None:
    model = tiny({"depth": 3})
    with dyt.record(model) as outer:
        run(model)
        with dyt.record(model) as inner:
            run(model)
    assert [route.site for route in outer] == [f"blocks.{i}.mlp" for i in range(3)] * 2
    assert [route.site for route in inner] == [site.name for site in model.sites]
    assert all(a is b for a, b in zip(outer[3:], inner, strict=True))
    run(model)
    assert len(outer) == 6
    assert outer[0].active.shape == (2, 17)
    assert outer[0].logits is not None
    assert outer[0].logits.shape == (2, 16)


@pytest.mark.parametrize("training", [True, False])
def test_forced_skips_dispatcher_and_noise(training: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny().train(training)
    given = masks(model, X, ["random"], 0)
    monkeypatch.setattr(sampling, "gumbel_difference", lambda like: pytest.fail("noise was drawn"))
    for site in model.sites:
        site.dispatcher.register_forward_pre_hook(lambda *_: pytest.fail("the dispatcher ran"))
    with dyt.forced(model, given), dyt.record(model) as routes:
        run(model)
        run(model)
    assert all(torch.equal(route.active, mask) for route, mask in zip(routes, given * 2, strict=True))
    assert all(route.gate is None and route.logits is None for route in routes)
    with dyt.execution(model, "complete"):
        run(model)


def test_wrong_masks_are_refused() -> None:
    model = tiny()
    good = masks(model, X, ["random"], 0)
    prefix_off = good[1].clone()
    prefix_off[1, 0] = False
    cases: list[tuple[Any, str]] = [
        (good[:1], "given 1, the model has 2 sites"),
        ([*good, good[0]], "given 3, the model has 2 sites"),
        ([], "given 0, the model has 2 sites"),
        ([good[0], good[1].float()], "blocks.1.mlp must be a bool tensor .* given torch.float32 of shape"),
        ([good[0], good[1][0]], r"must be a bool tensor .* of shape \(17,\)"),
        ([good[0], [True]], "given list"),
        ([good[0], prefix_off], "blocks.1.mlp is False at a prefix token; the first 1 must be True"),
    ]
    for wrong, words in cases:
        with pytest.raises(dyt.DyTError, match=words), dyt.forced(model, wrong):
            pass
    for wrong in ([m[:1] for m in good], [m[:, :16] for m in good], [m.repeat(1, 2) for m in good]):
        with dyt.forced(model, wrong), pytest.raises(dyt.DyTError, match=r"blocks.0.mlp has shape"):
            run(model)


def test_an_unknown_execution_is_refused_with_the_nearest() -> None:
    model = tiny()
    for given, near in (("spars", "sparse"), ("complet", "complete")):
        words = f"no execution '{given}'; did you mean '{near}'\\? allowed: capacity, complete, masked, sparse"
        with pytest.raises(dyt.DyTError, match=words), dyt.execution(model, given):
            pass


def test_complete_draws_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny().train()
    monkeypatch.setattr(sampling, "gumbel_difference", lambda like: pytest.fail("noise was drawn"))
    with dyt.execution(model, "complete"), dyt.record(model) as routes:
        run(model)
    assert all(route.dense and bool(route.active.all()) for route in routes)


def test_thresholds_decide() -> None:
    model = tiny()
    for threshold, active in ((1e6, 0), (-1e6, 16)):
        for site in model.sites:
            site.threshold.fill_(threshold)
        with dyt.record(model) as routes:
            run(model)
        assert {int(r.active[i, 1:].sum()) for r in routes for i in range(2)} == {active}


# timm's interface ---------------------------------------------------------------------------


def test_timm_s_methods_are_forwarded() -> None:
    model = tiny()
    with torch.no_grad():
        tokens = model.forward_features(X)
        assert tokens.shape == (2, 17, 32)
        assert torch.equal(model.forward_head(tokens), model(X))
        assert model.forward_head(tokens, pre_logits=True).shape == (2, 32)
        final, inner = model.forward_intermediates(X, indices=[0, 1])
        assert torch.equal(final, tokens)
        assert [part.shape for part in inner] == [(2, 32, 4, 4)] * 2
    assert (model.num_classes, model.num_features, model.num_prefix_tokens) == (CLASSES, 32, 1)
    assert model.get_classifier() is model.backbone.head
    assert timm.data.resolve_data_config(model=model)["mean"] == model.pretrained_cfg["mean"]
    assert model.no_weight_decay() == {f"backbone.{name}" for name in model.backbone.no_weight_decay()}
    assert {"backbone.cls_token", "backbone.pos_embed"} <= model.no_weight_decay() & set(dict(model.named_parameters()))


def test_reset_classifier_makes_a_new_head_that_learns() -> None:
    model = tiny()
    model.reset_classifier(9)
    assert run(model).shape == (2, 9)
    head = model.get_classifier()
    assert head.weight.requires_grad
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.3)
    assert not head.bias.any()
    assert model.spec.head.num_classes == model.num_classes == 9
    model.reset_classifier(0)
    assert run(model).shape == (2, 32)
    model.reset_classifier(3, "token")
    with pytest.raises(dyt.UnsupportedError, match="global_pool cannot change from 'token' to 'avg'"):
        model.reset_classifier(3, "avg")


def test_layer_decay_sees_our_parameters_at_their_block() -> None:
    model = tiny({"depth": 3})
    groups = param_groups_layer_decay(model.backbone, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    for i, site in enumerate(model.sites):
        assert {scale[id(p)] for p in site.parameters()} == {0.5 ** (3 - i)}
    assert {scale[id(p)] for p in model.get_classifier().parameters()} == {1.0}
    assert set(scale) == {id(p) for p in model.parameters() if p.requires_grad}


def test_the_input_size_may_change() -> None:
    model = tiny()
    model.backbone.set_input_size((48, 40))
    with dyt.record(model) as routes:
        assert run(model, torch.randn(1, 3, 48, 40)).shape == (1, CLASSES)
    assert routes[0].active.shape == (1, 31)


def test_blocks_may_be_pruned() -> None:
    model = tiny({"depth": 3})
    model.backbone.prune_intermediate_layers([0], prune_norm=True, prune_head=True)
    assert [site.name for site in model.sites] == ["blocks.0.mlp"]
    assert run(model).shape == (2, 17, 32)


def test_distilled_models_have_two_heads() -> None:
    backbone = {"name": "deit_tiny_distilled_patch16_224", "weights": "none", "args": TINY}
    model = shaken(dyt.build(spec(backbone=backbone)))
    assert {site.prefix for site in model.sites} == {2}
    assert all(head.weight.requires_grad for head in model.get_classifier())
    loss, _ = dyt.TuningStep(model.train())(X, torch.arange(2))
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_state_dict_goes_into_a_twin() -> None:
    model, twin = tiny(), tiny()
    assert not torch.equal(run(model), run(twin))
    twin.load_state_dict(copy.deepcopy(model.state_dict()))
    assert torch.equal(run(model), run(twin))


def test_the_repr_names_the_sites() -> None:
    assert "blocks.1.mlp" in repr(tiny())
    assert all(isinstance(site, Site) for site in tiny().sites)


# Tools ---------------------------------------------------------------------------


def test_fx_feature_extraction_by_timm() -> None:
    from timm.models._features_fx import create_feature_extractor

    model = tiny()
    _, inner = model.forward_intermediates(X, indices=[0, 1], output_fmt="NLC")
    extractor = create_feature_extractor(model.backbone, ["blocks.0", "blocks.1"])
    with dyt.record(model) as routes:
        found = run(extractor)
    assert [torch.equal(part[:, 1:], own) for part, own in zip(found.values(), inner, strict=True)] == [True, True]
    assert len(routes) == 2


def test_fx_feature_extraction_by_torchvision() -> None:
    from torchvision.models.feature_extraction import create_feature_extractor

    model = tiny()
    leaves = {"leaf_modules": [type(model.backbone.blocks[0])]}  # torchvision does not know timm's list of them
    extractor = create_feature_extractor(model.backbone, ["blocks.1", "head"], tracer_kwargs=leaves)
    assert torch.equal(run(extractor)["head"], run(model))


@pytest.fixture
def _dynamo() -> Any:
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)  # torch's own, of its tracer
        warnings.filterwarnings("ignore", ".*is not a leaf Tensor", UserWarning)
        yield
    torch._dynamo.reset()


@pytest.mark.usefixtures("_dynamo")
def test_compiled_models_follow_the_forward_context() -> None:
    model = tiny()
    compiled = torch.compile(model, fullgraph=WHOLE, backend="eager")
    for context in (dyt.execution(model, "masked"), dyt.execution(model, "complete"), dyt.execution(model, "sparse")):
        with context, dyt.record(model) as routes:
            expected = run(model)
            torch.testing.assert_close(run(compiled), expected)
        assert len(routes) == 2 * len(model.sites)
    for kind in ("none", "random"):
        with dyt.forced(model, masks(model, X, [kind], 0)):
            torch.testing.assert_close(run(compiled), run(model))
    torch.testing.assert_close(run(compiled), run(model))


@pytest.mark.usefixtures("_dynamo")
def test_a_compiled_step_has_the_same_gradients() -> None:
    model = tiny(dispatcher={"type": "learned", "noise": 0.0}, adapter={"type": "bottleneck", "dim": 8, "dropout": 0.0})
    step, found = dyt.TuningStep(model.train()), []
    for run_step in (step, torch.compile(step, backend="aot_eager")):
        model.zero_grad()
        loss, _ = run_step(X, torch.arange(2))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in model.parameters() if p.requires_grad)])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.usefixtures("_dynamo")
@pytest.mark.parametrize("execution", ["masked", "sparse"])
def test_an_exported_model_routes_other_images(execution: str) -> None:
    model = tiny()
    other = torch.randn(2, 3, 32, 32) * 3
    with torch.no_grad(), dyt.execution(model, execution):
        program = torch.export.export(model, (X,)).module()
        for x in (X, other):
            torch.testing.assert_close(program(x), model(x))


def test_it_runs_in_inference_mode_and_functionally() -> None:
    model = tiny()
    with torch.inference_mode():
        assert torch.equal(model(X), run(model))
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    assert torch.equal(torch.func.functional_call(model, parameters, (X,)), model(X))


def test_no_image_at_all() -> None:
    model = tiny()
    assert run(model, X[:0]).shape == (0, CLASSES)


def test_meta_device_models_are_built() -> None:
    with torch.device("meta"):
        model = dyt.build(spec(backbone=tiny_backbone()))
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
