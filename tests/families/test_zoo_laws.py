"""The laws on the real classes of the hierarchical families and of transformers, in tiny configurations."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyt
from dyt.core.interop import bridged
from dyt.io.checkpoint import plain_state
from dyt.measure import patch_maps, random_masks, routes_of, site_rates, token_counts
from dyt.model.parts import head_keys
from dyt.testing.laws import equals_masked, executed
from dyt.train import calibrate_thresholds
from families.tiny import Tiny, labels
from families.zoo_hf import HUGGINGFACE
from families.zoo_hierarchical import HIERARCHICAL
from laws.models import CLASSES, masks, shaken, spec
from laws.strategies import names

ZOO = HIERARCHICAL | HUGGINGFACE
SMALL = {"type": "bottleneck", "dim": 8, "dropout": 0.0}
each = pytest.mark.parametrize("name", ZOO)
offered = pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name, tiny in ZOO.items() for variant in tiny.variants]
)


def build(backbone: nn.Module, variant: str = "mlp", **changes: Any) -> dyt.DynamicModel:
    return dyt.build(spec(variant={"type": variant}, **({"adapter": SMALL} | changes)), backbone=backbone)


def plain_of(model: dyt.DynamicModel, tiny: Tiny) -> nn.Module:
    """The plain model with the dynamic model's own head, which a model without a classifier gets at random."""
    plain, _ = bridged(tiny.backbone(), CLASSES)
    plain.get_classifier().load_state_dict(model.get_classifier().state_dict())
    return plain


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=2e-5, rtol=2e-5)


class Gathered(nn.Module):
    """A child of a plain block that is run for each image's active tokens alone; elsewhere 0, or x for a whole layer.

    transformers' attention returns its output with the weights, or None; `pair` says so.
    """

    def __init__(self, inner: nn.Module, mask: Tensor, keep: bool = False, pair: bool = False) -> None:
        super().__init__()
        self.inner, self.mask, self.keep, self.pair = inner, mask, keep, pair

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        out = hidden_states.clone() if self.keep else torch.zeros_like(hidden_states)
        for i, on in enumerate(self.mask):
            if on.any():
                found = self.inner(hidden_states[i : i + 1, on], *args, **kwargs)
                out[i, on] = (found[0] if self.pair else found)[0]
        return (out, None) if self.pair else out


def gathered(plain: nn.Module, model: dyt.DynamicModel, tiny: Tiny, given: list[Tensor]) -> nn.Module:
    """The plain model run on active tokens alone, written without the library's executors and families."""
    for site, mask in zip(model.sites, given, strict=True):
        path, _, branch = site.name.rpartition(".")
        block = plain.get_submodule(path)
        if branch == "layer":
            parent, _, child = path.rpartition(".")
            plain.get_submodule(parent).register_module(child, Gathered(block, mask, keep=True))
        else:
            child = getattr(tiny, branch)
            block.register_module(child, Gathered(block.get_submodule(child), mask, pair=branch == "attn"))
    return plain


@each
def test_the_family_is_found(name: str) -> None:
    tiny = ZOO[name]
    for variant in dyt.list("variants"):
        backbone = tiny.backbone()
        if variant in tiny.variants:
            assert {site.prefix for site in build(backbone, variant).sites} == {tiny.prefix}
            continue
        before = [id(module) for module in backbone.modules()]
        with pytest.raises(dyt.UnsupportedError, match="use the mlp variant"):
            build(backbone, variant)
        assert [id(module) for module in backbone.modules()] == before
        assert all(parameter.requires_grad for parameter in backbone.parameters())


@offered
def test_law_1_everything_active_is_the_plain_model(name: str, variant: str) -> None:
    tiny = ZOO[name]
    model, x = build(tiny.backbone(), variant), tiny.images()
    with torch.no_grad():
        expected = plain_of(model, tiny)(x)
        assert expected.shape == (len(x), CLASSES)
        with dyt.execution(model, "complete"), dyt.record(model) as routes:
            close(model(x), expected)
        assert [route.site for route in routes] == [site.name for site in model.sites]
        for executor in names("executors"):
            with dyt.forced(model, masks(model, x, ["all"], 0)), dyt.execution(model, executor):
                close(model(x), expected)


