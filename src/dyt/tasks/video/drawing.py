"""What `dyt predict` tells and draws of clips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from dyt.core.route import activation_rate
from dyt.measure.activity import patch_maps, routes_of
from dyt.measure.frames import rates_by_frame
from dyt.measure.plots import activity_picture, save_figure
from dyt.model.dynamic import DynamicModel
from dyt.tasks.base import Answer, Task, stems
from dyt.tasks.layouts import files as split_of
from dyt.tasks.preparation import Preparation
from dyt.tasks.video.clips import Clips
from dyt.tasks.video.spec import VideoSpec


@torch.no_grad()
def drawn(
    task: Task,
    model: DynamicModel,
    spec: VideoSpec,
    files: Sequence[Path],
    classes: Sequence[str],
    out: Path,
    top: int,
) -> list[Answer]:
    """A picture <stem>_activity.png in `out` for each file; of each the classes, probabilities, active share by frame.

    In `data`: `top`, so many of `class` and `probability`, `active_rate` and `active_rates`, the latter by frame.
    """
    out.mkdir(parents=True, exist_ok=True)
    preparation, device = Preparation.of(model.backbone, spec.size), next(model.parameters()).device
    split = split_of("clips", files, [0] * len(files))
    views = Clips(split, spec, preparation, training=False)
    single = Clips(split, spec, preparation, training=False, single=True)
    sites = [site.name for site in model.sites]
    answers = []
    for i, (file, stem) in enumerate(zip(files, stems(files), strict=True)):
        inputs = preparation.normalized(views.viewed(i).to(device)).unsqueeze(0)
        chances = task.infer(model, inputs, spec).float().softmax(-1)[0]
        best = [(classes[k], float(chances[k])) for k in chances.topk(top).indices.tolist()]
        frames = single.viewed(i)
        routes = routes_of(model, preparation.normalized(frames.to(device)).unsqueeze(0))
        active, patches = activation_rate(routes)
        shares = rates_by_frame(routes, len(frames)).mean(0).tolist()
        named = "  ".join(f"{name} {chance:.1%}" for name, chance in best)
        data = {
            "clip": str(file),
            "top": [{"class": name, "probability": chance} for name, chance in best],
            "active_rate": float(active / patches),
            "active_rates": shares,
        }
        if sites:
            figure = activity_picture(
                frames.float() / 255,
                patch_maps(routes, preparation.size),
                sites,
                [f"frame {k + 1}\n{share:.0%}" for k, share in enumerate(shares)],
                f"{file.name}: {named}",
            )
            save_figure(figure, out / f"{stem}_activity.png", 120)
            data["picture"] = str(out / f"{stem}_activity.png")
        by_frame = " ".join(f"{share:.2f}" for share in shares)
        answers.append(Answer(f"{file}: {named}  (active {data['active_rate']:.2f}; by frame {by_frame})", data))
    return answers
