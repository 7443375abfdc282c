#!/usr/bin/env python3
"""Pretrain the small vision transformer that ships with ``dyt demo``.

The demo fine-tunes on scikit-learn's handwritten digits, offline, so its backbone has to come with the package and has
to be pretrained on data that anybody can have. This script draws that data itself: letters and symbols (no digits) of
the DejaVu and STIX fonts that matplotlib bundles, warped, thickened, blurred and mostly reduced to 8x8 pixels and
enlarged again, as the digits are. A plain timm ViT learns to name the glyph; its weights without the head are what
ships.

Font licences (the full texts lie next to the fonts in ``matplotlib.get_data_path()/fonts/ttf``):

* DejaVu: Bitstream Vera / Arev licence, DejaVu changes in the public domain (``LICENSE_DEJAVU``).
* STIX: SIL Open Font License 1.1 (``LICENSE_STIX``).

Train, continue after an interruption, measure, look at the data::

    python scripts/pretrain_demo_backbone.py --steps 1700 --out src/dyt/demo/glyphs_vit.safetensors
    python scripts/pretrain_demo_backbone.py --steps 1700 --out src/dyt/demo/glyphs_vit.safetensors --resume
    python scripts/pretrain_demo_backbone.py --out src/dyt/demo/glyphs_vit.safetensors --evaluate
    python scripts/pretrain_demo_backbone.py --preview glyphs.png
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import PIL
import timm
import torch
import torch.nn.functional as F
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from tqdm import tqdm

MODEL_NAME = "vit_tiny_patch16_224"
MODEL_ARGS: dict[str, int] = {"img_size": 32, "patch_size": 4, "embed_dim": 96, "depth": 6, "num_heads": 3}
MEAN, STD = 0.5, 0.5

# One representative per shape: after rescaling, "c" is "C" and Greek "Alpha" is Latin "A", so such twins are left out.
# So are the digits and the letters drawn almost like one (Cyrillic ze, che and soft sign, Armenian yi, Georgian vin and
# kan, Latin small l, O with stroke, ...): the demo is a transfer to classes the backbone was never asked to name.
ALPHABETS: dict[str, str] = {
    "latin_upper": "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "latin_lower": "abdefghijmnqrty",
    "latin_other": "ÆŒþðŁ",
    "greek": "ΓΔΛΞΠΣΦΨΩαβγδεζηλμξπσφω",
    "cyrillic": "БДЖИЛЦШЪЫЭЮЯЉЊЂ",
    "armenian": "ԱԲԳԴԵԸԹԽԾԿՂՄՆՇՋՎՏՔՖ",
    "georgian": "ბგდეთლმნოჟსტფქღშჩცწჭხჯჰ",
    "symbols": "?!&@#%$€£¥§¶∞∫√∂∇∀∃⊂→←↑↓⇒+×÷=≠≈<≤*~(){}[]/\\♠♣♥♪⊕∠∴ℵ℘",
}
CLASSES = "".join(ALPHABETS.values())

TRAIN_FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique",
    "DejaVuSansMono", "DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSansMono-BoldOblique",
    "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic",
    "STIXGeneral", "STIXGeneralItalic", "STIXGeneralBolIta",
)  # fmt: skip
# Never trained on. One italic and one upright face; between them they draw every class.
HELD_OUT_FACES = ("DejaVuSerif-BoldItalic", "STIXGeneralBol")

CANVAS = 64  # pixels of a bank glyph's square canvas
GLYPH_EXTENT = 48  # pixels of a bank glyph's longer side, leaving room for dilation and rotation
IMAGE = 32
LOW_RES = 8


@dataclass(frozen=True)
class GlyphBank:
    """Clean glyphs, rendered once.

    Attributes:
        images: ``(G, 1, 64, 64)`` uint8, bright ink on black.
        labels: ``(G,)`` int64 index into ``CLASSES``.
        by_class: ``(K, M)`` int64 bank rows of each class, repeated cyclically to the common width ``M``.
        class_counts: ``(K,)`` int64 number of distinct rows of each class; 0 where no face draws it.
    """

    images: Tensor
    labels: Tensor
    by_class: Tensor
    class_counts: Tensor


def render_glyph(char: str, path: Path) -> Tensor:
    """Draw one character, cropped to its ink and centred with its longer side at ``GLYPH_EXTENT``.

    Returns:
        ``(64, 64)`` uint8.
    """
    font = ImageFont.truetype(str(path), 96)
    page = Image.new("L", (320, 320))
    ImageDraw.Draw(page).text((80, 80), char, fill=255, font=font)
    box = page.getbbox()
    if box is None:
        raise ValueError(f"{path.name} draws nothing for {char!r}")
    ink = page.crop(box)
    scale = GLYPH_EXTENT / max(ink.size)
    size = (max(1, round(ink.width * scale)), max(1, round(ink.height * scale)))
    canvas = Image.new("L", (CANVAS, CANVAS))
    canvas.paste(ink.resize(size, Image.Resampling.LANCZOS), ((CANVAS - size[0]) // 2, (CANVAS - size[1]) // 2))
    return torch.from_numpy(np.array(canvas))


def build_bank(faces: tuple[str, ...]) -> GlyphBank:
    """Render every class in every face that has it."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    images: list[Tensor] = []
    labels: list[int] = []
    for face in faces:
        path = folder / f"{face}.ttf"
        covered = FT2Font(str(path)).get_charmap()
        for label, char in enumerate(CLASSES):
            if ord(char) in covered:
                images.append(render_glyph(char, path))
                labels.append(label)
    label_tensor = torch.tensor(labels)
    counts = torch.bincount(label_tensor, minlength=len(CLASSES))
    width = int(counts.max())
    by_class = torch.zeros(len(CLASSES), width, dtype=torch.long)
    for label in range(len(CLASSES)):
        rows = (label_tensor == label).nonzero().flatten()
        if len(rows):
            by_class[label] = rows.repeat(math.ceil(width / len(rows)))[:width]
    return GlyphBank(torch.stack(images)[:, None], label_tensor, by_class, counts)


