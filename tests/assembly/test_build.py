"""build and supports: what they accept, what they refuse, and that a refusal changes nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

import dyt
from dyt.assembly.support import support_matrix
from dyt.config.spec import parse
from dyt.testing.refusals import as_it_was
from dyt.variants import DynamicBlock
from laws.backbones import BACKBONES
from laws.models import CLASSES, TINY, Case, spec, tiny, tiny_backbone

CASE = Case(TINY, (32, 32), 2, 0)


def unchanged(backbone: nn.Module, attempt: Callable[[], Any], error: type[Exception], words: str) -> None:
    with as_it_was(backbone), pytest.raises(error, match=words) as caught:
        attempt()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            CASE.backbone,
            dyt.SpecError,
            "head.num_classes is 7 but the given backbone has 5; change the spec, or",
        ),
        (lambda: tiny().backbone, dyt.UnsupportedError, "already dynamic"),
        (tiny, dyt.UnsupportedError, "already dynamic"),
        (lambda: nn.Linear(2, 2), dyt.UnsupportedError, "no family knows the blocks of Linear"),
        (lambda: timm.create_model("resnet18", num_classes=7), dyt.UnsupportedError, "no family knows .* ResNet"),
    ],
)
def test_a_backbone_that_does_not_fit_is_refused_unchanged(make: Any, error: type[Exception], words: str) -> None:
    backbone = make()
    unchanged(backbone, lambda: dyt.build(spec(head={"num_classes": 7}), backbone=backbone), error, words)


def test_a_wrong_spec_leaves_the_backbone() -> None:
    backbone = CASE.backbone()
    unchanged(
        backbone, lambda: dyt.build(spec(adapter="nnoe"), backbone=backbone), dyt.SpecError, "did you mean 'none'"
    )


def test_a_given_backbone_is_wrapped_in_place_and_keeps_its_head() -> None:
    backbone = CASE.backbone()
    head = backbone.head.weight.detach().clone()
    model = dyt.build(spec(), backbone=backbone)
    assert model.backbone is backbone
    assert torch.equal(backbone.head.weight, head)


def test_a_new_head_starts_as_the_paper_s() -> None:
    model = dyt.build(spec(backbone=tiny_backbone(embed_dim=512, depth=1)))
    head = model.get_classifier()
    assert head.weight.std().item() == pytest.approx(0.01, rel=0.1)
    assert not head.bias.any()
    assert not model.training


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_sites_have_the_backbone_s_dtype(dtype: torch.dtype) -> None:
    model = dyt.build(spec(), backbone=CASE.backbone().to(dtype))
    assert {p.dtype for p in model.parameters()} == {dtype}
    with torch.no_grad():
        assert model(CASE.images().to(dtype)).dtype == dtype


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("dty", "'dty' is neither a .yaml, .yml or .json file nor a preset; did you mean 'dyt'"),
        ("absent.yaml", "absent.yaml: No such file"),
        (Path("spec.toml"), "'spec.toml' is neither"),
        (3, "given int"),
        (None, "given NoneType"),
    ],
)
def test_what_is_no_spec_is_refused(given: Any, words: str) -> None:
    with pytest.raises(dyt.SpecError, match=words):
        dyt.build(given)


def test_a_spec_survives_as_it_was_given() -> None:
    given = dyt.DyTSpec.model_validate(spec(backbone=tiny_backbone()))
    assert dyt.build(given).spec is given


def test_supports() -> None:
    support = dyt.supports("vit_tiny_patch16_224", depth=2)
    assert (support.name, support.family) == ("vit_tiny_patch16_224", "vit")
    assert bool(support)
    assert "mlp" in support
    assert set(support.variants) | set(support.refused) == set(dyt.list("variants"))
    with pytest.raises(dyt.SpecError, match="no model 'vit_tny_patch16_224'; did you mean 'vit_tiny_patch16_224'"):
        dyt.supports("vit_tny_patch16_224")
    with pytest.raises(dyt.SpecError, match=r"timm refused {'depht': 2}"):
        dyt.supports("vit_tiny_patch16_224", depht=2)


def test_supports_draws_nothing_and_takes_no_memory() -> None:
    state = torch.get_rng_state()
    assert dyt.supports("vit_large_patch14_dinov2")
    assert torch.equal(state, torch.get_rng_state())


def test_the_same_seed_builds_the_same_model() -> None:
    models = []
    for _ in range(2):
        torch.manual_seed(7)
        models.append(dyt.build(spec(backbone=tiny_backbone())))
    states = [model.state_dict() for model in models]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert models[0].num_classes == CLASSES


@pytest.mark.parametrize(("layers", "dynamic"), [(None, [0, 1, 2, 3]), ([1, 3], [1, 3]), ([-1, 0], [0, 3]), ([2], [2])])
def test_only_the_named_layers_are_dynamic(layers: list[int] | None, dynamic: list[int]) -> None:
    model = dyt.build(spec(backbone=tiny_backbone(depth=4), variant={"type": "attn_mlp", "layers": layers}))
    assert [site.name for site in model.sites] == [f"blocks.{i}.{b}" for i in dynamic for b in ("attn", "mlp")]
    assert [site.index for site in model.sites] == list(range(2 * len(dynamic)))
    kinds = [isinstance(block, DynamicBlock) for block in model.backbone.blocks]
    assert kinds == [i in dynamic for i in range(4)]
    assert all(
        p.requires_grad == (".sites." in n or n.startswith("head")) for n, p in model.backbone.named_parameters()
    )


def test_depth_is_counted_over_the_dynamic_layers() -> None:
    dispatcher = {"type": "learned", "bias": {"start": 4.0, "end": 0.0}}
    model = dyt.build(
        spec(backbone=tiny_backbone(depth=5), variant={"type": "mlp", "layers": [1, 2, 4]}) | {"dispatcher": dispatcher}
    )
    assert [site.dispatcher.router.bias.item() for site in model.sites] == [4.0, 2.0, 0.0]


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([0, 2], r"variant\.layers: no block 2; the backbone has blocks 0 to 1, or -2 to -1 counted from the end"),
        ([-3], r"variant\.layers: no block -3; "),
        ([1, -1], r"variant\.layers: \[1, -1\] names a block twice"),
    ],
)
def test_layers_that_are_not_there_are_refused_unchanged(layers: list[int], words: str) -> None:
    backbone = CASE.backbone()
    chosen = spec(variant={"type": "mlp", "layers": layers})
    unchanged(backbone, lambda: dyt.build(chosen, backbone=backbone), dyt.SpecError, words)


def test_rates_per_layer_are_those_of_the_dynamic_blocks() -> None:
    variant = {"type": "attn_mlp", "layers": [0, 2]}
    chosen = spec(backbone=tiny_backbone(depth=3), variant=variant, dispatcher="topk")
    model = dyt.build(chosen | {"objective": {"layer_rates": [0.25, 0.75]}})
    assert [site.dispatcher.rate for site in model.sites] == [0.25, 0.25, 0.75, 0.75]


@pytest.mark.parametrize(("layers", "blocks"), [(None, 2), ([1], 1)])
def test_another_number_of_rates_than_dynamic_blocks_is_refused_unchanged(layers: Any, blocks: int) -> None:
    backbone = CASE.backbone()
    chosen = spec(variant={"type": "attn_mlp", "layers": layers}, objective={"layer_rates": [0.5, 0.5, 0.5]})
    words = f"layer_rates: 3 rates given for {blocks} dynamic blocks; give one each"
    unchanged(backbone, lambda: dyt.build(chosen, backbone=backbone), dyt.SpecError, words)


def test_the_matrix_of_all_families_is_what_the_laws_are_run_on() -> None:
    """Each cell that says yes has its rows in `laws.backbones`, whose combinations are put through the laws."""
    expected = {(row.family, variant) for row in BACKBONES.values() for variant in row.variants}
    rows = support_matrix()
    assert {row.family for row in rows} == set(dyt.list("families"))
    assert {(row.family, variant) for row in rows for variant in row.variants} == expected
    assert all(set(row.variants) | set(row.refused) == set(dyt.list("variants")) for row in rows)


@pytest.mark.parametrize("given", [{}, {"head": "classifier"}, {"head": {"type": "classifier"}}, "dyt", dyt.DyTSpec()])
@pytest.mark.parametrize("classes", [0, 4])
def test_classes_that_are_not_said_are_the_given_backbone_s(given: Any, classes: int) -> None:
    backbone = timm.create_model("vit_tiny_patch16_224", **{**TINY, "num_classes": classes})
    model = dyt.build(given, backbone=backbone)
    assert model.num_classes == classes
    assert model.spec.head.num_classes == classes
    assert parse(dyt.DyTSpec, model.spec.model_dump()) == model.spec


def test_the_number_of_classes_of_another_head_is_its_own() -> None:
    backbone = timm.create_model("vit_tiny_patch16_224", **{**TINY, "num_classes": 0})
    assert dyt.build({"head": "query"}, backbone=backbone).num_classes == dyt.DyTSpec().head.num_classes
