"""`check` of heads: the library's own keep the laws; each broken one here breaks one law, and is told which."""

from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import dyt
from dyt.assembly.rollback import Snapshot
from dyt.config.spec import HeadSpec, parse
from dyt.families import Family
from dyt.heads import Head, Pixel, Query, TaskHeadSpec, classification, distillation
from dyt.registry import heads
from dyt.testing import check
from dyt.testing.cases import TINY, leaves, spec
from dyt.testing.refusals import refused_on

WHOLE = {1, 2, 3, 4, 6, 7, 8, 10, 11}


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    with ExitStack() as stack:
        for registry in dyt.registry.KINDS.values():
            stack.enter_context(registry.temporary())
        yield


def laws(name: str, examples: int = 2) -> set[int]:
    return {law.number for law in check("heads", name, examples=examples).laws}


@pytest.mark.parametrize("name", [name for name in heads if heads.origin(name) == "dyt"])
def test_the_library_s_heads_keep_the_laws(name: str) -> None:
    refused = heads.get(name).divergence_refusal is not None
    assert laws(name) == WHOLE - ({4} if refused else set())


class MeanSpec(TaskHeadSpec):
    type: str = "broken"


class Mean(Head):
    """A linear layer on the mean token: what the broken ones below start from."""

    Spec = MeanSpec
    task = "classification"

    def __init__(self, spec: HeadSpec, backbone: Any) -> None:
        super().__init__(spec, backbone)
        self.classify = nn.Linear(backbone.num_features, spec.num_classes)

    @classmethod
    def refusal(cls, spec: HeadSpec, backbone: nn.Module, family: Family) -> str | None:
        return None if spec.num_classes else "head.num_classes is 0; give 1 or more"

    def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
        return self.classify(backbone.forward_features(images).flatten(1, -2).mean(1))

    def loss(self, outputs: Any, targets: Any) -> Tensor:
        return classification(outputs, targets)

    def divergence(self, complete: Any, dynamic: Any, temperature: float) -> Tensor:
        return distillation(complete, dynamic, temperature)


def broken(number: int, head: type[Head], examples: int = 3) -> str:
    """The message of the law that the head breaks."""
    heads("broken")(head)
    with pytest.raises(AssertionError) as caught:
        check("heads", "broken", examples=examples)
    message = str(caught.value)
    assert message.startswith(f"law {number} ("), message
    assert "does not hold for heads 'broken'\nexample: " in message
    return message


def test_what_the_broken_heads_start_from_is_whole() -> None:
    heads("broken")(Mean)
    assert laws("broken") == WHOLE


def test_one_that_knows_the_blocks_by_another_name() -> None:
    class Bypasses(Mean):
        def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
            dynamic = any(hasattr(module, "sites") for module in backbone.modules())
            return super().forward(backbone, images) * (1.5 if dynamic else 1.0)

    broken(1, Bypasses)


def test_one_whose_outputs_are_not_the_same_twice() -> None:
    class Draws(Mean):
        def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(backbone, images) + torch.rand(())

    assert "other values" in broken(2, Draws)


def test_one_that_gives_no_tensor_and_one_that_is_not_finite() -> None:
    class Nothing(Mean):
        def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
            return None

    assert "no tensor in the outputs" in broken(1, Nothing)


def test_one_that_is_not_finite() -> None:
    class Infinite(Mean):
        def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(backbone, images) / 0

    assert "NaN or infinity" in broken(1, Infinite)


def test_one_with_a_parameter_that_nothing_reaches() -> None:
    class Idle(Mean):
        def __init__(self, spec: HeadSpec, backbone: Any) -> None:
            super().__init__(spec, backbone)
            self.idle = nn.Parameter(torch.zeros(3))

    assert "not reached by the gradient: ['head.idle']" in broken(3, Idle)


def test_one_that_unfreezes_the_backbone() -> None:
    class Unfreezes(Mean):
        def attach(self, backbone: nn.Module) -> None:
            backbone.requires_grad_(True)

    assert "trainable, or not, against the plan" in broken(3, Unfreezes)


def test_one_that_compares_inputs() -> None:
    class Compares(Mean):
        def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
            logits = super().forward(backbone, images)
            return logits - logits.mean(0)

    broken(4, Compares)


def test_one_whose_state_is_not_saved() -> None:
    class Forgets(Mean):
        def __init__(self, spec: HeadSpec, backbone: Any) -> None:
            super().__init__(spec, backbone)
            self.sign = torch.randn(spec.num_classes)

        def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
            return super().forward(backbone, images) * self.sign

    assert "answers otherwise than the saved one" in broken(7, Forgets)