def uniform(shape: tuple[int, ...], low: float, high: float, generator: torch.Generator) -> Tensor:
    """Uniform random tensor of ``shape`` in ``[low, high)``."""
    return torch.rand(shape, generator=generator) * (high - low) + low


def sampling_grid(batch: int, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Random affine map with a smooth displacement on top, both scaled by ``strength``.

    Returns:
        ``(B, 32, 32, 2)`` grid for ``grid_sample`` over a bank canvas.
    """
    angle = uniform((batch,), -0.35, 0.35, generator) * strength
    shear = uniform((batch,), -0.35, 0.35, generator) * strength
    # The grid maps output to input: ink filling a fraction f of the image needs a step of (ink extent in the bank) / f.
    step = (GLYPH_EXTENT / CANVAS) / (0.9 + uniform((batch,), -0.18, 0.18, generator) * strength)
    # Handwriting is narrower than print: the digits fill their height and two thirds of their width.
    stretch = torch.exp(0.12 + uniform((batch,), -0.28, 0.28, generator) * strength)
    step_x, step_y = step * stretch, step / stretch
    shift = uniform((batch, 2), -0.1, 0.1, generator) * strength
    cos, sin = angle.cos(), angle.sin()
    theta = torch.stack(
        [
            torch.stack([step_x * (cos - shear * sin), step_x * (sin + shear * cos), shift[:, 0]], dim=-1),
            torch.stack([-step_y * sin, step_y * cos, shift[:, 1]], dim=-1),
        ],
        dim=1,
    )
    grid = F.affine_grid(theta, [batch, 1, IMAGE, IMAGE], align_corners=False)
    bend = torch.randn((batch, 2, 4, 4), generator=generator) * uniform((batch, 1, 1, 1), 0.0, 0.12, generator)
    bend = F.interpolate(bend, size=IMAGE, mode="bicubic", align_corners=False)
    return grid + strength * bend.permute(0, 2, 3, 1)


def change_stroke(x: Tensor, generator: torch.Generator) -> Tensor:
    """Thicken or thin the strokes by a random fraction of a pixel. ``(B, 1, 32, 32)`` to the same shape."""
    amount = uniform((len(x), 1, 1, 1), -0.3, 1.5, generator)
    thick = F.max_pool2d(x, 3, stride=1, padding=1)
    thicker = F.max_pool2d(thick, 3, stride=1, padding=1)
    thin = -F.max_pool2d(-x, 3, stride=1, padding=1)
    grown = torch.lerp(x, thick, amount.clamp(0, 1)) + (amount - 1).clamp(min=0) * (thicker - thick)
    return torch.where(amount > 0, grown, torch.lerp(x, thin, (-amount).clamp(0, 1)))


def blur(x: Tensor, generator: torch.Generator) -> Tensor:
    """Separable 3-tap blur of random strength per image. ``(B, 1, 32, 32)`` to the same shape."""
    side = uniform((len(x), 1, 1, 1), 0.0, 0.33, generator)
    for dim in (2, 3):
        x = (1 - 2 * side) * x + side * (x.roll(1, dim) + x.roll(-1, dim))
    return x


def reduce_and_enlarge(x: Tensor, generator: torch.Generator) -> Tensor:
    """What the digits went through: ink counted in 4x4 blocks, 17 grey levels, then enlarged. ``(B, 1, 32, 32)``."""
    low = F.avg_pool2d(x, IMAGE // LOW_RES)
    low = low / low.amax(dim=(1, 2, 3), keepdim=True).clamp(min=0.3) * uniform((len(x), 1, 1, 1), 0.8, 1.15, generator)
    low = low + torch.randn(low.shape, generator=generator) * uniform((len(x), 1, 1, 1), 0.0, 0.05, generator)
    low = (low.clamp(0, 1) * 16).round() / 16
    cut = int(len(x) * 0.8)  # the rest enlarged bilinearly, so that nothing hangs on the bicubic kernel's overshoot
    bicubic = F.interpolate(low[:cut], size=IMAGE, mode="bicubic", align_corners=False)
    bilinear = F.interpolate(low[cut:], size=IMAGE, mode="bilinear", align_corners=False)
    return torch.cat([bicubic, bilinear])


def augment(glyphs: Tensor, generator: torch.Generator, strength: float = 1.0, low_res_share: float = 0.8) -> Tensor:
    """Turn clean glyphs into training images.

    Args:
        glyphs: ``(B, 1, 64, 64)`` uint8. The order must be random: parts of the batch are treated by position.
        generator: source of all randomness.
        strength: scale of the geometric distortion, 0 to 1.
        low_res_share: share of the batch that is reduced to 8x8 and enlarged again.

    Returns:
        ``(B, 3, 32, 32)`` float32 in ``[-1, 1]``, bright ink on dark.
    """
    x = F.grid_sample(glyphs.float() / 255, sampling_grid(len(glyphs), generator, strength), align_corners=False)
    x = change_stroke(x, generator)
    # Hairlines come out of the resampling grey, but the digits were counted from black-and-white scans.
    x = ((x - 0.5) * uniform((len(x), 1, 1, 1), 1.5, 4.0, generator) + 0.6).clamp(0, 1)
    cut = int(len(x) * low_res_share)
    sharp = blur(x[cut:], generator)
    sharp = sharp + torch.randn(sharp.shape, generator=generator) * uniform((len(sharp), 1, 1, 1), 0, 0.08, generator)
    x = torch.cat([reduce_and_enlarge(x[:cut], generator), sharp])
    x = x * uniform((len(x), 1, 1, 1), 0.85, 1.1, generator) + uniform((len(x), 1, 1, 1), -0.03, 0.03, generator)
    return ((x.clamp(0, 1) - MEAN) / STD).expand(-1, 3, -1, -1)


def draw_batch(bank: GlyphBank, batch: int, generator: torch.Generator, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Random classes, then a random face of each: classes that few fonts have are seen as often as the others.

    Returns:
        Images ``(B, 3, 32, 32)`` float32 and labels ``(B,)`` int64.
    """
    present = bank.class_counts.nonzero().flatten()
    labels = present[torch.randint(len(present), (batch,), generator=generator)]
    column = (torch.rand(batch, generator=generator) * bank.class_counts[labels]).long()
    return augment(bank.images[bank.by_class[labels, column]], generator, strength), labels


def load_digits_images() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits as the demo sees them: images ``(1797, 3, 32, 32)`` in ``[-1, 1]``, labels ``(1797,)``."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.from_numpy(digits.images).float()[:, None] / 16
    x = F.interpolate(x, size=IMAGE, mode="bicubic", align_corners=False).clamp(0, 1)
    return ((x - MEAN) / STD).expand(-1, 3, -1, -1), torch.from_numpy(digits.target).long()


def create_backbone(num_classes: int, patch_drop: float = 0.0) -> nn.Module:
    """The shipped architecture; ``num_classes=0`` gives it without head."""
    return timm.create_model(MODEL_NAME, num_classes=num_classes, patch_drop_rate=patch_drop, **MODEL_ARGS)


@torch.no_grad()
def initialise(model: nn.Module) -> None:
    """Start the short run well, in place.

    timm's normal(0.02) is made for wide models and long runs: at width 96 it leaves attention uniform and the loss on
    a plateau for hundreds of steps. Xavier weights and sine-cosine positions (still learned) get off it at once.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight.view(len(module.weight), -1))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.normal_(model.head.weight, std=0.02)
    nn.init.normal_(model.cls_token, std=0.2)
    side, dim = MODEL_ARGS["img_size"] // MODEL_ARGS["patch_size"], MODEL_ARGS["embed_dim"]
    frequency = math.pi / side * 2.0 ** torch.linspace(-1, 2.5, dim // 4)  # from half a period to five over the image
    wave = torch.arange(side)[:, None] * frequency
    axis = torch.cat([wave.sin(), wave.cos()], dim=1)  # (side, dim / 2)
    rows, columns = axis[:, None].expand(-1, side, -1), axis[None].expand(side, -1, -1)
    model.pos_embed.zero_()
    model.pos_embed[0, 1:] = torch.cat([rows, columns], dim=-1).reshape(side * side, dim)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay matrices only: shrinking biases, norms, the class token or positions brings nothing."""
    decay, keep = [], []
    for name, parameter in model.named_parameters():
        plain = parameter.ndim < 2 or name in {"pos_embed", "cls_token"}
        (keep if plain else decay).append(parameter)
    return [{"params": decay, "weight_decay": weight_decay}, {"params": keep, "weight_decay": 0.0}]


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Linear warm-up, constant, and a linear cool-down to 1 % of the peak over the last ``--cooldown`` steps.

    Not a cosine: until the cool-down nothing depends on ``--steps``, so a run can be made longer or shorter on the way.
    """
    rise = min(1.0, (step + 1) / args.warmup)
    fall = min(1.0, max(0.01, (args.steps - step) / max(1, args.cooldown)))
    return float(args.lr * rise * fall)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write beside, then rename: an interruption while writing must not cost the last good checkpoint."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    torch.save(state, partial)
    partial.replace(path)


def export(model: nn.Module, args: argparse.Namespace, seconds: float) -> None:
    """Write the backbone without head as float32 safetensors under timm's key names."""
    tensors = {k: v.detach().float().contiguous() for k, v in model.state_dict().items() if not k.startswith("head.")}
    metadata = {
        "format": "pt",
        "timm_model": MODEL_NAME,
        "timm_args": json.dumps(MODEL_ARGS | {"num_classes": 0}),
        "mean": str(MEAN),
        "std": str(STD),
        "steps": str(args.steps),
        "batch_size": str(args.batch_size),
        "seed": str(args.seed),
        "train_seconds": str(round(seconds)),
        "num_glyph_classes": str(len(CLASSES)),
        "classes": CLASSES,
        "train_faces": json.dumps(TRAIN_FACES),
        "licence": "Apache-2.0",
        "fonts_licence": "DejaVu: Bitstream Vera and Arev licences; STIX: SIL OFL 1.1 (both bundled with matplotlib)",
        "made_by": "scripts/pretrain_demo_backbone.py",
        "versions": json.dumps(
            {
                "torch": str(torch.__version__),
                "timm": timm.__version__,
                "matplotlib": matplotlib.__version__,
                "pillow": PIL.__version__,
            }
        ),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, args.out, metadata=metadata)
    args.out.chmod(0o644)  # safetensors writes it readable by its owner only, and it is to be packaged
    print(f"wrote {args.out} ({args.out.stat().st_size / 1e6:.2f} MB)")


def start_run(args: argparse.Namespace) -> tuple[nn.Module, torch.optim.Optimizer, int, float]:
    """Model, optimiser, steps done and seconds spent so far, new or from ``--checkpoint`` with ``--resume``."""
    torch.manual_seed(args.seed)
    model = create_backbone(len(CLASSES), args.patch_drop)
    initialise(model)
    optimizer = torch.optim.AdamW(parameter_groups(model, args.weight_decay), lr=args.lr, betas=(0.9, 0.98))
    if not args.resume:
        return model, optimizer, 0, 0.0
    state = torch.load(args.checkpoint, weights_only=True)
    if state["run"] != run_settings(args):
        raise SystemExit(f"{args.checkpoint} belongs to another run: {state['run']}, not {run_settings(args)}")
    if state["steps"] != args.steps and state["step"] > min(state["steps"], args.steps) - args.cooldown:
        raise SystemExit(f"too late to change --steps: the cool-down was to begin before step {state['step']}")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return model, optimizer, state["step"], state["seconds"]


def run_settings(args: argparse.Namespace) -> dict[str, int | float]:
    """What a resumed run must share with the run it goes on from; ``--steps`` may change before the cool-down."""
    names = ("batch_size", "lr", "weight_decay", "patch_drop", "ramp", "cooldown", "warmup", "seed")
    return {name: getattr(args, name) for name in names}


def step_batch(bank: GlyphBank, args: argparse.Namespace, step: int) -> tuple[Tensor, Tensor]:
    """The batch of one step, images ``(B, 3, 32, 32)`` and labels ``(B,)``; also seeds torch for the step.

    Everything random in a step follows from ``(seed, step)``, so a resumed run sees what an unbroken one sees.
    """
    torch.manual_seed(args.seed * 1_000_003 + step)
    generator = torch.Generator().manual_seed(args.seed * 1_000_003 + step)
    # Straight glyphs first: on fully distorted ones the loss stays near chance for a good part of a short run.
    strength = min(1.0, 0.2 + 0.8 * step / max(1, args.ramp))
    return draw_batch(bank, args.batch_size, generator, strength)


def train(args: argparse.Namespace) -> None:
    """Train, with a checkpoint every ``--checkpoint-every`` steps and on Ctrl-C, and export the backbone at the end."""
    model, optimizer, step, seconds = start_run(args)
    bank = build_bank(TRAIN_FACES)
    print(
        f"{len(CLASSES)} classes, {len(bank.images)} clean glyphs from {len(TRAIN_FACES)} faces, "
        f"{sum(p.numel() for p in model.parameters()):,} parameters"
    )

    def snapshot() -> None:
        elapsed = seconds + time.perf_counter() - start
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "seconds": elapsed}
        save_checkpoint(args.checkpoint, state | {"run": run_settings(args), "steps": args.steps})

    model.train()
    start = time.perf_counter()
    loss_mean, accuracy_mean = math.log(len(CLASSES)), 0.0
    bar = tqdm(total=args.steps, initial=step, mininterval=args.log_interval, smoothing=0.05)
    try:
        while step < args.steps:
            images, labels = step_batch(bank, args, step)
            if args.patch_drop:
                # Fewer tokens, more steps in the same time; the cool-down gets used to whole images.
                model.patch_drop.prob = args.patch_drop if step < args.steps - args.cooldown else 0.0
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, args)
            logits = model(images)
            loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            step += 1
            loss_mean += 0.03 * (loss.item() - loss_mean)
            accuracy_mean += 0.03 * ((logits.argmax(1) == labels).float().mean().item() - accuracy_mean)
            bar.set_postfix(loss=f"{loss_mean:.3f}", accuracy=f"{accuracy_mean:.3f}", refresh=False)
            bar.update()
            if step % args.checkpoint_every == 0:
                snapshot()
    except KeyboardInterrupt:
        snapshot()
        raise SystemExit(f"\nstopped after {step} steps; go on with --resume") from None
    finally:
        bar.close()
    snapshot()
    seconds += time.perf_counter() - start
    print(f"trained {step} steps of {args.batch_size} in {seconds:.0f} s")
    export(model, args, seconds)


