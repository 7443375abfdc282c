"""Every public function takes a model inside whatever a user wraps it in; what holds none, or several, is refused."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

import dyt
from dyt.io.export import program
from dyt.measure import frame_rates, routes_of, site_rates, token_counts
from dyt.model.dynamic import dynamic_of
from dyt.train import calibrate_thresholds, evaluate, start_routers, token_importance
from laws.models import tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(3)


@pytest.fixture(scope="module")
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A group of this process alone."""
    store = f"file://{tmp_path_factory.mktemp('group') / 'store'}"
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()


class Holder(nn.Module):
    """A user's own module."""

    def __init__(self, *models: nn.Module) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, images: Tensor) -> Any:
        return self.models[0](images)


def compiled(model: nn.Module) -> nn.Module:
    torch.compiler.reset()
    made: nn.Module = torch.compile(model, backend="eager")
    return made


def sharded(model: nn.Module) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (1,))
    for block in dynamic_of(model).backbone.blocks:
        fully_shard(block, mesh=mesh)
    return fully_shard(model, mesh=mesh)


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "ddp": DistributedDataParallel,
    "data_parallel": nn.DataParallel,
    "step": dyt.TuningStep,
    "averaged": AveragedModel,
    "ema": ModelEmaV3,
    "compiled": compiled,
    "sharded": sharded,
    "ddp_of_step": lambda model: DistributedDataParallel(dyt.TuningStep(model)),
    "holder": Holder,
}
wrapped = pytest.mark.parametrize("name", WRAPPERS)
pytestmark = pytest.mark.usefixtures("_group")


def call(holder: nn.Module, images: Tensor) -> Any:
    """What the holder runs; of a step, whose call is another, its model."""
    runs = any(isinstance(module, dyt.TuningStep) for module in holder.modules())
    return dynamic_of(holder)(images) if runs else holder(images)


@wrapped
def test_contexts_reach_the_model_inside(name: str) -> None:
    model = tiny({"depth": 1})
    holder = WRAPPERS[name](copy.deepcopy(model)).eval()
    inside = dynamic_of(holder)
    with torch.no_grad(), dyt.record(model) as expected:
        model(IMAGES)
    with torch.no_grad(), dyt.record(holder) as routes:
        call(holder, IMAGES)
    assert [r.site for r in routes] == [r.site for r in expected]
    with torch.no_grad(), dyt.execution(model, "complete"), dyt.execution(holder, "complete"):
        torch.testing.assert_close(inside(IMAGES), model(IMAGES))
    masks = [torch.ones_like(route.active) for route in expected]
    with torch.no_grad(), dyt.forced(holder, masks), dyt.record(holder) as routes:
        inside(IMAGES)
    assert all(bool(route.active.all()) for route in routes)


@wrapped
def test_counts_are_those_of_the_model_inside(name: str) -> None:
    model = tiny()
    holder = WRAPPERS[name](copy.deepcopy(model)).eval()
    assert dyt.count_macs(holder, IMAGES).tolist() == dyt.count_macs(model, IMAGES).tolist()


@wrapped
@pytest.mark.parametrize("trainable", ["adapters", "full"])
def test_files_are_those_of_the_model_inside(name: str, trainable: str, tmp_path: Path) -> None:
    """Their checksum is of all tensors and metadata, the frozen backbone's fingerprint among them."""
    model, found = tiny(trainable=trainable), {}
    for file, holder in {"plain": model, "held": WRAPPERS[name](copy.deepcopy(model))}.items():
        path = tmp_path / f"{file}.safetensors"
        dyt.save(holder, path)
        with safe_open(path, "pt") as opened:
            found[file] = opened.metadata()
    assert found["held"] == found["plain"]


@wrapped
def test_what_measures_and_calibrates_takes_a_held_model(name: str) -> None:
    model = tiny()
    holder = WRAPPERS[name](copy.deepcopy(model)).eval()
    assert token_counts(holder, IMAGES[:1]) == token_counts(model, IMAGES[:1])
    assert site_rates(holder, [IMAGES]) == site_rates(model, [IMAGES])
    assert len(routes_of(holder, IMAGES)) == len(model.sites)
    assert dyt.calibrate_capacity(holder, [IMAGES]) == dyt.calibrate_capacity(model, [IMAGES])
    assert calibrate_thresholds(holder, [IMAGES], 0.5) == calibrate_thresholds(model, [IMAGES], 0.5)
    assert evaluate(holder, [(IMAGES, LABELS)]).images == 3


