"""Hypothesis strategies for heads: specs of few channels, and small backbones to stand behind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from dyt.registry import heads
from dyt.testing.cases import CLASSES
from dyt.testing.heads import SWIN, HeadCase
from dyt.testing.schema import allowed
from dyt.testing.strategies import DTYPES, SEEDS, vits

# `score` 0 keeps what a model that has learned nothing finds.
_DETECTOR = st.fixed_dictionaries(
    {
        "channels": st.sampled_from([4, 8]),
        "anchors": st.just([8, 16, 24, 32, 48]),
        "hidden": st.just(8),
        "box_head": st.sampled_from(["mlp", "conv"]),
        "proposals": st.just(10),
        "proposals_training": st.just(20),
        "sampled": st.just(16),
        "score": st.just(0.0),
        "detections": st.just(5),
    }
)
_FIELDS: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "classifier": st.just({}),
    "pixel": st.just({}),
    "tokens": st.fixed_dictionaries({}, optional={"class_weight": st.sampled_from([0.5, 1.0])}),
    "query": st.fixed_dictionaries({}, optional={"attention_heads": st.sampled_from([None, 1, 2])}),
    "upernet": st.fixed_dictionaries(
        {"channels": st.sampled_from([4, 8])}, optional={"layers": st.sampled_from([None, [0, 0, 0, 0], [0, 0, 0, 1]])}
    ),
    "faster_rcnn": _DETECTOR,
    "mask_rcnn": _DETECTOR.flatmap(
        lambda fields: st.sampled_from([0.5, 1.0]).map(lambda weight: fields | {"mask_weight": weight})
    ),
}


def headed(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of one head that tells a few classes apart."""
    known = _FIELDS.get(name)
    drawn = allowed("heads", name) if known is None else known.map(lambda fields: {"type": name, **fields})
    classes = 0 if heads.get(name).taught else CLASSES
    return drawn.map(lambda plain: plain | {"num_classes": classes})


@st.composite
def head_cases(
    draw: st.DrawFn, wanted: st.SearchStrategy[dict[str, Any]], dtypes: tuple[str, ...] = DTYPES[:1]
) -> HeadCase:
    """A ViT of 4 x 4 patches, or now and then a Swin, with a head behind it and a batch of at least two inputs."""
    head, kind = draw(wanted), draw(st.sampled_from(["vit", "vit", "vit", "swin"]))
    args = draw(vits(pooled=True)) if kind == "vit" else dict(SWIN)
    if kind == "vit":
        args["img_size"] = 4 * args["patch_size"]
    case = HeadCase(
        args,
        (args["img_size"], args["img_size"]),
        draw(st.integers(2, 3)),
        draw(SEEDS),
        draw(st.sampled_from(["contiguous", "strided"])),
        draw(st.sampled_from(dtypes)),
        kind=kind,
        wanted=head,
    )
    return replace(case, classes=case.head_spec.classifier)
