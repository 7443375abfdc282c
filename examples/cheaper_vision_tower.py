"""Make the vision tower of a model of images and text cheaper, on images without labels, and put nothing in its place.

`dyt.build(..., backbone=tower)` changes the tower's layers where they stand, so that the model around it runs as
before: shapes and the places of tokens are the same. Here a small LLaVA with random weights and random images, so that
nothing is downloaded; give your own model and images in their place:

    python examples/cheaper_vision_tower.py --steps 60
"""

import argparse

import torch
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

import dyt
from dyt.core.route import activation_rate
from dyt.train import start_routers, start_stand_ins

IMAGE = 9  # the token that stands for a patch in the text
SPEC = {
    "head": {"type": "tokens"},  # the tower's own final tokens, held to the untouched tower's
    "dispatcher": {"type": "learned", "noise": 0.0},
    "adapter": {"type": "bottleneck", "dim": 8},
    "stand_in": {"type": "low_rank", "dim": 8},
    "objective": {
        "rate": 0.5,
        **{"rate_weight": 0.0, "complete": 0.0, "distill": 0.0, "control": "threshold"},
        **{"features": 1.0, "teacher": "pretrained", "router_gradient": "none"},
    },
}


def llava() -> LlavaForConditionalGeneration:
    """A small one with random weights; 16 patches an image."""
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
    vision = CLIPVisionConfig(image_size=32, patch_size=8, projection_dim=32, **size)
    text = LlamaConfig(vocab_size=64, num_key_value_heads=2, **size)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=IMAGE, image_seq_length=16)
    return LlavaForConditionalGeneration(config).eval()


def said(model: LlavaForConditionalGeneration, images: Tensor) -> list[list[int]]:
    """What it says of each image, greedily, as numbers of tokens."""
    words = torch.tensor([[1, *[IMAGE] * 16, 5, 6]]).repeat(len(images), 1)
    asked = {"input_ids": words, "pixel_values": images, "attention_mask": torch.ones_like(words)}
    made = model.generate(**asked, max_new_tokens=6, do_sample=False, pad_token_id=0)
    return made[:, words.shape[1] :].tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    steps = parser.parse_args().steps

    torch.manual_seed(0)
    model, images = llava(), torch.randn(64, 3, 32, 32)
    before = said(model, images[:8])

    tower = dyt.build(SPEC, backbone=model.model.vision_tower)
    with dyt.execution(tower, "complete"):
        print("with every token active, generate says the same:", said(model, images[:8]) == before)

    start_stand_ins(tower, [images])
    start_routers(tower, [images], rate=0.5)
    step, batches = dyt.TuningStep(tower).train(), torch.split(images, 16)
    optimizer = torch.optim.AdamW([p for p in tower.parameters() if p.requires_grad], lr=5e-3)
    for i in range(steps):
        loss, parts = step(batches[i % len(batches)], step=i)  # no labels
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if i % 20 == 0 or i == steps - 1:
            print(f"step {i}: distance to the untouched tower {parts['cls']:.3f}, active {parts['active_rate']:.2f}")

    tower.eval()
    with dyt.record(tower) as routes:
        after = said(model, images[:8])
    active, patches = activation_rate(routes)
    same = sum(a == b for a, b in zip(after, before, strict=True))
    print(f"generate with {active / patches:.0%} of the tokens active: {same} of {len(before)} answers are the same")


if __name__ == "__main__":
    main()