@offered
def test_law_1_in_train_mode_it_draws_what_the_plain_model_draws(name: str, variant: str) -> None:
    tiny = ZOO[name]
    model, x = build(tiny.backbone(noise=0.3).train(), variant), tiny.images()
    plain, _ = bridged(tiny.backbone(noise=0.3).train(), CLASSES)
    plain.get_classifier().load_state_dict(model.get_classifier().state_dict())
    torch.manual_seed(5)
    expected = plain(x)
    torch.manual_seed(5)
    with dyt.execution(model, "complete"):
        close(model(x), expected)
    if (tiny.family, variant) == ("hf_clip", "mlp"):
        return  # whose MLP draws nothing
    with pytest.raises(dyt.UnsupportedError, match="drop path or dropout"), dyt.execution(model, "sparse"):
        model(x)


@offered
def test_law_2_active_tokens_alone(name: str, variant: str) -> None:
    tiny = ZOO[name]
    model, x = build(tiny.backbone(), variant), tiny.images()
    for kinds in (["random"], ["none"], ["ragged", "one"], ["none", "all", "ragged"]):
        given = masks(model, x, kinds, 3)
        with torch.no_grad(), dyt.forced(model, given):
            expected = gathered(plain_of(model, tiny), model, tiny, given)(x)
            for executor in names("executors"):
                with dyt.execution(model, executor):
                    close(model(x), expected)


@offered
def test_law_2_executors_agree_with_adapters_that_do_something(name: str, variant: str) -> None:
    tiny = ZOO[name]
    model, x = shaken(build(tiny.backbone(), variant)), tiny.images()
    for kinds in (["random"], ["none"], ["ragged", "none"]):
        equals_masked(model, x, masks(model, x, kinds, 4), names("executors"), close)


@offered
@pytest.mark.parametrize("checkpointing", [False, True])
def test_law_3_the_frozen_stay_and_the_rest_learns(name: str, variant: str, checkpointing: bool) -> None:
    tiny = ZOO[name]
    backbone = tiny.backbone(noise=0.2)
    model = shaken(build(backbone, variant, objective={"rate": 0.37}))
    model.set_grad_checkpointing(checkpointing)
    head = {f"backbone.{key}" for key in head_keys(model.backbone)}
    learning = {key for key, p in model.named_parameters() if p.requires_grad}
    assert learning == {key for key, _ in model.named_parameters() if ".sites." in key} | head
    before = {key: value.detach().clone() for key, value in model.state_dict().items()}
    loss, _ = dyt.TuningStep(model).train()(tiny.images(), labels())
    loss.backward()
    assert all(p.grad is None for key, p in model.named_parameters() if key not in learning)
    zero = {key for key, p in model.named_parameters() if key in learning and not p.grad.any()}
    assert zero <= {key for key in learning if key.endswith("k_proj.bias")}
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5).step()
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == learning


@each
def test_gradient_checkpointing_changes_no_number(name: str) -> None:
    tiny, found = ZOO[name], []
    model = shaken(build(tiny.backbone(noise=0.2), tiny.variants[0]))
    for checkpointing in (False, True):
        model.set_grad_checkpointing(checkpointing)
        model.zero_grad()
        torch.manual_seed(3)
        loss, _ = dyt.TuningStep(model).train()(tiny.images(), labels())
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.requires_grad)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@each
def test_a_backbone_that_recomputes_its_blocks_leaves_that_to_ours(name: str) -> None:
    tiny = ZOO[name]
    shell, _ = bridged(tiny.backbone(), CLASSES)
    shell.set_grad_checkpointing(True)
    model = build(shell)
    flags = [getattr(m, "grad_checkpointing", False) for m in model.backbone.modules() if not hasattr(m, "sites")]
    assert not any(flags)
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.backbone.modules())
    assert all(block.grad_checkpointing for block in model.backbone.modules() if hasattr(block, "sites"))


@offered
def test_count_macs_is_what_a_flop_counter_sees_and_falls_with_the_tokens(name: str, variant: str) -> None:
    """Image by image where attention is dispatched: a batch of rows of different lengths is padded."""
    tiny = ZOO[name]
    model, x = build(tiny.backbone(), variant), tiny.images()
    parts = [slice(0, len(x))] if variant == "mlp" else [slice(i, i + 1) for i in range(len(x))]
    counted = []
    for kind in ("none", "random", "all"):
        given = masks(model, x, [kind], 2)
        seen = 0
        for part in parts:
            seen += executed(model, x[part], masks=[m[part] for m in given])
        with dyt.forced(model, given):
            counted.append(dyt.count_macs(model, x))
        assert abs(int(counted[-1].sum()) - seen) <= len(x)
    assert bool((counted[0] < counted[1]).all())
    assert bool((counted[1] < counted[2]).all())


