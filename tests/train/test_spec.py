"""Run specs, recipes, parameter groups, schedules and the order of images."""

import json
from pathlib import Path

import pytest

from dyt.config.files import dump_yaml, parse_yaml
from dyt.config.spec import parse
from dyt.errors import SpecError
from dyt.train import RunSpec, TrainSpec, optim, recipe, recipes
from dyt.train.named_runs import with_preset
from dyt.train.randomness import derived, epoch_batches, permutation

from .test_calibrate import model

TABLES = Path(__file__).parents[3] / "shared" / "paper" / "tables.json"


@pytest.mark.parametrize("name", recipes())
def test_recipes_are_whole_but_for_the_data_s_place(name: str) -> None:
    run = parse(RunSpec, {**recipe(name), "data": {**recipe(name)["data"], "root": "x"}})
    assert parse(RunSpec, parse_yaml(dump_yaml(run.model_dump(mode="json")))) == run
    recipe(name)["train"]["epochs"] = -1
    assert recipe(name)["train"]["epochs"] > 0


@pytest.mark.skipif(not TABLES.is_file(), reason="the paper's tables are not beside this checkout (../shared/paper)")
@pytest.mark.parametrize(("name", "table"), [("vtab1k", "vtab1k"), ("images", "images_full")])
def test_the_paper_s_recipes_are_the_paper_s(name: str, table: str) -> None:
    paper, train = json.loads(TABLES.read_text())["training_settings"][table], recipe(name)["train"]
    assert train["lr"] == paper.get("lr", paper.get("base_lr"))
    assert (train.get("lr_rule") == "batch256") == ("lr_rule" in paper)
    assert recipe(name)["model"]["adapter"]["dim"] == paper["bottleneck"]
    assert train["batch_size"] == paper["batch"]
    for field in ("epochs", "optimizer", "weight_decay", "warmup_epochs"):
        assert train[field] == paper[field]


def test_an_unknown_recipe_is_answered_with_the_nearest() -> None:
    with pytest.raises(SpecError, match="did you mean 'vtab1k'"):
        recipe("vtab")


@pytest.mark.parametrize("name", ["default", "one_rate"])
def test_a_preset_takes_the_place_of_the_remedies(name: str) -> None:
    plain = with_preset({**recipe(name), "data": {"root": "x"}}, "dyt_vtab")
    run = parse(RunSpec, plain)
    assert run.model.objective.asked is None
    assert (run.model.stand_in, run.train.stand_in_start, run.train.budgets) == (None, "zero", False)
    assert run.model.objective.rate_weight == 2.0
    assert dict(run.model.dispatcher)["bias"] == 0.0
    assert (run.train.router_lr_scale, run.train.router_start, run.train.calibrate) == (1.0, "random", False)
    assert run.train.adapter_lr_scale == recipe("default")["train"]["adapter_lr_scale"]  # adapters are there in both
    assert run.train.epochs == recipe("default")["train"]["epochs"]
    with pytest.raises(SpecError, match="no preset 'dty'"):
        with_preset({}, "dty")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adamv"}, "did you mean 'adam"),
        ({"epochs": 3, "warmup_epochs": 3}, r"warmup_epochs \(3\) must be below epochs \(3\)"),
        ({"mixup": 1.0, "batch_size": 6, "accumulate": 2}, "even"),
        ({"epoch": 3}, "did you mean 'epochs'"),
    ],
)
def test_a_wrong_spec_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        parse(TrainSpec, fields)


def test_groups_scale_and_decay_as_asked(weights: Path) -> None:
    tuned = model(weights)
    trainable = {id(p) for p in tuned.parameters() if p.requires_grad}
    all_decayed = optim.groups(tuned, TrainSpec(router_lr_scale=10, router_weight_decay=0.5))
    assert {id(p) for group in all_decayed for p in group["params"]} == trainable
    assert sum(len(group["params"]) for group in all_decayed) == len(trainable)
    routers = [group for group in all_decayed if group["lr_scale"] == 10]
    assert [group["weight_decay"] for group in routers] == [0.5]
    assert {id(p) for p in routers[0]["params"]} == {id(p) for s in tuned.sites for p in s.dispatcher.parameters()}
    spared = [group for group in optim.groups(tuned, TrainSpec(decay_all=False)) if not group["weight_decay"]]
    assert spared
    assert all(p.ndim == 1 for group in spared for p in group["params"])


def test_the_schedule_warms_up_from_zero_and_falls_as_a_cosine(weights: Path) -> None:
    spec = TrainSpec(epochs=4, warmup_epochs=1, lr=1.0, router_lr_scale=3.0)
    optimizer = optim.optimizer(model(weights), spec)
    schedule = optim.scheduler(optimizer, spec, steps_per_epoch=10)
    seen = []
    for step in range(41):
        schedule.step_update(step)
        rates = {group["lr_scale"]: group["lr"] for group in optimizer.param_groups}
        assert rates[3.0] == pytest.approx(3 * rates[1.0])
        seen.append(rates[1.0])
    assert seen[:11] == pytest.approx([i / 10 for i in range(11)])
    assert seen[25] == pytest.approx(0.5)
    assert seen[40] == pytest.approx(0.0)


def test_the_learning_rate_rule() -> None:
    assert TrainSpec(lr=0.001, batch_size=1024, lr_rule="batch256").peak_lr == pytest.approx(0.004)


def test_an_epoch_is_a_permutation_shared_among_processes_and_parts() -> None:
    whole = list(epoch_batches(21, 8, seed=3, epoch=1))
    assert [len(batch) for batch in whole] == [8, 8]
    assert len({i for batch in whole for i, _ in batch}) == 16
    shared = [list(epoch_batches(21, 8, 3, 1, parts=2, rank=rank, world=2)) for rank in (0, 1)]
    for step in (0, 1):
        together = [pair for part in (0, 1) for rank in (0, 1) for pair in shared[rank][2 * step + part]]
        assert together == whole[step]
    assert list(epoch_batches(21, 8, 3, 1, start=1)) == whole[1:]
    assert list(epoch_batches(21, 8, 3, 2)) != whole


def test_seeds_depend_on_every_part_and_their_order() -> None:
    assert len({derived(1, 2), derived(2, 1), derived(1, 2, 0), derived("1", 2)}) == 4
    assert sorted(permutation(10, 1)) == list(range(10))
