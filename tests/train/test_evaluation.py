"""`evaluate`: its numbers are those of the routes and of count_macs on every image."""

from pathlib import Path

import pytest
import timm
import torch

import dyt
from dyt.measure.costs import dense_macs
from dyt.train import evaluate

from .test_calibrate import model, rate_of


@pytest.mark.parametrize("dispatcher", ["learned", "always"])
def test_the_report_is_exact(weights: Path, dispatcher: str) -> None:
    tuned = model(weights, dispatcher=dispatcher).train()
    batches = [(torch.randn(n, 3, 32, 32), torch.arange(n) % 3) for n in (5, 2)]
    report = evaluate(tuned, batches)
    assert tuned.training
    tuned.eval()
    with torch.no_grad():
        right = sum(int((tuned(images).argmax(1) == labels).sum()) for images, labels in batches)
        macs = torch.cat([dyt.count_macs(tuned, images) for images, _ in batches]).double()
        with dyt.execution(tuned, "complete"):
            complete = int(dyt.count_macs(tuned, batches[0][0][:1]))
    assert report.images == 7
    assert report.accuracy == pytest.approx(right / 7)
    assert report.accuracy_top5 is None
    assert report.active_rate == pytest.approx(rate_of(tuned, [images for images, _ in batches]))
    assert report.gmacs * 1e9 == pytest.approx(float(macs.mean()), rel=1e-9)
    assert report.gmacs_complete * 1e9 == pytest.approx(complete)
    plain = timm.create_model(tuned.spec.backbone.name, num_classes=3, **tuned.spec.backbone.args)
    assert report.gmacs_dense is not None
    assert report.gmacs_head is not None
    assert report.gmacs_dense * 1e9 == pytest.approx(dense_macs(plain, batches[0][0][:1]))
    assert report.gmacs_head * 1e9 == pytest.approx(3 * plain.num_features)  # of one linear map


def test_top5_with_more_than_five_classes(weights: Path) -> None:
    tuned = model(weights, head={"num_classes": 6})
    images = torch.randn(6, 3, 32, 32)
    least = tuned(images).argmin(1)
    assert evaluate(tuned, [(images, least)]).accuracy_top5 == 0.0


def test_no_images_are_refused(weights: Path) -> None:
    with pytest.raises(dyt.DyTError, match="no images"):
        evaluate(model(weights), [])
