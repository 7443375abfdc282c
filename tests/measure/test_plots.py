"""Pictures have the right size and say what they are given."""

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dyt.errors import DyTError
from dyt.measure.plots import Point, activation_chart, activity_picture, layer_labels, tradeoff, veiled, writable


def pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_veil_covers_skipped_patches_only():
    image = torch.rand(3, 8, 8)
    active = torch.tensor([[True, False], [False, True]])
    out = veiled(image, active)
    assert torch.equal(out[:, :4, :4], image[:, :4, :4])
    assert (out[:, :4, 4:] != image[:, :4, 4:]).any()


def test_picture_changes_with_the_maps_and_is_saved(tmp_path):
    images, sites = torch.rand(2, 3, 16, 16), ["blocks.0.mlp", "blocks.1.mlp"]
    maps = torch.zeros(2, 2, 4, 4, dtype=torch.bool)
    first = activity_picture(images, maps, sites, ["a", "b"], "title")
    second = activity_picture(images, ~maps, sites, ["a", "b"], "title")
    assert pixels(first).shape == pixels(second).shape
    assert (pixels(first) != pixels(second)).any()
    first.savefig(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_picture_refuses_what_does_not_fit():
    with pytest.raises(DyTError, match="fit each other"):
        activity_picture(torch.rand(1, 3, 8, 8), torch.zeros(2, 1, 2, 2, dtype=torch.bool), ["blocks.0.mlp"])


def test_charts_change_with_their_numbers():
    bars = [activation_chart({"blocks.0.mlp": rate}, 0.5) for rate in (0.2, 0.9)]
    assert (pixels(bars[0]) != pixels(bars[1])).any()
    points = [tradeoff([Point("a", 1.0, accuracy), Point("b", 2.0, 0.9)]) for accuracy in (0.1, 0.8)]
    assert (pixels(points[0]) != pixels(points[1])).any()
    with pytest.raises(DyTError, match="no rates"):
        activation_chart({})


def test_labels_are_layers():
    assert layer_labels(["blocks.0.mlp", "blocks.1.mlp"]) == ["1", "2"]
    assert layer_labels(["blocks.0.attn", "blocks.0.mlp"]) == ["1 attn", "1 mlp"]


def test_files_that_cannot_be_drawn_into_are_refused(tmp_path):
    with pytest.raises(DyTError, match="allowed endings"):
        writable(tmp_path / "x.doc")
    with pytest.raises(DyTError, match="no directory"):
        writable(tmp_path / "none" / "x.png")
