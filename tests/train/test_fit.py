"""`fit`: what a run leaves behind, that it learns, and what it refuses."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

import dyt
from dyt.config.files import dump_yaml, read
from dyt.errors import DyTError, SpecError
from dyt.objective.shared_prefix import Passes
from dyt.tasks.images import ImageError
from dyt.train import Result, RunError, evaluate, fit, loop, optim
from dyt.train.accelerator import forget_accelerator
from dyt.train.batches import Batch, Batches
from dyt.train.saved import open_saved
from dyt.train.state import differences

from .conftest import ARGS, NAME, Runs, draw, tensors


def test_a_run_learns_and_leaves_everything(runs: Runs, weights: Path, tmp_path: Path) -> None:
    run = runs(train={"epochs": 8, "eval_every": 4})
    result = fit(run, tmp_path, progress=False)
    assert result.test.accuracy == 1.0
    assert result.test.images == 9
    assert result == Result.read(tmp_path / "result.json")
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == list(range(1, 9))
    assert rows[-1]["cls"] < rows[0]["cls"] / 2
    assert [row["epoch"] for row in rows if "test" in row] == [4]
    assert (tmp_path / "classes.txt").read_text().split() == ["blue", "green", "red"]
    assert not (tmp_path / "resume.safetensors").exists()
    assert read(tmp_path / "run.yaml")["model"]["head"]["num_classes"] == 3
    assert dyt.load(tmp_path / "model.safetensors", trust_paths=[weights]).num_classes == 3
    assert any((tmp_path / "tensorboard").iterdir())
    assert result.training_rates.keys() == result.test.active_rates.keys() == {"blocks.0.mlp", "blocks.1.mlp"}
    assert result.trainable - result.trainable_without_head == 3 * 32 + 3
    assert result.test.gmacs < result.test.gmacs_complete


def test_the_backbone_stays_frozen_and_the_caller_s_generator_untouched(
    runs: Runs, weights: Path, tmp_path: Path
) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    fit(runs(train={"epochs": 1}), tmp_path, progress=False)
    assert torch.rand(1) == expected
    dyt.load(tmp_path / "model.safetensors", trust_paths=[weights])  # checks the hash of the frozen backbone


def test_a_run_on_random_weights_leaves_a_file_that_can_be_used(runs: Runs, tmp_path: Path) -> None:
    run = runs(train={"epochs": 1}, backbone={"name": NAME, "weights": "none", "args": ARGS})
    result = fit(run, tmp_path, progress=False)
    saved = open_saved(tmp_path / "model.safetensors")
    split = saved.split(saved.spec(None), None)
    report = evaluate(saved.model, saved.batches(saved.spec(None), split, range(len(split))), classes=saved.names)
    assert report == result.test


def test_a_run_trains_and_keeps_modules_to_save(runs: Runs, weights: Path, tmp_path: Path) -> None:
    fit(runs(train={"epochs": 1}, modules_to_save=["norm"]), tmp_path, progress=False)
    kept = load_file(tmp_path / "model.safetensors")["backbone.norm.weight"]
    assert not torch.equal(kept, torch.ones_like(kept))
    assert torch.equal(dyt.load(tmp_path / "model.safetensors", trust_paths=[weights]).backbone.norm.weight, kept)


def test_what_could_not_be_saved_is_not_trained(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def built(spec: dyt.DyTSpec) -> dyt.DynamicModel:
        model = dyt.build(spec)
        model.backbone.blocks[0].mlp.act = torch.nn.ReLU()
        return model

    monkeypatch.setattr(loop, "build", built)
    with pytest.raises(RunError, match=r"could not be saved after training: backbone\.blocks\.0\.mlp\.act is a ReLU"):
        fit(runs(), tmp_path, progress=False)
    assert not (tmp_path / "metrics.jsonl").exists()


def test_the_same_seed_gives_the_same_model_and_another_seed_another(runs: Runs, tmp_path: Path) -> None:
    models = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        fit(runs(train={"epochs": 1, "seed": seed}), tmp_path / name, progress=False)
        models.append(tensors(tmp_path / name / "model.safetensors"))
    assert models[0] == models[1] != models[2]


def test_the_complete_pass_follows_the_number_of_the_step(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser's steps 0 and 2 of three have it, in both parts that they are made of."""
    made: list[Passes] = []
    passes: list[int] = []
    original = Passes.__call__

    def counted(self: Passes, count: int | None = None) -> torch.Tensor:
        made.extend([self] if self not in made else [])
        passes.append(made.index(self))
        return original(self, count)

    monkeypatch.setattr(Passes, "__call__", counted)
    fit(runs(train={"epochs": 1, "accumulate": 2}, objective={"complete_every": 2}), tmp_path, progress=False)
    assert passes == [0, 0, 1, 1, 2, 3, 4, 4, 5, 5]


