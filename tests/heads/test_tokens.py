"""Head `tokens`: what it reads of encoders of every layout, its distance, and that it is taught without labels."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

import dyt
from dyt.config.spec import parse
from dyt.heads import Tokens, TokensSpec
from dyt.heads.tokens import distance
from dyt.objective.teacher import teacher_rows

VIT: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
X = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
QUIET = {"complete": 0.0, "distill": 0.0}


def vit(**args: Any) -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0, **VIT | args).eval()


def moved(model: dyt.DynamicModel) -> dyt.DynamicModel:
    """With adapters that do something, so that outputs are other than the untouched encoder's."""
    for site in model.sites:
        nn.init.normal_(site.adapter.up.weight, std=0.1)
    return model


def tuned(backbone: nn.Module | None = None, **objective: Any) -> dyt.DynamicModel:
    spec = {"head": {"type": "tokens"}, "adapter": {"type": "bottleneck", "dim": 4}, "objective": QUIET | objective}
    return moved(dyt.build(spec, backbone=vit() if backbone is None else backbone))


@pytest.mark.parametrize(
    ("args", "prefix", "of_image"),
    [
        ({}, 1, "class"),
        ({"class_token": False, "global_pool": "avg"}, 0, "mean"),
        ({"reg_tokens": 2}, 3, "class"),
        ({"reg_tokens": 2, "class_token": False, "global_pool": "avg"}, 2, "mean"),
    ],
)
def test_what_stands_for_an_image(args: dict[str, Any], prefix: int, of_image: str) -> None:
    backbone = vit(**args)
    head = Tokens(TokensSpec(), backbone)
    with torch.no_grad():
        tokens = backbone.forward_features(X)
    read = head.read(tokens)
    torch.testing.assert_close(read.patches, tokens[:, prefix:])
    torch.testing.assert_close(read.image, tokens[:, 0] if of_image == "class" else tokens[:, prefix:].mean(1))


@pytest.mark.parametrize("name", ["swin_tiny_patch4_window7_224", "samvit_base_patch16"])
def test_maps_are_read_place_by_place(name: str) -> None:
    class Maps(nn.Module):
        num_features, num_prefix_tokens = 8, 0

    maps = torch.randn(2, 3, 3, 8)
    given = maps if name.startswith("swin") else maps.permute(0, 3, 1, 2)
    torch.testing.assert_close(Tokens(TokensSpec(), Maps()).read(given).patches, maps.flatten(1, 2))


def test_the_distance_is_that_of_the_angle_between_tokens_of_equal_length() -> None:
    own, other = (nn.functional.normalize(torch.randn(5, 7, 16), dim=-1) for _ in range(2))
    cosine = nn.functional.cosine_similarity(own, other, -1)
    torch.testing.assert_close(distance(own, other), (2 - 2 * cosine).mean())
    torch.testing.assert_close(distance(3 * own, 3 * other), distance(own, other))
    assert distance(own, own) == 0
    assert distance(own, torch.zeros_like(own)).isfinite()


def test_outputs_are_the_encoders_tokens() -> None:
    backbone = vit()
    with torch.no_grad():
        expected = backbone.forward_features(X)
        model = tuned(backbone)
        assert model(X).shape == expected.shape
        with dyt.plain(model):
            torch.testing.assert_close(model(X), expected)


@pytest.mark.parametrize("features", [0.0, 1.0])
def test_a_step_is_taught_by_the_untouched_encoder(features: float) -> None:
    model = tuned(features=features, teacher="pretrained").train()
    step = dyt.TuningStep(model)
    torch.manual_seed(0)
    loss, parts = step(X)
    with torch.no_grad(), dyt.plain(model):
        targets = model(X)
    torch.manual_seed(0)
    torch.testing.assert_close(parts["cls"], model.head.loss(model(X), targets))
    assert (parts["features"] > 0) == (features > 0)
    loss.backward()
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    torch.manual_seed(0)
    kept, _ = step(X, teacher=teacher_rows(model, X, features > 0))
    torch.testing.assert_close(kept, loss)
    torch.manual_seed(0)
    plain, _ = dyt.TuningStep(model, economical=False)(X)
    torch.testing.assert_close(plain, loss)


def test_parts_of_a_step_have_the_mean_of_the_whole() -> None:
    objective = {"features": 1.0, "teacher": "pretrained"}
    spec = {"head": {"type": "tokens"}, "dispatcher": {"type": "learned", "noise": 0.0}, "objective": QUIET | objective}
    step = dyt.TuningStep(moved(dyt.build(spec, backbone=vit())).train())
    for site in step.model.sites:  # far from ties, which rounding would tip
        nn.init.normal_(site.dispatcher.router.weight)
    parts = [X[:2], X[2:]]
    with step.accumulating(parts):
        losses = [step(part)[0] for part in parts]
    torch.testing.assert_close(torch.stack(losses).mean(), step(X)[0])


def test_the_complete_pass_has_its_terms() -> None:
    parts = dyt.TuningStep(tuned(complete=1.0, distill=1.0).train())(X)[1]
    assert parts["complete"] > 0
    assert parts["distill"] >= 0


@pytest.mark.parametrize(
    "fields", [{"tuner": {"type": "bitfit"}}, {"trainable": "full"}, {"modules_to_save": ["norm"]}]
)
def test_refused_where_the_encoder_is_not_kept(fields: dict[str, Any]) -> None:
    with pytest.raises(dyt.SpecError, match=r"head 'tokens': it is held to the backbone before it was tuned"):
        dyt.build({"head": {"type": "tokens"}, **fields}, backbone=vit())


def test_refusals() -> None:
    with pytest.raises(dyt.SpecError, match="both 0"):
        parse(TokensSpec, {"class_weight": 0, "patch_weight": 0})
    head = Tokens(TokensSpec(), vit())
    with pytest.raises(dyt.DyTError, match=r"held to tokens \(4, 17, 32\)"):
        head.loss(torch.zeros(4, 17, 32), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(dyt.UnsupportedError, match="reducer"):
        dyt.build({"head": {"type": "tokens"}, "reducer": {"type": "tome", "r": 1}}, backbone=vit())
