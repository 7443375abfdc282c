"""What a classifier's outputs are trained as: one class, several labels, or numbers; and what no loss takes."""

import copy
from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F

import dyt
from dyt.errors import DyTError, SpecError
from dyt.heads import ClassifierSpec
from dyt.heads.terms import binary, binary_distillation, classification, squares

ARGS: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
IMAGES = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def step(loss: str, classes: int, **objective: Any) -> dyt.TuningStep:
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=classes, **ARGS)
    head = {"num_classes": classes, "loss": loss}
    return dyt.TuningStep(dyt.build({"head": head, "objective": objective}, backbone=plain)).train()


def test_several_labels_are_binary_decisions() -> None:
    logits, labels = torch.randn(4, 5), (torch.rand(4, 5) > 0.5).float()
    expected = -(labels * F.logsigmoid(logits) + (1 - labels) * F.logsigmoid(-logits)).mean()
    torch.testing.assert_close(binary(logits, labels), expected)
    torch.testing.assert_close(binary(logits, labels.bool()), expected)
    torch.testing.assert_close(binary(logits, torch.tensor([0, 4, 1, 1])), binary(logits, torch.eye(5)[[0, 4, 1, 1]]))
    torch.testing.assert_close(binary(logits[:, :1], labels[:, 0]), binary(logits[:, :1], labels[:, :1]))


def test_their_divergence_is_that_of_the_decisions() -> None:
    """Against torch's own KL of Bernoulli distributions; 0 where the passes agree; nothing flows to the teacher."""
    complete, dynamic = torch.randn(4, 5, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    for temperature in (1.0, 2.0):
        sides = [torch.distributions.Bernoulli(logits=each / temperature) for each in (complete, dynamic)]
        expected = torch.distributions.kl_divergence(*sides).mean() * temperature**2
        torch.testing.assert_close(binary_distillation(complete, dynamic, temperature), expected)
    assert binary_distillation(complete, complete).item() == pytest.approx(0, abs=1e-6)
    binary_distillation(complete, dynamic).backward()
    assert complete.grad is None
    assert dynamic.grad is not None


@pytest.mark.parametrize(
    ("loss", "classes", "targets"),
    [
        ("bce", 5, (torch.arange(20).view(4, 5) % 3 == 0).float()),
        ("bce", 1, torch.tensor([0, 1, 1, 0])),
        ("mse", 1, torch.tensor([0.5, 1.5, -1.0, 3.0])),
        ("mse", 2, torch.linspace(-1, 1, 8).view(4, 2)),
    ],
)
def test_what_each_is_for_is_learned(loss: str, classes: int, targets: torch.Tensor) -> None:
    training = step(loss, classes)
    optimizer = torch.optim.Adam([p for p in training.parameters() if p.requires_grad], lr=0.01)
    first = None
    for _ in range(30):
        total, parts = training(IMAGES, targets)
        first = parts["cls"].item() if first is None else first
        assert set(parts) >= {"complete", "distill"}
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert 0 < parts["cls"].item() < 0.7 * first


def test_one_output_and_float_targets_is_refused_not_zero() -> None:
    with pytest.raises(
        DyTError, match=r"head\.num_classes is 1: cross_entropy has nothing to tell apart; use head\.loss"
    ):
        step("cross_entropy", 1)
    with pytest.raises(DyTError, match="one output is 0 whatever the target"):
        classification(torch.zeros(4, 1), torch.tensor([0.5, 1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        ("cross_entropy", torch.tensor([[1.0, 1.0, 0.0]] * 4), r"sum to 1 for each image; use head\.loss: bce"),
        ("cross_entropy", torch.zeros(4, 3), "sum to 1"),
        ("cross_entropy", torch.tensor([[1, 0, 0]] * 4), r"given torch\.int64 \(4, 3\)"),
        ("cross_entropy", torch.tensor([0.0, 1.0, 2.0, 1.0]), "mse for numbers"),
        ("bce", torch.zeros(4, 2), r"bce takes labels \(4, 3\) in \[0, 1\]"),
        ("bce", torch.full((4, 3), 2.0), r"in \[0, 1\]"),
        ("mse", torch.zeros(4), r"mse takes targets \(4, 3\); given \(4,\)"),
    ],
)
def test_targets_of_another_form_are_one_line(loss: str, targets: torch.Tensor, message: str) -> None:
    with pytest.raises(DyTError, match=message) as caught:
        step(loss, 3)(IMAGES, targets)
    assert "\n" not in str(caught.value)


def test_soft_labels_are_still_taken() -> None:
    soft = torch.full((4, 3), 0.05)
    soft[:, 0] = 0.9
    total, _ = step("cross_entropy", 3)(IMAGES, soft)
    assert bool(total.isfinite())
    assert float(classification(torch.zeros(4, 3), soft.half())) == pytest.approx(
        torch.tensor(3.0).log().item(), rel=1e-3
    )


def test_features_are_no_logits() -> None:
    training = step("cross_entropy", 3)
    training.model.reset_classifier(0)
    with pytest.raises(DyTError, match=r"head\.num_classes is 0: it gives features"):
        dyt.TuningStep(training.model)


@pytest.mark.parametrize("loss", ["cross_entropy", "bce", "mse"])
def test_an_empty_batch_is_no_loss(loss: str) -> None:
    with pytest.raises(DyTError, match="the batch is empty"):
        step(loss, 3)(IMAGES[:0], torch.zeros(0, 3))


def test_squares_are_those_of_numbers() -> None:
    assert float(squares(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 1.0]))) == pytest.approx(2.5)


def test_its_spec_goes_round_and_a_plain_head_spec_still_does() -> None:
    spec = dyt.DyTSpec.model_validate({"head": {"num_classes": 3, "loss": "bce"}})
    assert dyt.DyTSpec.model_validate_json(spec.model_dump_json()) == spec
    plain = dyt.DyTSpec(head=dyt.HeadSpec(num_classes=3))
    assert plain.head == ClassifierSpec(num_classes=3)
    assert plain.head.model_fields_set >= {"num_classes"}
    with pytest.raises(SpecError, match=r"head\.loss"):
        dyt.build({"head": {"loss": "hinge"}})


def test_a_saved_file_keeps_the_loss(tmp_path: Any) -> None:
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=3, **ARGS)
    spec = {"backbone": {"name": "x", "weights": "none"}, "head": {"num_classes": 3, "loss": "bce"}}
    model = dyt.build(spec, backbone=copy.deepcopy(plain))
    dyt.save(model, tmp_path / "m.safetensors")
    again = dyt.load(tmp_path / "m.safetensors", backbone=plain)
    assert dict(again.spec.head)["loss"] == "bce"
    chances = again.head.chances(torch.zeros(1, 3))
    assert chances.tolist() == [[0.5, 0.5, 0.5]]
