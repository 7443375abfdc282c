"""Segmentation data in its published layout, good and bad; crops, windows, metrics."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from dyt.config.spec import parse
from dyt.errors import DyTError, SpecError
from dyt.tasks.images import ImageError
from dyt.tasks.layouts import DataError
from dyt.tasks.preparation import Preparation
from dyt.tasks.segmentation import Segmentation, SegmentationSpec, windows
from dyt.tasks.segmentation.layout import open_mask
from dyt.tasks.segmentation.metrics import Overlap
from tasks.odd_images import DAMAGES, MODES, harm, put

PREPARATION = Preparation((16, 16), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
TASK = Segmentation()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """One image of 20 x 12 and its mask of classes 0 to 2 in each of two splits."""
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\n")
    for split in ("training", "validation"):
        for kind in ("images", "annotations"):
            (tmp_path / kind / split).mkdir(parents=True)
        mask = np.arange(240, dtype=np.uint8).reshape(12, 20) % 3
        Image.fromarray(mask).save(tmp_path / "annotations" / split / "a.png")
        Image.fromarray(np.repeat(mask[..., None] * 80, 3, 2)).save(tmp_path / "images" / split / "a.png")
    return tmp_path


def first(root: Path, how: str = "whole", **fields: Any) -> tuple[Tensor, Tensor]:
    spec = SegmentationSpec(root=str(root), **fields)
    examples = TASK.examples(spec, TASK.open(spec).train, PREPARATION, training=how == "crops")
    return examples[0, 0]


def test_the_layout(root: Path) -> None:
    data = TASK.open(SegmentationSpec(root=str(root)))
    assert (data.classes, len(data.train), data.test.name) == (("sky", "road", "car"), 1, "validation")
    image, mask = first(root)
    assert (image.dtype, image.shape, mask.dtype) == (torch.uint8, (3, 12, 20), torch.int64)
    assert torch.equal(image[0], (mask * 80).to(torch.uint8))


def test_ade20k_list_and_zero_label(root: Path) -> None:
    (root / "objectInfo150.txt").write_text(
        "Idx\tRatio\tTrain\tVal\tStuff\tName\n1\t.1\t1\t1\t1\twall\n2\t.1\t1\t1\t1\tsky, air\n"
    )
    spec = {"classes": "objectInfo150.txt", "reduce_zero_label": True}
    assert TASK.open(SegmentationSpec(root=str(root), **spec)).classes == ("wall", "sky, air")
    plain, lowered = first(root)[1], first(root, **spec)[1]
    assert torch.equal(lowered, torch.where(plain == 0, 255, plain - 1))


@pytest.mark.parametrize("seed", range(8))
def test_crops_go_together(root: Path, seed: int) -> None:
    """Image and mask are scaled, cropped, mirrored alike; what is padded is the mean colour, and no class."""
    spec = SegmentationSpec(root=str(root), scale=(1.0, 1.0))
    examples = TASK.examples(spec, TASK.open(spec).train, PREPARATION, training=True)
    image, mask = examples[0, seed]
    assert (image.shape, mask.shape) == ((3, 16, 16), (16, 16))
    expected = torch.where(mask == 255, 128, mask * 80).to(torch.uint8)
    assert torch.equal(image, expected.expand(3, -1, -1))
    assert torch.equal(image, examples[0, seed][0])
    assert any(not torch.equal(mask, examples[0, other][1]) for other in range(9))


def test_scale_and_resize(root: Path) -> None:
    assert first(root, resize=24)[0].shape == (3, 24, 40)
    assert first(root, resize=24)[1].shape == (12, 20)
    image, mask = first(root, "crops", resize=24, scale=(2.0, 2.0))
    assert bool((mask != 255).all())
    centre = TASK.sample(
        SegmentationSpec(root=str(root)), TASK.open(SegmentationSpec(root=str(root))).train, PREPARATION
    )
    assert [each.shape for each in centre[0, 0]] == [(3, 16, 16), (16, 16)]
    assert image.shape == (3, 16, 16)


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_come_out_as_their_colour(root: Path, mode: str) -> None:
    colour = torch.tensor(put(root / "images/training/a.png", mode)).view(3, 1, 1)
    image = first(root)[0]
    assert image.shape == (3, 12, 20)
    assert bool(((image.int() - colour).abs() <= 2).all())


@pytest.mark.parametrize("kind", ["images", "annotations"])
@pytest.mark.parametrize("damage", [damage for damage in DAMAGES if damage != "missing"])
def test_images_and_masks_that_cannot_be_read_are_named(root: Path, kind: str, damage: str) -> None:
    harm(root / kind / "training/a.png", damage)
    with pytest.raises(ImageError, match=rf"{kind}/training/a\.png: .*{DAMAGES[damage][1]}") as caught:
        first(root)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("mode", ["L", "P", "I;16", "I;16B", "1"])
def test_masks_of_one_channel(root: Path, mode: str) -> None:
    path = root / ("m.tif" if mode == "I;16B" else "m.png")
    values = np.zeros((12, 20), np.uint16 if "16" in mode else np.uint8)
    values[3] = 1
    image = Image.fromarray(values)
    if mode == "P":
        image = Image.frombytes("P", (20, 12), values.tobytes())
        image.putpalette([250, 10, 10, 5, 5, 250] + [0] * 762)
    if mode == "I;16B":
        image = Image.frombytes("I;16B", (20, 12), values.astype(">u2").tobytes())
    Image.fromarray(values.astype(bool)).save(path) if mode == "1" else image.save(path)
    with Image.open(path) as saved:
        assert saved.mode == mode
    assert open_mask(path, 2).tolist() == values.tolist()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_masks_of_colours_are_refused(root: Path, mode: str) -> None:
    path = root / "annotations/training/a.png"
    Image.new(mode, (20, 12)).save(path)
    with pytest.raises(DataError, match=rf"a\.png: a mask of mode {mode}.*one channel") as caught:
        first(root)
    assert "\n" not in str(caught.value)


def _no_mask(root: Path) -> None:
    (root / "annotations/training/a.png").unlink()


def _two_masks(root: Path) -> None:
    Image.new("L", (20, 12)).save(root / "annotations/training/a.tif")


def _other_size(root: Path) -> None:
    Image.new("L", (12, 20)).save(root / "annotations/training/a.png")


def _high_label(root: Path) -> None:
    Image.new("L", (20, 12), 7).save(root / "annotations/training/a.png")


def _deep_label(root: Path) -> None:
    Image.fromarray(np.full((12, 20), 300, np.uint16)).save(root / "annotations/training/a.png")


def _one_image_less(root: Path) -> None:
    Image.new("L", (20, 12)).save(root / "annotations/training/b.png")


def _empty_list(root: Path) -> None:
    (root / "classes.txt").write_bytes(b"")


def _no_pictures(root: Path) -> None:
    (root / "images/training/a.png").rename(root / "images/training/a.txt")


def _no_images(root: Path) -> None:
    (root / "images/training/a.png").unlink()


def _no_classes(root: Path) -> None:
    (root / "classes.txt").unlink()


def _no_names(root: Path) -> None:
    (root / "classes.txt").write_text("\n")


def _no_split(root: Path) -> None:
    _no_mask(root)
    (root / "annotations/training").rmdir()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_no_mask, r"no mask for 1 of 1 images: a\.png"),
        (_two_masks, "two masks for one image"),
        (_other_size, r"a\.png: a mask of 12 x 20 pixels for an image of 20 x 12"),
        (_high_label, r"a\.png: label 7 in 240 pixels, but there are 3 classes \(0 to 2"),
        (_deep_label, r"a\.png: label 300 in 240 pixels, but there are 3 classes"),
        (_one_image_less, r"images/training' has no image for 1 masks of .*annotations/training': b; put the images"),
        (_empty_list, r"classes\.txt' has 0 class names"),
        (_no_pictures, r"no images in '.*images/training'"),
        (_no_images, "no images in"),
        (_no_classes, r"no list of classes .*data\.classes"),
        (_no_names, "has 0 class names"),
        (_no_split, r"no directory .*annotations/training"),
    ],
)
def test_bad_data_is_answered_by_name(root: Path, harm: Callable[[Path], None], said: str) -> None:
    harm(root)
    with pytest.raises((DataError, ImageError), match=said) as caught:
        first(root)
    assert "\n" not in str(caught.value)


def test_a_lowered_label_out_of_range_is_named_as_it_lies_there(root: Path) -> None:
    Image.new("L", (20, 12), 4).save(root / "annotations/training/a.png")
    with pytest.raises(
        DataError, match=r"label 4 in 240 pixels, but there are 3 classes \(1 to 3, 255 for none, 0 for"
    ):
        first(root, reduce_zero_label=True)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"scale": (2.0, 0.5)}, "smaller to the larger"),
        ({"size": 8, "stride": 9}, "above size 8"),
        ({"flip": 2}, "flip"),
        ({"inference": "whole", "stride": 9}, "stride is of windows"),
        ({"inference": "whole", "batch": 4}, "batch is of windows"),
    ],
)
def test_bad_specs(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        parse(SegmentationSpec, {"root": "x", **fields})


@pytest.mark.parametrize(("height", "width"), [(10, 10), (16, 16), (17, 40), (50, 16)])
def test_windows_see_every_pixel_and_agree(height: int, width: int) -> None:
    """What depends on a pixel alone comes out as it is, however many windows saw it."""
    images, seen = torch.randn(2, 3, height, width), []

    def run(parts: Tensor) -> Tensor:
        seen.append(tuple(parts.shape))
        return parts * 2

    torch.testing.assert_close(windows.slide(run, images, 16, 11, batch=2), images * 2)
    assert all(shape[2:] == (16, 16) and shape[0] <= 4 for shape in seen)


def test_overlapping_windows_are_averaged() -> None:
    """Windows that say 0 and 1, half of them in common."""
    said = iter([0.0, 1.0])
    found = windows.slide(lambda x: torch.full((len(x), 1, 4, 4), next(said)), torch.zeros(1, 3, 4, 6), 4, 2, batch=1)
    assert found[0, 0].tolist() == [[0, 0, 0.5, 0.5, 1, 1]] * 4


def test_whole_images_are_padded_and_cut() -> None:
    found = windows.whole(lambda x: x + float(x.shape[2] == 24 and x.shape[3] == 32), torch.zeros(1, 3, 17, 31), 8)
    assert found.shape == (1, 3, 17, 31)
    assert bool((found == 1).all())


def test_metrics_by_hand() -> None:
    """Labels 0 0 1 1 and one without, predicted 0 1 1 1: unions 2 and 3, and class 2 is nowhere."""
    measure = Overlap(("sky", "road", "car"), torch.device("cpu"))
    labels = torch.tensor([[[0, 0, 1, 1, 255]]])
    measure.update(torch.nn.functional.one_hot(torch.tensor([[[0, 1, 1, 1, 2]]]), 3).permute(0, 3, 1, 2), labels)
    found = measure.compute()
    assert found == pytest.approx(
        {"miou": (1 / 2 + 2 / 3) / 2, "pixel_accuracy": 3 / 4, "iou/sky": 1 / 2, "iou/road": 2 / 3}
    )


def test_a_split_without_a_label_has_no_metrics() -> None:
    measure = Overlap(("sky", "road"), torch.device("cpu"))
    measure.update(torch.randn(1, 2, 3, 3), torch.full((1, 3, 3), 255))
    assert measure.compute() == {"miou": None, "pixel_accuracy": None}


def test_classes_of_one_name_are_told_apart_by_their_number() -> None:
    measure, labels = Overlap(("screen", "car", "screen"), torch.device("cpu")), torch.tensor([[[0, 1, 2]]])
    measure.update(torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2), labels)
    assert [name for name in measure.compute() if "iou/" in name] == ["iou/screen (0)", "iou/car", "iou/screen (2)"]


def test_logits_are_brought_to_the_masks_size() -> None:
    measure = Overlap(("sky", "road"), torch.device("cpu"))
    measure.update(torch.tensor([[[[1.0]], [[0.0]]]]), torch.zeros(1, 6, 4, dtype=torch.int64))
    assert measure.compute()["pixel_accuracy"] == 1


def test_sizes_that_a_backbone_cannot_take() -> None:
    import timm

    tiny = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 1}
    fixed, free = (timm.create_model("vit_tiny_patch16_224", **tiny, dynamic_img_size=free) for free in (False, True))
    with pytest.raises(DyTError, match=r"takes images of 32 x 32 alone; set backbone\.args\.img_size: 40"):
        windows.check(fixed, 40, "slide")
    with pytest.raises(DyTError, match=r"data\.inference is whole"):
        windows.check(fixed, 32, "whole")
    with pytest.raises(DyTError, match="a multiple of 8"):
        windows.check(free, 41, "slide")
    with pytest.raises(DyTError, match=r"data\.stride 33 is above the windows' 32 pixels"):
        windows.check(fixed, 32, "slide", 33)
    windows.check(fixed, 32, "slide", 32)
    windows.check(free, 40, "whole")
