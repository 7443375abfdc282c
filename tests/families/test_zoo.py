"""Every family of `zoo.py` through the laws, against plain blocks of its own library."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyt
from dyt.families import find
from dyt.registry import families
from dyt.testing.laws import equals_masked, executed
from families.reading import maps, rows
from families.zoo import BATCH, CLASSES, VARIANTS, ZOO, Animal, needs_timm
from laws.models import shaken

# The square's slope is zero only where the rate is the asked one, which no number of tokens here makes 0.3717.
OBJECTIVE = {"rate": 0.3717}
each = pytest.mark.parametrize("name", list(ZOO))
each_variant = pytest.mark.parametrize(
    ("name", "variant"), [(name, variant) for name, animal in ZOO.items() for variant in animal.variants]
)


def spec(variant: str, **changes: Any) -> dict[str, Any]:
    chosen = {"head": {"num_classes": CLASSES}, "variant": {"type": variant}, "adapter": {"type": "none"}}
    return chosen | changes


def valid(model: dyt.DynamicModel, x: Any) -> Tensor:
    """(B, N) bool: what may be active."""
    with torch.no_grad(), dyt.execution(model, "complete"), dyt.record(model) as routes:
        model(x)
    return routes[0].active


def some(model: dyt.DynamicModel, x: Any, kind: str) -> list[Tensor]:
    """One mask per site: `none` or `all` of the patches, or a `ragged` part, other for each image and site."""
    real, generator = valid(model, x), torch.Generator().manual_seed(5)
    masks = []
    for site in model.sites:
        chance = torch.rand(real.shape, generator=generator)
        density = torch.tensor([0.3, 0.6, 0.9])[:BATCH, None]
        mask = {"none": chance < 0, "all": chance >= 0, "ragged": chance < density}[kind] & real
        mask[:, : site.prefix] = True
        masks.append(mask)
    return masks


def close(actual: Tensor, expected: Tensor, atol: float = 1e-4) -> None:
    torch.testing.assert_close(actual, expected, atol=atol * max(1.0, float(expected.abs().max())), rtol=1e-4)


class Reference(nn.Module):
    """A plain block whose branches run on the active tokens of each image alone, written without the library."""

    def __init__(self, animal: Animal, block: nn.Module, variant: str, masks: dict[str, Tensor]) -> None:
        super().__init__()
        self.animal, self.plain, self.variant, self.masks = animal, block, variant, masks

    def branch(self, x: Tensor, without: str, active: Tensor | None, kwargs: dict[str, Any]) -> Tensor:
        """What the block, without one of its branches, adds to x; for the active tokens of each image alone."""
        if active is None:
            return self.animal.part(self.plain, without)(x, **kwargs) - x
        out = torch.zeros_like(x)
        for image, on in enumerate(active):
            index = on.nonzero().squeeze(1)
            if len(index):
                part = self.animal.part(self.plain, without)
                mine = self.animal.alone(part, index, image, kwargs)
                out[image, on] = (part(x[image : image + 1, on], **mine) - x[image : image + 1, on])[0]
        return out

    def forward(self, x: Tensor, **kwargs: Any) -> Tensor:
        if self.variant == "layer":
            return x + self.branch(x, "", self.masks["layer"], kwargs)
        after = x + self.branch(x, "mlp", self.masks.get("attn"), kwargs)
        read = x if self.animal.parallel else after
        mlp = self.branch(read, "attn", None, kwargs)
        return after + (mlp if "mlp" not in self.masks else mlp * self.masks["mlp"][..., None])


def reference(animal: Animal, variant: str, model: dyt.DynamicModel, masks: list[Tensor]) -> nn.Module:
    """The plain backbone with reference blocks for these masks."""
    backbone, wanted = animal.backbone(), dict(zip((site.name for site in model.sites), masks, strict=True))
    for path in families.get(animal.family)().blocks(backbone):
        mine = {name.rpartition(".")[2]: m for name, m in wanted.items() if name.rpartition(".")[0] == path}
        parent, _, name = path.rpartition(".")
        block = Reference(animal, backbone.get_submodule(path), variant, mine)
        backbone.get_submodule(parent).register_module(name, block)
    return backbone


@each
def test_family_prefix_and_variants(name: str) -> None:
    animal = ZOO[name]
    backbone = animal.backbone()
    found = find(backbone)
    assert found is not None
    assert found[0] == animal.family
    assert set(animal.variants) | set(animal.refused) == set(VARIANTS)
    for variant in animal.variants:
        model = dyt.build(spec(variant), backbone=animal.backbone())
        assert {site.prefix for site in model.sites} == {animal.prefix}
    for variant, word in animal.refused.items():
        before = {id(module): module.training for module in backbone.modules()}
        with pytest.raises(dyt.UnsupportedError, match=word):
            dyt.build(spec(variant), backbone=backbone)
        assert {id(module): module.training for module in backbone.modules()} == before
        assert all(parameter.requires_grad for parameter in backbone.parameters())


@each_variant
def test_everything_active_is_the_plain_backbone(name: str, variant: str) -> None:
    animal = ZOO[name]
    backbone = animal.backbone()
    x = animal.images(backbone)
    with torch.no_grad():
        expected = copy.deepcopy(backbone)(x)
        model = dyt.build(spec(variant, adapter={"type": "bottleneck"}), backbone=backbone)
        with dyt.execution(model, "complete"):
            close(model(x), expected)
        for executor in ("masked", "sparse"):
            with dyt.forced(model, some(model, x, "all")), dyt.execution(model, executor):
                close(model(x), expected)


@each_variant
def test_branches_see_the_active_tokens_alone(name: str, variant: str) -> None:
    """In both executors, zero active patches included, image by image against the plain blocks."""
    animal = ZOO[name]
    model = dyt.build(spec(variant), backbone=animal.backbone())
    x = animal.images(model.backbone)
    for kind in ("ragged", "none"):
        masks = some(model, x, kind)
        with torch.no_grad():
            expected = reference(animal, variant, model, masks)(x)
            for executor in ("masked", "sparse"):
                with dyt.forced(model, masks), dyt.execution(model, executor):
                    close(model(x), expected)


@each
def test_masks_matter(name: str) -> None:
    """Or the tests above would say nothing: without most patches the answer is another one."""
    animal = ZOO[name]
    for variant in animal.variants:
        model = dyt.build(spec(variant), backbone=animal.backbone())
        x = animal.images(model.backbone)
        out = []
        for kind in ("none", "all"):
            with torch.no_grad(), dyt.forced(model, some(model, x, kind)):
                out.append(model(x))
        assert (out[0] - out[1]).abs().max() > 1e-2


@each
def test_features_are_the_plain_backbone_s(name: str) -> None:
    animal = ZOO[name]
    backbone = animal.backbone()
    x = animal.images(backbone)
    if isinstance(x, dict):
        needs_timm("1.0.28", "forward_intermediates on patches")
    plain, variant = copy.deepcopy(backbone), animal.variants[0]
    model = dyt.build(spec(variant), backbone=backbone)
    real = valid(model, x)[:, animal.prefix :]
    fmt = "NLC" if isinstance(x, dict) else "NCHW"
    with torch.no_grad(), dyt.execution(model, "complete"):
        if not isinstance(x, dict):
            close(model.forward_features(x), plain.forward_features(x))
        last, between = model.forward_intermediates(x, output_fmt=fmt)
        wanted, expected = plain.forward_intermediates(x, output_fmt=fmt)
        assert len(between) == len(expected) > 0
        for mine, theirs in zip(
            [last[:, -real.shape[1] :], *between], [wanted[:, -real.shape[1] :], *expected], strict=True
        ):
            mine, theirs = (t if t.ndim == 3 else t.flatten(2).mT for t in (mine, theirs))
            close(mine[real], theirs[real])


@each_variant
def test_training_reaches_what_is_to_be_trained(name: str, variant: str) -> None:
    """Law 3; and recomputation in the backward pass changes no gradient."""
    animal, found = ZOO[name], {}
    for checkpointing in (False, True):
        chosen = {"adapter": {"type": "bottleneck", "dim": 4, "dropout": 0.0}, "objective": OBJECTIVE}
        model = dyt.build(spec(variant, **chosen), backbone=animal.backbone())
        torch.manual_seed(2)
        model = shaken(model).train()
        model.set_grad_checkpointing(checkpointing)
        torch.manual_seed(3)
        loss, _ = dyt.TuningStep(model)(animal.images(model.backbone), torch.arange(BATCH) % CLASSES)
        loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters()}
        learning = {n for n, p in model.named_parameters() if p.requires_grad}
        assert all(g is None for n, g in gradients.items() if n not in learning)
        assert all(gradients[n] is not None and bool(gradients[n].any()) for n in learning)
        assert any(".sites." in n for n in learning)
        found[checkpointing] = loss, {n: gradients[n] for n in learning}
    torch.testing.assert_close(found[True], found[False], atol=1e-5, rtol=1e-4)


@each
def test_class_attention(name: str) -> None:
    """It is what the library's own attention computes, read from inside it, or refused with the reason."""
    animal = ZOO[name]
    backbone = animal.backbone()
    family = families.get(animal.family)()
    reason = family.attention_refusal(backbone)
    if animal.attention is not None:
        assert reason is not None
        assert animal.attention in reason
        return
    assert reason is None
    x = animal.images(backbone)
    model = dyt.build(spec("mlp"), backbone=animal.backbone())
    expected, answers = maps(backbone, x), rows(model, x)
    ways = len(expected) // len(answers)
    real = valid(model, x)[:, animal.prefix :]
    for i, answer in enumerate(answers):
        whole = torch.cat(expected[i * ways : (i + 1) * ways], 1)
        assert answer.dtype == torch.float32
        assert answer.shape == real.shape
        torch.testing.assert_close(answer[real], whole.mean(1)[:, 0, animal.prefix :][real], atol=1e-5, rtol=1e-4)
        assert answer.std() > 1e-4  # an attention that is the same everywhere would prove nothing


