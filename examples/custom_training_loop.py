"""`TuningStep` in a plain PyTorch loop, on the demo's handwritten digits: no trainer, no data framework.

    python examples/custom_training_loop.py --epochs 4

The backbone is the small one that ships with the package, pretrained on rendered letters. It stays frozen; adapters,
dispatchers and head are trained. The schedules are those of a short run: the noise fades out, and the target rate falls
from all tokens to half. `--parts 4` runs each step in four parts, to save memory, with the same loss.
"""

import argparse

import torch
from torch import Tensor

import dyt
from dyt.demo.digits import LEVELS, load_digits
from dyt.demo.runs import shipped

SPEC = {
    "backbone": shipped(),
    "head": {"num_classes": 10},
    "dispatcher": {"type": "learned", "noise": {"start": 1.0, "end": 0.0, "until": 0.6}, "bias": 3.0},
    "adapter": {"type": "bottleneck", "dim": 8},
    "objective": {"rate": 0.5, "rate_weight": 30.0, "asked": {"start": 1.0, "until": 0.5}},
}
LR = 2e-3


def digits() -> tuple[Tensor, Tensor]:
    """(1797, 3, 32, 32) float32 around 0, (1797,) int64."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / (LEVELS / 2) - 1
    enlarged = torch.nn.functional.interpolate(images, size=32, mode="bicubic").expand(-1, 3, -1, -1)
    return enlarged, torch.tensor(data.labels, dtype=torch.int64)


def evaluate(model: dyt.DynamicModel, images: Tensor, labels: Tensor) -> tuple[float, float]:
    """(accuracy, activation rate), both at inference."""
    model.eval()
    with torch.no_grad(), dyt.record(model) as routes:
        accuracy = (model(images).argmax(1) == labels).float().mean().item()
    rate = torch.stack([route.active[:, route.prefix :].float().mean() for route in routes]).mean().item()
    return accuracy, rate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--parts", type=int, default=1, help="split a step into so many parts, to save memory")
    parser.add_argument("--train-images", type=int, default=512)
    args = parser.parse_args()

    torch.manual_seed(0)
    images, labels = digits()
    order = torch.randperm(len(images))
    train, test = order[: args.train_images], order[args.train_images :][:256]

    model = dyt.build(SPEC)
    step = dyt.TuningStep(model)
    routers = [p for site in model.sites for p in site.dispatcher.parameters()]
    others = [p for p in model.parameters() if p.requires_grad and all(p is not router for router in routers)]
    groups = [{"params": others}, {"params": routers, "lr": 10 * LR}]  # few steps: the routers have to move fast
    optimizer = torch.optim.AdamW(groups, lr=LR, weight_decay=0.01)
    total = args.epochs * (len(train) // args.batch_size)
    done = 0
    for epoch in range(args.epochs):
        step.train()
        for batch in train[torch.randperm(len(train))].split(args.batch_size):
            if len(batch) < args.batch_size:
                continue
            pieces = [(images[piece], labels[piece]) for piece in batch.chunk(args.parts)]
            optimizer.zero_grad()
            with step.accumulating([piece for piece, _ in pieces], progress=done / total):
                for piece, wanted in pieces:
                    loss, parts = step(piece, wanted)
                    (loss / args.parts).backward()
            optimizer.step()
            done += 1
        accuracy, rate = evaluate(model, images[test], labels[test])
        print(
            f"epoch {epoch + 1}: loss {loss.item():.3f}, active in training {parts['active_rate'].item():.2f}, "
            f"at inference {rate:.2f}, test accuracy {accuracy:.3f}"
        )


if __name__ == "__main__":
    main()
