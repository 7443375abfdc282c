"""Task `features`: which images there are, how they are split and prepared, and what is measured."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from dyt.config.spec import parse
from dyt.errors import SpecError
from dyt.heads import ImageTokens
from dyt.tasks import DataError
from dyt.tasks.described import described
from dyt.tasks.features import Features, FeaturesSpec, Fidelity
from dyt.tasks.features.metrics import neighbours
from dyt.tasks.preparation import Preparation

PREPARATION = Preparation((16, 16), (0.5,) * 3, (0.5,) * 3, "bilinear", 0.8, "center")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Ten images, in the root and in folders of folders, beside what is none."""
    noise = np.random.default_rng(0)
    for name in ["a.png", "b.png", *(f"one/{i}.png" for i in range(4)), *(f"two/deep/{i}.jpg" for i in range(4))]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise.integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(path)
    (tmp_path / "notes.txt").write_text("none")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "c.png").write_bytes(b"")
    (tmp_path / "some.txt").write_text("one/0.png 3\n\none/1.png\ntwo/deep/0.jpg 1 2\n")
    return tmp_path


def spec(root: Path, **fields: Any) -> FeaturesSpec:
    return parse(FeaturesSpec, {"root": str(root), **fields})


def names(paths: Any, root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in paths}


def test_every_image_below_is_found_and_a_share_held_out(root: Path) -> None:
    data = Features().open(spec(root, held_out=0.3))
    train, test = names(data.train.paths, root), names(data.test.paths, root)
    assert (len(train), len(test), data.classes) == (7, 3, ())
    assert not train & test
    assert "two/deep/3.jpg" in train | test
    assert names(Features().open(spec(root, held_out=0.3)).test.paths, root) == test
    assert names(Features().open(spec(root, held_out=0.3, split_seed=1)).test.paths, root) != test
    again = Features().open_split(spec(root, held_out=0.3), "held_out", ())
    assert names(again.paths, root) == test


def test_folders_and_lists_are_splits(root: Path) -> None:
    data = Features().open(spec(root, train="some", test="one"))
    assert names(data.train.paths, root) == {"one/0.png", "one/1.png", "two/deep/0.jpg"}
    assert len(data.test) == 4
    rest = Features().open(spec(root, test="one"))
    assert len(rest.train) == 6
    assert not names(rest.train.paths, root) & names(rest.test.paths, root)
    assert len(Features().open_split(spec(root), "some.txt", ())) == 3
    assert len(Features().open(spec(root, train="two")).test) == 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"root": "nowhere"}, "no directory 'nowhere'"),
        ({"train": "three"}, r"no folder and no list .*three.*; expected a folder of images"),
        ({"train": "notes"}, r"notes.txt: line 1: no file"),
        ({"train": "empty"}, "no images in"),
        ({"train": "alone"}, "one image, of which none can be held out"),
        ({"test": "."}, "no image beside those of data.test"),
    ],
)
def test_what_is_missing_is_said(root: Path, fields: dict[str, Any], said: str) -> None:
    (root / "empty").mkdir()
    (root / "alone.txt").write_text("a.png\n")
    with pytest.raises(DataError, match=said):
        Features().open(spec(**{"root": root, **fields}))


def test_fields_that_say_nothing_are_refused(root: Path) -> None:
    with pytest.raises(SpecError, match="split_seed is of test: null"):
        spec(root, test="one", split_seed=3)
    with pytest.raises(SpecError, match="cache keeps images that are not augmented"):
        spec(root, augment="crop", cache=True)


def test_images_are_prepared_as_the_encoder_says(root: Path) -> None:
    given = spec(root)
    split = Features().open_split(given, "one", ())
    image, target = Features().examples(given, split, PREPARATION, training=True)[0, 0]
    with Image.open(split.paths[0]) as opened:
        resized = opened.resize((26, 20), Image.Resampling.BILINEAR)  # 16 / 0.8, by the shorter side
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[:, 2:18, 5:21]
    assert target == 0
    assert image.dtype == torch.uint8
    assert (image.int() - expected.int()).abs().max() <= 1
    crop = Features().examples(spec(root, augment="crop"), split, PREPARATION, training=True)
    assert not torch.equal(crop[0, 0][0], crop[0, 1][0])
    config = described(given, PREPARATION, ())
    assert (config.crop_pct, config.crop_mode, config.interpolation) == (0.8, "center", "bilinear")
    assert config.label_names is None


def test_fidelity() -> None:
    generator = torch.Generator().manual_seed(0)
    own = ImageTokens(torch.randn(6, 8, generator=generator), torch.randn(6, 4, 8, generator=generator))
    measure = Fidelity(torch.device("cpu"))
    for part in range(0, 6, 2):
        read = ImageTokens(own.image[part : part + 2], own.patches[part : part + 2])
        measure.update(read, ImageTokens(3 * read.image, read.patches.roll(1, -1)))
    found = measure.compute()
    assert found["image_cosine"] == pytest.approx(1.0)
    wanted = torch.nn.functional.cosine_similarity(own.patches, own.patches.roll(1, -1), -1).mean()
    assert found["patch_cosine"] == pytest.approx(float(wanted), abs=1e-6)
    assert found["neighbour_agreement"] == 1.0


def test_neighbours_are_others_and_agree_where_they_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), dim=-1)
    monkeypatch.setattr("dyt.tasks.features.metrics.ROWS", 3)
    assert neighbours(rows).tolist() == [1, 0, 3, 2]
    measure = Fidelity(torch.device("cpu"))
    swapped = rows.clone()
    swapped[[2, 3]] = rows[[1, 2]]  # the second, third and fourth: the first's nearest is as before
    swapped[1] = rows[3]
    patches = torch.ones(4, 1, 2)
    measure.update(ImageTokens(swapped, patches), ImageTokens(rows, patches))
    assert neighbours(swapped).tolist() == [2, 3, 0, 1]
    assert measure.compute()["neighbour_agreement"] == 0.0
    single = Fidelity(torch.device("cpu"))
    single.update(ImageTokens(rows[:1], patches[:1]), ImageTokens(rows[:1], patches[:1]))
    assert single.compute()["neighbour_agreement"] is None


def test_what_is_held_out_hardly_changes_with_a_new_file(tmp_path: Path) -> None:
    """It is drawn by the images' paths in the folder, wherever that lies."""
    for root in (tmp_path / "a", tmp_path / "b"):
        for name in [f"{i % 4}/{i:03d}.png" for i in range(200)]:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (4, 4)).save(root / name)

    def held(root: Path, **fields: int) -> set[str]:
        return set(names(Features().open(spec(root, **fields)).test.paths, root))

    before = held(tmp_path / "a")
    assert len(before) == 20
    assert held(tmp_path / "b") == before != held(tmp_path / "a", split_seed=1)
    Image.new("RGB", (4, 4)).save(tmp_path / "a" / "0" / "new.png")
    assert len(held(tmp_path / "a") & before) >= 19