def test_one_that_counts_otherwise_for_each_image() -> None:
    class Grows(Mean):
        def forward(self, backbone: Any, images: Tensor, *args: Any, **kwargs: Any) -> Any:
            logits = super().forward(backbone, images)
            return logits + 0 * (logits @ logits.mT @ logits)

    assert "a FLOP counter sees" in broken(8, Grows)


@pytest.mark.parametrize(
    ("method", "value", "said"),
    [
        ("loss", lambda head, out, targets: classification(out, targets).double(), "the loss is torch.float64 ()"),
        ("divergence", lambda head, c, d, t: distillation(c, d, t) + 1, "the divergence of equal outputs is 1.0"),
        ("divergence", lambda head, c, d, t: (c - d).square().mean(), "has a gradient of the complete outputs"),
        ("divergence", lambda head, c, d, t: distillation(d, c, t), "has a gradient of the complete outputs"),
        ("tally", lambda head, out, targets: (torch.tensor(9), 1), "tally says 9 right of 1"),
        ("frames", lambda head, inputs: inputs[:, :2], "are no images"),
    ],
)
def test_one_whose_terms_are_wrong(method: str, value: Any, said: str) -> None:
    message = broken(10, type("Wrong", (Mean,), {method: value}))
    assert said in message


def test_one_that_refuses_the_divergence_without_a_word() -> None:
    assert "say why there is none" in broken(10, type("Silent", (Mean,), {"divergence_refusal": " "}))


def test_one_that_refuses_late_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it did before is taken back; where it were not, the law would say it."""

    class Late(Mean):
        @classmethod
        def refusal(cls, spec: HeadSpec, backbone: nn.Module, family: Family) -> str | None:
            return None

        def __init__(self, spec: HeadSpec, backbone: Any) -> None:
            backbone.blocks[0].norm1.weight.data.mul_(2.0)
            raise dyt.DyTError("never mind")

    heads("broken")(Late)
    backbone = VisionTransformer(**TINY, num_classes=0)
    wanted = parse(dyt.DyTSpec, spec(head={"type": "broken", "num_classes": 3}))
    assert str(refused_on(backbone, wanted)) == "never mind"
    monkeypatch.setattr(Snapshot, "restore", lambda self: None)
    with pytest.raises(AssertionError, match=r"not left as it was: blocks\.0\.norm1\._parameters\['weight'\]: values"):
        refused_on(backbone, wanted)


def test_one_that_reads_a_grid_is_refused_with_a_reducer(monkeypatch: pytest.MonkeyPatch) -> None:
    """By `dyt.build`, for every head that says so; where it were not, the law would say it."""
    grid = type("Grid", (Mean,), {"reads_grid": True})
    with heads.temporary():
        heads("broken")(grid)
        assert "it is refused with a reducer" in {law.says for law in check("heads", "broken", examples=1).laws}
    monkeypatch.setattr("dyt.assembly.compatibility._grid_refusal", lambda spec, tuner: None)
    assert "is not refused with a reducer" in broken(11, grid, examples=1)


def test_example_targets_are_those_of_the_loss() -> None:
    """Labels below the number of classes; segmentation has some pixels without; detection an image without objects."""
    inputs = torch.zeros(3, 3, 16, 8)
    assert Query.example_targets(TaskHeadSpec(type="query", num_classes=2), inputs).tolist() == [0, 1, 0]
    pixels = Pixel.example_targets(TaskHeadSpec(type="pixel", num_classes=4), inputs)
    assert pixels.shape == (3, 16, 8)
    assert set(pixels.unique().tolist()) == {0, 1, 2, 3, 255}
    for name, fields in (("faster_rcnn", {"boxes", "labels"}), ("mask_rcnn", {"boxes", "labels", "masks"})):
        detector = heads.get(name)
        found = detector.example_targets(detector.Spec(type=name, num_classes=4), inputs)
        assert [set(one) for one in found] == [fields] * 3
        assert [len(one["boxes"]) for one in found] == [1, 1, 0]
        assert found[0]["boxes"].tolist() == [[2, 4, 6, 12]]
        assert len(detector.example_targets(detector.Spec(type=name, num_classes=4), inputs[:1])[0]["boxes"]) == 1
    assert found[0]["masks"].sum() == 4 * 8


def test_leaves_are_the_tensors_with_their_places() -> None:
    one, two = torch.zeros(1), torch.ones(2)
    assert list(leaves({"a": [one, 3], "b": (two,)})) == [("outputs['a'][0]", one), ("outputs['b'][0]", two)]