LOW: dict[str, Callable[[dyt.DynamicModel], Any]] = {
    "autocast": lambda model: torch.autocast("cpu", torch.bfloat16),
    "bfloat16": lambda model: model.bfloat16() and torch.no_grad(),
}


@pytest.mark.filterwarnings("ignore:Mismatch dtype between input and weight")  # of timm's RmsNorm under autocast
@each
@pytest.mark.parametrize("precision", list(LOW))
def test_low_precision(name: str, precision: str) -> None:
    """Masks, biases and rotary embeddings fit the dtype that the tokens have; sparse is masked up to rounding."""
    animal = ZOO[name]
    variant = "layer" if "layer" in animal.variants else animal.variants[0]
    model = dyt.build(spec(variant), backbone=animal.backbone())
    x = animal.images(model.backbone)
    masks = some(model, x, "ragged")
    with LOW[precision](model):
        if precision == "bfloat16":
            x = (
                {k: t.bfloat16() if t.is_floating_point() else t for k, t in x.items()}
                if isinstance(x, dict)
                else x.bfloat16()
            )
        out = equals_masked(model, x, masks, ["sparse"], lambda ours, theirs: close(ours.float(), theirs.float(), 0.1))
    assert bool(out.isfinite().all())


@each
def test_padding_tokens_are_never_active(name: str) -> None:
    animal = ZOO[name]
    model = dyt.build(spec(animal.variants[0]), backbone=animal.backbone())
    x = animal.images(model.backbone)
    with torch.no_grad(), dyt.record(model) as routes, dyt.execution(model, "masked"):
        model(x)
    for route in routes:
        if not isinstance(x, dict):
            assert route.padding is None
            continue
        assert torch.equal(route.padding[:, animal.prefix :], ~x["patch_valid"])
        assert not bool((route.active & route.padding).any())
        assert bool(route.active[:, : animal.prefix].all())


