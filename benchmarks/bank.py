"""A bank of tasks, a model for each task, and one model whose task is swapped: `python benchmarks/bank.py`.

A batch has images of all tasks in turns. The bank runs it at once; the others run image by image, since each image has
another task. Swapping copies a task's tensors into the model before each image. All have random weights, and adapters
of d = 8. Times are of paired turns; the memory is that of the parameters.
"""

from __future__ import annotations

import argparse
import copy
import os

import timm
import torch

import dyt
from dyt.measure import paired
from dyt.model.tensors import put, stored

BANK, SEPARATE, SWAPPED = "bank, one batch", "a model for each task", "one model, swapped"


def main() -> None:
    """Prints speed for one batch, and memory for 1, 10 and 100 tasks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="vit_tiny_patch16_224")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    plain = timm.create_model(options.backbone, num_classes=0).eval()
    bank, models = dyt.Bank(plain), {}
    for number in range(options.tasks):
        backbone = copy.deepcopy(plain)
        backbone.reset_classifier(100)
        spec = {"backbone": {"name": options.backbone}, "adapter": {"dim": 8}, "head": {"num_classes": 100}}
        model = dyt.build(spec, backbone=backbone).eval()
        for site in model.sites:
            torch.nn.init.normal_(site.dispatcher.router.weight, std=0.05)
            torch.nn.init.normal_(site.adapter.up.weight, std=0.02)
        models[f"task{number}"] = model
        bank.add(f"task{number}", model)
    images = torch.randn(options.batch, 3, 224, 224)
    names = [f"task{i % options.tasks}" for i in range(options.batch)]
    swapped = copy.deepcopy(next(iter(models.values())))
    states = {name: {k: t.detach().clone() for k, t in stored(model).items()} for name, model in models.items()}

    def separate() -> list[torch.Tensor]:
        return [models[name](image[None])[0] for image, name in zip(images, names, strict=True)]

    def swapping() -> list[torch.Tensor]:
        out = []
        for image, name in zip(images, names, strict=True):
            put(swapped, states[name])
            out.append(swapped(image[None])[0])
        return out

    with torch.no_grad():
        apart = max(
            float((a - b).abs().max())
            for each in (separate(), swapping())
            for a, b in zip(bank(images, names), each, strict=True)
        )
        found = paired({BANK: lambda: bank(images, names), SEPARATE: separate, SWAPPED: swapping}, options.pairs)
    print(f"{options.backbone}, batch {options.batch} of {options.tasks} tasks, {torch.get_num_threads()} threads")
    print(f"torch {torch.__version__}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"largest difference of logits: {apart:.1e}")
    for name in (SEPARATE, SWAPPED):
        print(f"the bank's throughput over '{name}': {found.speedup(BANK, over=name)}")
    own = sum(t.numel() * t.element_size() for t in states["task0"].values())
    frozen = sum(t.numel() * t.element_size() for t in plain.parameters())
    for count in (1, 10, 100):
        print(
            f"{count:3d} tasks: bank {(frozen + count * own) / 2**20:.0f} MiB, of it tasks "
            f"{count * own / frozen:.1%} of the backbone; models {count * (frozen + own) / 2**20:.0f} MiB"
        )


if __name__ == "__main__":
    main()
