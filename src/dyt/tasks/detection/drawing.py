"""What a detector found, drawn over the image, and the patches that it worked at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torchvision.transforms.v2 import functional as transforms
from torchvision.utils import draw_bounding_boxes, draw_segmentation_masks

from dyt.core.route import activation_rate
from dyt.measure import patch_maps
from dyt.measure.plots import activity_picture, as_rgb, save_figure
from dyt.model.dynamic import DynamicModel, record
from dyt.tasks.bands import open_picture, size_of, tensor_of
from dyt.tasks.base import Answer
from dyt.tasks.detection.examples import squared
from dyt.tasks.detection.metric import in_original, run_lengths
from dyt.tasks.images import save_image
from dyt.tasks.preparation import Preparation

SHOWN = 0.5
"""Score from which a detection is drawn and named."""
COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080", "#f032e6", "#9a6324", "#808000", "#000075")


@torch.no_grad()
def drawn(
    model: DynamicModel, preparation: Preparation, file: Path, classes: Sequence[str], out: Path, stem: str
) -> Answer:
    """Writes out/<stem>_objects.png (boxes, outlines, class and score) and out/<stem>_activity.png.

    Detections with a score from `SHOWN` are drawn and named; the answer's data has all.

    Raises:
        ImageError: a file that cannot be read.
    """
    image = open_picture(file, preparation.channels)
    height, width = size_of(image)
    device = next(model.parameters()).device
    square, scale = squared(image, preparation.size, preparation.colour)
    batch = preparation.normalized(square.unsqueeze(0).to(device))
    model.eval()
    with record(model) as routes:
        detections = model(batch)[0]
    detections = {name: value.cpu() for name, value in detections.items()}
    every = in_original(detections, {"size": torch.tensor([height, width]), "scale": scale})
    shown = {name: value[every["scores"] >= SHOWN] for name, value in every.items()}
    names = [
        f"{classes[k - 1]} {s:.2f}" for k, s in zip(shown["labels"].tolist(), shown["scores"].tolist(), strict=True)
    ]
    picture = as_rgb(tensor_of(image))
    if names:
        colours = [COLOURS[(k - 1) % len(COLOURS)] for k in shown["labels"].tolist()]
        if "masks" in shown:
            picture = draw_segmentation_masks(picture, shown["masks"], alpha=0.45, colors=colours)
        line = max(round(max(height, width) / 300), 1)
        picture = draw_bounding_boxes(picture, shown["boxes"], names, colours, width=line)
    out.mkdir(parents=True, exist_ok=True)
    objects_file = out / f"{stem}_objects.png"
    save_image(transforms.to_pil_image(picture), objects_file)
    data: dict[str, Any] = {
        "image": str(file),
        "boxes": every["boxes"].tolist(),
        "labels": [classes[k - 1] for k in every["labels"].tolist()],
        "scores": every["scores"].tolist(),
        "picture": str(objects_file),
    }
    if "masks" in every:
        codes = run_lengths(every["masks"])
        data["masks"] = [{"size": list(code["size"]), "counts": code["counts"].decode()} for code in codes]
    rate = ""
    if routes:
        active, patches = activation_rate(routes)
        data["active_rate"] = float(active / patches)
        rate = f"  (active {data['active_rate']:.2f})"
        maps = patch_maps(routes, preparation.size)
        figure = activity_picture(square.unsqueeze(0).float() / 255, maps, [site.name for site in model.sites])
        save_figure(figure, out / f"{stem}_activity.png")
    return Answer(f"{file}: {', '.join(names) or f'nothing with a score from {SHOWN}'}{rate}", data)