STOCHASTIC = {"drop_path_rate": 0.3, "proj_drop_rate": 0.2, "attn_drop_rate": 0.2}


@each
@pytest.mark.parametrize("variant", ["attn_mlp", "layer"])
def test_complete_in_train_mode_draws_what_the_plain_backbone_draws(name: str, variant: str) -> None:
    """Or it is refused: where attention and MLP are dropped together, they cannot be dispatched apart."""
    animal = ZOO[name]
    backbone = animal.backbone(**STOCHASTIC).train()
    x, plain = animal.images(backbone), copy.deepcopy(backbone)
    if animal.parallel and variant != "layer":
        with pytest.raises(dyt.UnsupportedError, match=r"drops attention and MLP together.*rate 0"):
            dyt.build(spec(variant), backbone=backbone)
        return
    model = dyt.build(spec(variant), backbone=backbone)
    torch.manual_seed(7)
    expected = plain(x).detach()
    torch.manual_seed(7)
    with dyt.execution(model, "complete"):
        close(model(x).detach(), expected)


@each
def test_costs_are_what_a_flop_counter_sees(name: str) -> None:
    """In the MLP variant as a whole; in `layer` image by image, so that none pays for the length of another.

    What is computed once for a batch (a shared relative-position bias) is shared out, and dearer for one image alone.
    """
    animal = ZOO[name]
    for variant in {"mlp", "layer"} & set(animal.variants):
        model = dyt.build(spec(variant), backbone=animal.backbone())
        x = animal.images(model.backbone)
        masks = some(model, x, "ragged")
        with dyt.forced(model, masks):
            counted = dyt.count_macs(model, x)
        if variant == "mlp":
            assert abs(int(counted.sum()) - executed(model, x, masks=masks)) <= BATCH
            continue
        once = set()
        for image in range(BATCH):
            mine = {k: t[image : image + 1] for k, t in x.items()} if isinstance(x, dict) else x[image : image + 1]
            once.add(executed(model, mine, masks=[mask[image : image + 1] for mask in masks]) - int(counted[image]))
        assert len(once) == 1
        assert once == {0} or name == "srelpos"