@pytest.mark.parametrize("name", ["compiled", "ddp_of_step"])
def test_what_rewrites_takes_a_held_model(name: str) -> None:
    model = tiny({"depth": 1})
    holder = WRAPPERS[name](copy.deepcopy(model)).eval()
    with torch.no_grad():
        torch.testing.assert_close(dyt.optimize(holder)(IMAGES), model(IMAGES), atol=1e-5, rtol=1e-5)
    assert len(program(holder, IMAGES).graph.nodes)
    assert len(dyt.calibrate_break_even(holder, IMAGES[:1], batch_sizes=[1]).sites) == len(model.sites)
    routes, found = token_importance(holder, IMAGES, 1, torch.Generator().manual_seed(0))
    assert len(routes) == len(found) == len(model.sites)
    assert set(start_routers(holder, [IMAGES], 0.5)) == {site.name for site in model.sites}


def test_a_sharded_model_is_refused_where_its_weights_are_read_whole() -> None:
    model = sharded(tiny())
    for refused in (
        dyt.optimize,
        dyt.quantize,
        lambda m: dyt.calibrate_break_even(m, IMAGES),
        lambda m: program(m, IMAGES),
    ):
        with pytest.raises(dyt.UnsupportedError, match="is sharded over ranks"):
            refused(model)


@pytest.mark.parametrize("name", ["averaged", "ema", "sharded", "holder", "step"])
def test_a_step_of_what_merely_holds_a_model_is_one_of_the_model_inside(name: str) -> None:
    model = tiny({"depth": 1})
    holder = WRAPPERS[name](copy.deepcopy(model))
    torch.manual_seed(0)
    loss, _ = dyt.TuningStep(holder)(IMAGES, LABELS)
    torch.manual_seed(0)
    torch.testing.assert_close(loss, dyt.TuningStep(model)(IMAGES, LABELS)[0])


@pytest.mark.parametrize("name", ["ddp", "data_parallel", "compiled"])
def test_a_step_inside_what_runs_the_model_is_refused(name: str) -> None:
    """Gradients would not be summed over the ranks, the compiled code not run, and nothing would say so."""
    with pytest.raises(dyt.DyTError, match="wrap the step"):
        dyt.TuningStep(WRAPPERS[name](tiny()))


def test_replicas_in_threads_are_refused_by_contexts() -> None:
    holder = nn.DataParallel(tiny())
    holder.device_ids = [0, 1]
    with pytest.raises(dyt.DyTError, match="threads"), dyt.record(holder):
        pass


def test_flat_shards_are_refused(tmp_path: Path) -> None:
    class Flat(Holder):
        _fsdp_wrapped_module = None

    with pytest.raises(dyt.UnsupportedError, match="flat shards"):
        dyt.save(Flat(tiny()), tmp_path / "x.safetensors")


def test_a_model_compiled_in_place_is_counted_uncompiled() -> None:
    model = tiny()
    expected = dyt.count_macs(model, IMAGES)
    torch.compiler.reset()
    model.compile(backend="eager")
    assert dyt.count_macs(model, IMAGES).tolist() == expected.tolist()


def test_the_first_model_ema_is_no_module() -> None:
    from timm.utils import ModelEma

    model = tiny()
    assert dynamic_of(ModelEma(model)).spec == model.spec


ASKED: dict[str, Callable[[Any], Any]] = {
    "record": lambda m: dyt.record(m).__enter__(),
    "forced": lambda m: dyt.forced(m, []).__enter__(),
    "execution": lambda m: dyt.execution(m, "masked").__enter__(),
    "save": lambda m: dyt.save(m, "x.safetensors"),
    "count_macs": lambda m: dyt.count_macs(m, IMAGES),
    "calibrate_break_even": lambda m: dyt.calibrate_break_even(m, IMAGES),
    "calibrate_capacity": lambda m: dyt.calibrate_capacity(m, [IMAGES]),
    "calibrate_thresholds": lambda m: calibrate_thresholds(m, [IMAGES], 0.5),
    "optimize": dyt.optimize,
    "quantize": dyt.quantize,
    "step": dyt.TuningStep,
    "program": lambda m: program(m, IMAGES),
    "routes_of": lambda m: routes_of(m, IMAGES),
    "frame_rates": lambda m: frame_rates(m, [IMAGES[:, None]]),
    "evaluate": lambda m: evaluate(m, []),
    "start_routers": lambda m: start_routers(m, [IMAGES], 0.5),
}


@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize(
    ("given", "said"),
    [(nn.Linear(2, 2), "Linear that holds no DynamicModel"), ("model.safetensors", "given a str"), (None, "NoneType")],
    ids=["module", "path", "none"],
)
def test_anything_else_is_refused_in_a_line(asked: str, given: Any, said: str) -> None:
    with pytest.raises(dyt.DyTError, match=said) as error:
        ASKED[asked](given)
    assert "allowed: a DynamicModel" in str(error.value)
    assert "\n" not in str(error.value)


def test_two_models_are_named() -> None:
    two = Holder(tiny(), tiny())
    with pytest.raises(dyt.DyTError, match=r"holds 2 models \(models.0, models.1\)"), dyt.record(two):
        pass
