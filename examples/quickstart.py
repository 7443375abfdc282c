"""Build a dynamic model, record its decisions, force other decisions, and count what it computes.

    python examples/quickstart.py

Weights and images are random, so that it runs without a network. With `"weights": "pretrained"` and images of your own
the rest stays the same.
"""

import torch

import dyt

SPEC = {
    "backbone": {"name": "vit_tiny_patch16_224", "weights": "none"},
    "head": {"num_classes": 10},
    "adapter": {"type": "bottleneck", "dim": 8},
    "objective": {"rate": 0.5},
}


def main() -> None:
    torch.manual_seed(0)
    model = dyt.build(SPEC).eval()
    images = torch.randn(2, 3, 224, 224)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    print(f"{trained:,} of {sum(p.numel() for p in model.parameters()):,} parameters are trained")

    with torch.no_grad(), dyt.record(model) as routes:
        logits = model(images)
    print("logits", tuple(logits.shape))
    for route in routes:
        active = route.active[:, route.prefix :].float().mean(1)
        print(f"{route.site:14} active patches of each image: {', '.join(f'{rate:.2f}' for rate in active)}")

    # Masks of your own instead of the dispatchers' masks: the left half of the 14 x 14 patches, and the class token.
    left = torch.zeros(14, 14, dtype=torch.bool)
    left[:, :7] = True
    mask = torch.cat([torch.ones(1, dtype=torch.bool), left.flatten()]).expand(len(images), -1)
    with torch.no_grad(), dyt.forced(model, [mask] * len(model.sites)):
        sparse = model(images)  # in eval mode only the active tokens are computed
        with dyt.execution(model, "masked"):
            masked = model(images)  # every token is computed and multiplied by the mask
        print(f"masked and sparse differ by {(masked - sparse).abs().max():.1e}")
        half = dyt.count_macs(model, images)
    with dyt.execution(model, "complete"):
        whole = dyt.count_macs(model, images)
    print(f"GMACs of an image: {half[0] / 1e9:.3f} with the left half, {whole[0] / 1e9:.3f} with every token")


if __name__ == "__main__":
    main()
