"""Frames of a clip are the paper's, and always inside the video."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dyt.config.spec import parse
from dyt.errors import SpecError
from dyt.tasks.video.sampling import inference_positions, span, training_positions
from dyt.tasks.video.spec import VideoSpec


def spec(**fields: object) -> VideoSpec:
    return VideoSpec.model_validate({"root": "x", **fields})


@given(
    count=st.integers(1, 400),
    sampling=st.sampled_from(["dense", "uniform"]),
    frames=st.integers(1, 16),
    stride=st.integers(1, 20),
    views=st.integers(1, 5),
    seed=st.integers(0, 9),
)
def test_positions_are_inside_and_in_order(
    count: int, sampling: str, frames: int, stride: int, views: int, seed: int
) -> None:
    chosen = spec(sampling=sampling, frames=frames, **{"stride": stride} if sampling == "dense" else {})
    clips = inference_positions(count, chosen, views)
    assert len(clips) == views
    for clip in [*clips, training_positions(count, chosen, Random(seed))]:
        assert len(clip) == frames
        assert clip == sorted(clip)
        assert 0 <= clip[0] <= clip[-1] < count
        if sampling == "dense" and count >= span(chosen):
            assert {b - a for a, b in pairwise(clip)} <= {stride}


def test_dense_views_go_from_the_first_frame_to_the_last() -> None:
    clips = inference_positions(300, spec(sampling="dense", frames=8, stride=16), 3)
    assert [(clip[0], clip[-1]) for clip in clips] == [(0, 112), (94, 206), (187, 299)]


def test_uniform_takes_the_middle_of_each_segment() -> None:
    assert inference_positions(80, spec(), 1) == [[5, 15, 25, 35, 45, 55, 65, 75]]


def test_a_short_video_repeats_its_last_frame() -> None:
    dense = spec(sampling="dense", frames=4, stride=4)
    assert inference_positions(6, dense, 1) == [[0, 4, 5, 5]]
    assert training_positions(6, dense, Random(0)) == [0, 4, 5, 5]


@pytest.mark.parametrize("sampling", ["dense", "uniform"])
def test_training_draws_differ_with_the_seed_alone(sampling: str) -> None:
    chosen = spec(sampling=sampling)
    drawn = [training_positions(300, chosen, Random(seed)) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_stride_that_nothing_would_take_is_refused() -> None:
    with pytest.raises(SpecError, match="stride is of sampling: dense; given 4 with sampling: uniform"):
        parse(VideoSpec, {"root": "x", "stride": 4})