@offered
def test_a_file_loads_into_an_equal_model(name: str, variant: str, tmp_path: Path) -> None:
    tiny = ZOO[name]
    model, x = shaken(build(tiny.backbone(), variant)), tiny.images()
    dyt.save(model, tmp_path / "a.safetensors")
    again = dyt.load(tmp_path / "a.safetensors", backbone=tiny.backbone())
    ours, theirs = model.state_dict(), again.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(theirs[key], value) for key, value in ours.items())
    with torch.no_grad():
        assert torch.equal(model(x), again(x))
    with pytest.raises(dyt.CheckpointError, match="another backbone"):
        dyt.load(tmp_path / "a.safetensors", backbone=tiny.backbone(seed=1))
    assert set(plain_state(again.backbone)) == set(bridged(tiny.backbone(), CLASSES)[0].state_dict())


@each
def test_a_fully_trained_model_is_stored_whole(name: str, tmp_path: Path) -> None:
    tiny = ZOO[name]
    model, x = shaken(build(tiny.backbone(), trainable="full")), tiny.images()
    loss, _ = dyt.TuningStep(model)(x, labels())
    loss.backward()
    dyt.save(model, tmp_path / "full.safetensors")
    again = dyt.load(tmp_path / "full.safetensors", backbone=tiny.backbone(seed=7))
    with torch.no_grad():
        assert torch.equal(model(x), again(x))


@each
def test_the_interface_of_timm(name: str) -> None:
    tiny = ZOO[name]
    model, x = build(tiny.backbone()), tiny.images()
    plain = plain_of(model, tiny)
    with torch.no_grad(), dyt.execution(model, "complete"):
        tokens = model.forward_features(x)
        close(tokens, plain.forward_features(x))
        close(model.forward_head(tokens), plain(x))
        pooled = model.forward_head(tokens, pre_logits=True)
        close(pooled, plain.forward_head(tokens, pre_logits=True))
        final, maps = model.forward_intermediates(x)
        expected, wanted = plain.forward_intermediates(x)
        close(final, expected)
        for ours, theirs in zip(maps, wanted, strict=True):
            close(ours, theirs)
            assert ours.ndim == 4
        (last,) = model.forward_intermediates(x, indices=[-1], intermediates_only=True)
        close(last, maps[-1])
    assert (model.num_classes, model.num_prefix_tokens) == (CLASSES, tiny.prefix)
    assert len(model.pretrained_cfg["mean"]) == 3
    assert model.num_features == plain.num_features
    assert isinstance(model.get_classifier(), nn.Module)
    model.reset_classifier(7)
    assert model(x).shape == (len(x), 7)
    assert model.num_classes == model.spec.head.num_classes == 7
    assert all(p.requires_grad for p in model.get_classifier().parameters())


@each
def test_sites_of_any_number_of_tokens_are_measured_and_calibrated(name: str) -> None:
    tiny = ZOO[name]
    model, x = shaken(build(tiny.backbone()), 0.3), tiny.images(4)
    counts = token_counts(model, x[:1])
    with dyt.forced(model, random_masks(counts, 4, 0.25)):
        rates = site_rates(model, [x])
        drawn = patch_maps(routes_of(model, x), tiny.size)
    assert list(rates) == [site.name for site in model.sites]
    smallest = min(4 * (count - prefix) for count, prefix in counts)
    assert all(abs(rate - 0.25) <= 0.5 / smallest for rate in rates.values())
    assert drawn.shape[:2] == (4, len(model.sites))
    assert drawn[0, 0].numel() == max(count - prefix for count, prefix in counts)
    reached = calibrate_thresholds(model, [x], 0.5, tolerance=0.02)
    assert abs(reached - 0.5) < 0.1


@each
def test_an_image_s_logits_do_not_depend_on_its_batch(name: str) -> None:
    tiny = ZOO[name]
    for variant in tiny.variants:
        model, x = shaken(build(tiny.backbone(), variant), 0.3), tiny.images()
        with torch.no_grad():
            together = model(x)
            close(torch.cat([model(x[i : i + 1]) for i in range(len(x))]), together)


@each
def test_a_copy_is_independent(name: str) -> None:
    tiny = ZOO[name]
    model, x = shaken(build(tiny.backbone())), tiny.images()
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(x)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(model(x), expected)
        assert not torch.equal(twin(x), expected)