def test_a_finished_run_is_read_and_not_repeated(runs: Runs, tmp_path: Path) -> None:
    first = fit(runs(train={"epochs": 1}), tmp_path, progress=False)
    before = (tmp_path / "model.safetensors").stat().st_mtime_ns
    assert fit(runs(train={"epochs": 1}), tmp_path, progress=False) == first
    assert (tmp_path / "model.safetensors").stat().st_mtime_ns == before


def test_another_run_in_the_same_place_is_refused_with_what_differs_unless_fresh(runs: Runs, tmp_path: Path) -> None:
    fit(runs(train={"epochs": 1}), tmp_path, progress=False)
    other = runs(train={"epochs": 1, "lr": 0.5})
    with pytest.raises(RunError, match=r"train\.lr was 0\.01, is 0\.5"):
        fit(other, tmp_path, progress=False)
    fit(other, tmp_path, progress=False, resume=False)
    assert read(tmp_path / "run.yaml")["train"]["lr"] == 0.5
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 1


def test_fields_that_change_nothing_may_differ() -> None:
    assert not differences({"data": {"workers": 0, "cache": None}}, {"data": {"workers": 4, "cache": False}})
    assert differences({"data": {"size": 1}}, {"data": {}}) == ["data.size was 1, is None"]


def test_a_directory_with_a_model_but_no_run_is_refused(runs: Runs, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(RunError, match=r"no run\.yaml"):
        fit(runs(), tmp_path, progress=False)
    assert (tmp_path / "model.safetensors").read_bytes() == b"precious"


def test_a_run_that_was_refused_leaves_room_for_the_corrected_one(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(SpecError):
        fit(runs(train={"batch_size": 64}), tmp_path, progress=False)
    fit(runs(train={"batch_size": 24, "epochs": 1}), tmp_path, progress=False)
    assert read(tmp_path / "run.yaml")["train"]["batch_size"] == 24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": {"num_classes": 7}}, "num_classes is 7, but the data has 3 classes"),
        ({"train": {"batch_size": 64}}, "batch_size is 64, but the training split has 24 images"),
        ({"train": {"batch_size": 8, "accumulate": 3}}, "does not divide"),
        ({"train": {"precision": "fp16"}}, "fp16"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    runs: Runs, tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    if "fp16" in message and torch.accelerator.is_available():
        pytest.skip("fp16 is refused on the CPU only")
    with pytest.raises(SpecError, match=message):
        fit(runs(**changes), tmp_path, progress=False)  # type: ignore[arg-type]


def test_a_given_number_of_classes_that_matches_is_fine(runs: Runs, tmp_path: Path) -> None:
    fit(runs(head={"num_classes": 3}, train={"epochs": 1}), tmp_path, progress=False)


def test_a_broken_image_is_named_before_training(runs: Runs, tmp_path: Path) -> None:
    root = draw(tmp_path / "images", {"train": 4, "test": 1})
    broken = root / "train" / "red" / "0.png"
    broken.write_bytes(broken.read_bytes()[:100])
    with pytest.raises(ImageError, match=r"red/0\.png"):
        fit(runs(data={"root": str(root)}), tmp_path / "out", progress=False)
    assert not (tmp_path / "out" / "metrics.jsonl").read_text()


def test_a_loss_that_is_not_finite_stops_the_run(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match=r"the loss is not finite at step 2 of 9 \(epoch 1\); no state .* saved yet; lower train\.lr"
    ):
        fit(runs(train={"lr": 1e18, "epochs": 3}), tmp_path, progress=False)


STATIC = {"rate": 1.0, "rate_weight": 0.0, "complete": 0.0, "distill": 0.0}


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"precision": "bf16"}},
        {"train": {"accumulate": 2, "clip": 1.0, "label_smoothing": 0.1}},
        {"train": {"mixup": 0.8, "cutmix": 1.0}, "data": {"augment": "timm", "auto_augment": "rand-m9-mstd0.5"}},
        {"train": {"optimizer": "sgd", "schedule": "constant", "decay_all": False, "grad_checkpointing": True}},
        {"train": {"warmup_epochs": 0.5, "lr_rule": "batch256", "lr": 0.3}, "data": {"augment": "crop", "workers": 1}},
        {"dispatcher": "always", "adapter": "none", "objective": STATIC},
        {"dispatcher": "random"},
        {"trainable": "full"},
    ],
    ids=str,
)
def test_every_option_trains(runs: Runs, weights: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """The training loss falls, and images that were not trained on are told: three of nine would be, by chance."""
    train = {"epochs": 8, **changes.get("train", {})}
    result = fit(runs(**{**changes, "train": train}), tmp_path, progress=False)
    losses = [json.loads(line)["cls"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1] < 0.8 * losses[0]
    assert result.test.accuracy >= 7 / 9
    assert dyt.load(tmp_path / "model.safetensors", trust_paths=[weights]).num_classes == 3


def test_gradients_are_clipped_over_all_parts_of_a_step(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a norm that none of them has by itself; without `clip` they are what they are."""
    original, norms = optim.optimizer, []

    def watched(*given: Any) -> torch.optim.Optimizer:
        optimizer = original(*given)

        def note(optimizer: torch.optim.Optimizer, *_: object) -> None:
            found = [p.grad.norm() for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norms.append(float(torch.stack(found).norm()))

        optimizer.register_step_pre_hook(note)
        return optimizer

    monkeypatch.setattr(optim, "optimizer", watched)
    clipping, clipped = loop.Accelerator.clip_grad_norm_, []

    def once(*given: Any) -> Any:
        clipped.append(1)
        return clipping(*given)

    monkeypatch.setattr(loop.Accelerator, "clip_grad_norm_", once)
    for clip, parts in ((None, 2), (1e-3, 1), (1e-3, 2)):
        norms.clear()
        clipped.clear()
        train = {"epochs": 1, "accumulate": parts, "clip": clip}
        fit(runs(train=train), tmp_path / f"{clip} {parts}", progress=False)
        assert len(norms) == 3
        assert len(clipped) == (0 if clip is None else 3)  # once a step, and not at each of its parts
        if clip is None:
            assert min(norms) > 0.01
        else:
            assert norms == pytest.approx([clip] * 3, rel=1e-2)


def test_a_step_s_noise_is_another_in_each_step_and_part(runs: Runs) -> None:
    """What mixes is so on each rank as well; what the forward draws is alike there, and divided (`dyt.core.draws`)."""
    inference = SimpleNamespace(
        run=runs(),
        normalized=lambda images: images,
        task=SimpleNamespace(to=lambda labels, device: labels),
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )

    def noise(rank: int, step: int = 0, part: int = 0) -> list[float]:
        batches = Batches(inference, lambda images, labels: (images + torch.rand(3), labels), rank)  # type: ignore[arg-type]
        images, _ = batches.prepared(Batch(torch.zeros(3), torch.zeros(3)), step, part)
        return [*images.tolist(), *torch.rand(3).tolist()]

    assert noise(0) == noise(0)
    drawn = [noise(0), noise(1), noise(2), noise(0, step=1), noise(0, part=1), noise(1, step=1)]
    for place in range(3):
        assert len({each[place] for each in drawn}) == len(drawn)
    assert noise(0)[3:] == noise(1)[3:] == noise(2)[3:]
    drawn = [noise(0), noise(0, step=1), noise(0, part=1)]
    for place in range(3, 6):
        assert len({each[place] for each in drawn}) == len(drawn)


def test_a_run_draws_with_its_own_rank(runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Made(Exception):  # noqa: N818
        pass

    def made(inference: object, targets: object, rank: int) -> None:
        raise Made(rank)

    monkeypatch.setattr(loop, "Batches", made)
    monkeypatch.setattr(loop.Accelerator, "process_index", 3)
    with pytest.raises(Made) as caught:
        fit(runs(), tmp_path, progress=False)
    assert caught.value.args == (3,)


def test_a_run_from_before_a_field_was_there_is_the_same_run(runs: Runs, tmp_path: Path) -> None:
    run = runs(train={"epochs": 1})
    first = fit(run, tmp_path, progress=False)
    stored = read(tmp_path / "run.yaml")
    del stored["model"]["head"]["type"], stored["data"]["task"]
    (tmp_path / "run.yaml").write_text(dump_yaml(stored))
    assert fit(run, tmp_path, progress=False) == first
    stored["train"]["epochs"] = 0  # no run any more, and told as it is written
    (tmp_path / "run.yaml").write_text(dump_yaml(stored))
    with pytest.raises(RunError, match=r"train\.epochs was 0, is 1"):
        fit(run, tmp_path, progress=False)


def test_a_linear_probe_runs_no_complete_pass_and_keeps_no_graph(
    runs: Runs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[bool] = []

    def spy(module: torch.nn.Module, args: object, out: torch.Tensor) -> None:
        graphs.append(out.requires_grad)

    hooked = dyt.build

    def build(spec: object) -> dyt.DynamicModel:
        model = hooked(spec)  # type: ignore[arg-type]
        model.backbone.blocks[-1].register_forward_hook(spy)
        return model

    monkeypatch.setattr("dyt.train.loop.build", build)
    fit(runs(dispatcher="always", adapter="none", objective=STATIC, train={"epochs": 1}), tmp_path, progress=False)
    training, evaluation = 3, 1 + 1 + 1 + 2 + 2  # steps; batches and what counting costs
    assert not any(graphs)
    assert training + 1 <= len(graphs) <= training + evaluation


def test_calibration_brings_inference_to_the_asked_rate(runs: Runs, weights: Path, tmp_path: Path) -> None:
    plain = fit(runs(), tmp_path / "plain", progress=False)
    result = fit(runs(train={"calibrate": True}), tmp_path / "calibrated", progress=False)
    assert plain.calibrated_rate is None
    assert result.calibrated_rate == pytest.approx(0.5, abs=0.03)
    assert result.test.active_rate == pytest.approx(0.5, abs=0.12)
    thresholds = {
        float(site.threshold)
        for site in dyt.load(tmp_path / "calibrated" / "model.safetensors", trust_paths=[weights]).sites
    }
    assert len(thresholds) == 1
    assert thresholds != {0.0}


def test_calibration_brings_each_layer_to_its_own_rate(runs: Runs, weights: Path, tmp_path: Path) -> None:
    asked = {"objective": {"layer_rates": [0.75, 0.25]}, "train": {"epochs": 1, "calibrate": True}}
    result = fit(runs(**asked), tmp_path, progress=False)
    assert result.calibrated_rate == pytest.approx(0.5, abs=0.03)
    first, second = result.test.active_rates.values()
    assert (first, second) == pytest.approx((0.75, 0.25), abs=0.12)
    assert (
        len({float(site.threshold) for site in dyt.load(tmp_path / "model.safetensors", trust_paths=[weights]).sites})
        == 2
    )


def test_calibration_without_logits_is_refused(runs: Runs, tmp_path: Path) -> None:
    with pytest.raises(DyTError, match=r"blocks\.0\.mlp.*scores no tokens"):
        fit(runs(dispatcher="random", train={"epochs": 1, "calibrate": True}), tmp_path, progress=False)


def test_accelerate_still_has_the_private_reset_that_runs_of_another_precision_need() -> None:
    """`AcceleratorState._reset_state`, for which accelerate has no public name."""
    missing = "accelerate has no AcceleratorState._reset_state any more; see forget_accelerator in train/accelerator.py"
    assert callable(getattr(AcceleratorState, "_reset_state", None)), missing
    forget_accelerator()
    Accelerator(cpu=True, mixed_precision="no")
    with pytest.raises(ValueError, match="mixed_precision"):
        Accelerator(cpu=True, mixed_precision="bf16")  # what it is for: without this refusal it can go
    forget_accelerator()
    assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    forget_accelerator()
