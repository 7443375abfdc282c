"""Prints the resident memory of this process after 10 and after 70 forwards with random routes, in MiB."""

import resource
import sys
from pathlib import Path

import torch

import dyt

SIZE = {"img_size": 56, "patch_size": 4, "embed_dim": 32, "mlp_ratio": 24.0, "depth": 2, "num_heads": 1}
"""Where most of the work is in wide MLPs."""
BATCH, EARLY, LATE = 32, 10, 70


def resident() -> float:
    """In MiB, at present; where the system does not tell, the most so far."""
    told = Path("/proc/self/statm")
    if told.exists():
        return int(told.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    torch.manual_seed(0)
    backbone = {"name": "vit_tiny_patch16_224", "weights": "none", "args": SIZE}
    model = dyt.build({"backbone": backbone, "head": {"num_classes": 5}, "adapter": {"type": "none"}}).eval()
    x = torch.randn(BATCH, 3, 56, 56)
    found = []
    with torch.no_grad():
        for count in range(1, LATE + 1):
            masks = [torch.rand(BATCH, 197) < 0.3 + 0.4 * torch.rand(()) for _ in model.sites]
            for mask in masks:
                mask[:, 0] = True
            with dyt.forced(model, masks):
                model(x)
            if count in (EARLY, LATE):
                found.append(resident())
    print(*found)


if __name__ == "__main__":
    main()