@torch.no_grad()
def glyph_accuracy(model: nn.Module, bank: GlyphBank, seed: int, batches: int = 16, batch: int = 256) -> float:
    """Top-1 accuracy over freshly drawn images of ``bank``."""
    generator = torch.Generator().manual_seed(seed)
    right = 0
    for _ in range(batches):
        images, labels = draw_batch(bank, batch, generator)
        right += int((model(images).argmax(1) == labels).sum())
    return right / (batches * batch)


@torch.no_grad()
def class_token_features(model: nn.Module, images: Tensor) -> np.ndarray:
    """Class token after the last norm. ``(N, 3, 32, 32)`` to ``(N, 96)``."""
    return torch.cat([model.forward_features(part)[:, 0] for part in images.split(256)]).numpy()


def linear_probe(features: np.ndarray, labels: np.ndarray) -> float:
    """Test accuracy of logistic regression on standardised features: 1000 images to fit, 797 to test, fixed split."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    parts = train_test_split(features, labels, train_size=1000, stratify=labels, random_state=0)
    train_x, test_x, train_y, test_y = parts
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    return float(probe.fit(train_x, train_y).score(test_x, test_y))


def evaluate(args: argparse.Namespace) -> None:
    """Print the figures of the model card."""
    backbone = create_backbone(0).eval()
    weights = load_file(args.out)
    backbone.load_state_dict(weights)

    # The asset has no head, so naming glyphs takes the checkpoint of the run that made it.
    if args.checkpoint.is_file():
        state = torch.load(args.checkpoint, weights_only=True)["model"]
        if not all(torch.equal(state[key], value) for key, value in weights.items()):
            raise SystemExit(f"{args.checkpoint} is not the checkpoint {args.out} was exported from")
        classifier = create_backbone(len(CLASSES)).eval()
        classifier.load_state_dict(state)
        for title, faces in (("training faces, new draws", TRAIN_FACES), ("held-out faces", HELD_OUT_FACES)):
            bank = build_bank(faces)
            accuracy = glyph_accuracy(classifier, bank, seed=987_654_321)
            present = int((bank.class_counts > 0).sum())
            print(f"glyph accuracy, {title}: {accuracy:.4f} (4096 images, {present} of {len(CLASSES)} classes)")
    else:
        print(f"glyph accuracy: skipped, no checkpoint with the head at {args.checkpoint}")

    images, labels = load_digits_images()
    target = labels.numpy()
    print(f"digits linear probe, pretrained: {linear_probe(class_token_features(backbone, images), target):.4f}")
    # Both untrained starts are shown, timm's own and the one this script trains from: they probe differently.
    for title, prepare in (("timm's", None), ("this script's", initialise)):
        scores = []
        for seed in range(5):
            torch.manual_seed(seed)
            untrained = create_backbone(len(CLASSES)).eval()
            if prepare is not None:
                prepare(untrained)
            scores.append(linear_probe(class_token_features(untrained, images), target))
        listed = ", ".join(f"{score:.4f}" for score in scores)
        print(f"digits linear probe, random init ({title}): mean {np.mean(scores):.4f} of 5 seeds ({listed})")
    pixels = F.avg_pool2d(images[:, 0], IMAGE // LOW_RES).flatten(1).numpy()
    print(f"digits linear probe, 8x8 pixels for comparison: {linear_probe(pixels, target):.4f}")


def preview(path: Path, seed: int) -> None:
    """Write a sheet: training images above, upscaled digits in the lowest five rows."""
    glyphs, _ = draw_batch(build_bank(TRAIN_FACES), 24 * 15, torch.Generator().manual_seed(seed))
    order = torch.randperm(len(glyphs), generator=torch.Generator().manual_seed(seed))
    sheet = torch.cat([glyphs[order], load_digits_images()[0][: 24 * 5]])[:, 0]
    rows = sheet.reshape(20, 24, IMAGE, IMAGE).permute(0, 2, 1, 3).reshape(20 * IMAGE, 24 * IMAGE)
    Image.fromarray(((rows * STD + MEAN) * 255).round().byte().numpy()).resize((24 * 48, 20 * 48)).save(path)
    print(f"wrote {path}")


def parse_args() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("src/dyt/demo/glyphs_vit.safetensors"))
    parser.add_argument("--steps", type=int, default=1700)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--warmup", type=int, default=80, help="warm-up steps")
    parser.add_argument("--patch-drop", type=float, default=0.25, help="share of patch tokens left out at first")
    parser.add_argument("--ramp", type=int, default=500, help="steps until full distortion")
    parser.add_argument("--cooldown", type=int, default=220, help="last steps: falling learning rate, all tokens")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--log-interval", type=float, default=1.0, help="least seconds between progress updates")
    parser.add_argument("--checkpoint", type=Path, default=Path(tempfile.gettempdir()) / "dyt-glyphs-vit.pt")
    parser.add_argument("--checkpoint-every", type=int, default=100)
    parser.add_argument("--resume", action="store_true", help="go on from --checkpoint")
    parser.add_argument("--evaluate", action="store_true", help="print the figures of the model card and stop")
    parser.add_argument("--preview", type=Path, help="write a PNG sheet of training images and stop")
    return parser.parse_args()


def main() -> None:
    """Entry point."""
    args = parse_args()
    torch.set_num_threads(args.threads)
    if args.preview:
        preview(args.preview, args.seed)
    elif args.evaluate:
        evaluate(args)
    else:
        train(args)


if __name__ == "__main__":
    main()
