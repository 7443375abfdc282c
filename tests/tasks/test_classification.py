"""Accuracy, top 5 and the mean over classes, against numbers that are worked out by hand."""

import pytest
import torch

from dyt.tasks.classification import Accuracy


def logits(predicted: list[int], classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(torch.tensor(predicted), classes).float()


def test_each_class_counts_once() -> None:
    """Of class 0 three of four are right, of class 1 none of one: 3/5 over images, (3/4 + 0) / 2 over classes."""
    measure = Accuracy(3, torch.device("cpu"))
    measure.update(logits([0, 0, 0], 3), torch.tensor([0, 0, 0]))
    measure.update(logits([1, 0], 3), torch.tensor([0, 1]))
    found = measure.compute()
    assert next(iter(found)) == "accuracy"
    assert found == pytest.approx({"accuracy": 0.6, "accuracy_per_class": 0.375})


def test_a_class_without_images_is_left_out_even_when_it_is_predicted() -> None:
    measure = Accuracy(3, torch.device("cpu"))
    measure.update(logits([0, 1, 2, 2], 3), torch.tensor([0, 1, 1, 0]))
    assert measure.compute()["accuracy_per_class"] == pytest.approx(0.5)


def test_top_five_from_six_classes_on() -> None:
    measure = Accuracy(6, torch.device("cpu"))
    measure.update(torch.tensor([[6.0, 5, 4, 3, 2, 1]] * 2), torch.tensor([4, 5]))
    assert measure.compute() == pytest.approx({"accuracy": 0.0, "accuracy_top5": 0.5, "accuracy_per_class": 0.0})
    assert "accuracy_top5" not in Accuracy(5, torch.device("cpu")).metrics
