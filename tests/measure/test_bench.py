"""The benchmark under a clock that each contender moves by what it computes; no wall clock."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import dyt
from dyt.core.breakeven import BreakEven
from dyt.core.route import Route
from dyt.errors import DyTError
from dyt.executors import Sparse
from dyt.inference.break_even import Calibration
from dyt.measure.activations import saved_bytes
from dyt.measure.bench import Bench, compare
from dyt.measure.contenders import DENSE, OPTIMISED, PEERS, PLAIN, contenders
from dyt.measure.latency import Comparison
from dyt.measure.plain import PlainGather
from dyt.measure.speed import over_activity, picture, table
from dyt.paper.speeds import PRINTED, beside_paper
from laws.models import tiny

IMAGES = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SECONDS = {DENSE: 2.0, "DyT, sparse": 1.0}
FEW = {"static adapter": "static_adapter", "merged LoRA": "lora", "VPT": "vpt"}


def timer(fns, pairs, warmup, progress):
    """Calls everything once and says that it took the seconds above."""
    for run in fns.values():
        run()
    return Comparison({name: (SECONDS.get(name, 4.0),) * pairs for name in fns})


@pytest.fixture(scope="module")
def found():
    return compare(tiny(), IMAGES, 0.5, pairs=6, executor_names=("sparse", "masked"), timer=timer)


def test_every_contender_is_there_and_says_what_it_computed(found):
    names = [row.name for row in found.rows]
    assert names == [DENSE, *PEERS, PLAIN, "DyT, sparse", "DyT, masked"]
    assert not found.left
    dense, sparse, plain = (found.row(name) for name in (DENSE, "DyT, sparse", PLAIN))
    assert (sparse.speedup.median, found.row("VPT").speedup.median, dense.speedup.median) == (2.0, 0.5, 1.0)
    assert sparse.active_rate == plain.active_rate == pytest.approx(0.5, abs=0.02)
    assert sparse.macs == plain.macs < dense.macs == found.row("merged LoRA").macs
    assert found.row("static adapter").macs > dense.macs
    assert found.row("ToMe").macs < dense.macs < found.row("VPT").macs
    assert dense.active_rate is found.row("static adapter").active_rate is None
    assert all(row.difference < 1e-5 for row in found.rows if row.name.startswith("DyT"))
    assert dense.difference is None


@pytest.mark.parametrize("head", ["query", "pixel"])
def test_the_dense_model_has_the_same_head(head):
    model = tiny(head={"type": head, "num_classes": 3}).eval()
    inputs = torch.randn(2, *model.head.input_shape((32, 32)), generator=torch.Generator().manual_seed(0))
    found = compare(model, inputs, 0.5, pairs=2, peers={"static adapter": "static_adapter"}, timer=timer)
    dense, static, sparse = (found.row(name) for name in (DENSE, "static adapter", "DyT, sparse"))
    assert dense.macs > sparse.macs
    assert static.macs > dense.macs
    assert sparse.active_rate == pytest.approx(0.5, abs=0.02)
    assert sparse.difference < 1e-5


def test_a_head_that_gives_no_tensor_is_refused():
    head = {"type": "faster_rcnn", "num_classes": 3, "channels": 8, "hidden": 16}
    model = tiny(head=head, objective={"complete": 0.0, "distill": 0.0})
    with pytest.raises(dyt.UnsupportedError, match="head 'faster_rcnn' gives something else"):
        compare(model, IMAGES, 0.5, pairs=1, peers={}, timer=timer)


def test_the_model_is_not_changed(found):
    model = tiny().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compare(model, IMAGES, 0.5, "bfloat16", pairs=1, peers={}, timer=timer)
    assert model.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_trained_model_s_routers_decide_without_a_rate():
    model = tiny()
    with torch.no_grad(), dyt.record(model) as routes:
        model(IMAGES)
    own = torch.stack([route.active[:, 1:].float().mean() for route in routes]).mean()
    found = compare(model, IMAGES, None, pairs=1, peers={}, timer=timer)
    assert "routers of a trained model" in found.masks
    assert found.row("DyT, sparse").active_rate == pytest.approx(own.item())


def test_rewrites_take_part_and_are_held_to_the_model_s_numbers():
    def broken(model):
        other = tiny()
        with torch.no_grad():
            other.backbone.head.bias.add_(100.0)
        return other

    found = compare(
        tiny(), IMAGES, pairs=1, peers={}, rewrites={"same": lambda model: model, "broken": broken}, timer=timer
    )
    assert found.row("same").difference < 1e-5
    assert found.row("broken").difference > 0.5


def test_a_peer_that_the_backbone_cannot_have_is_left_out_and_named():
    model = tiny({"global_pool": "avg", "class_token": False})
    _, left = contenders(model, peers={"EViT": "evit", "static adapter": "static_adapter"})
    assert list(left) == ["EViT"]
    assert "class token" in left["EViT"]


def test_unknown_executors_and_empty_batches_are_refused():
    with pytest.raises(DyTError, match="no executor 'spars'; did you mean 'sparse'"):
        contenders(tiny(), ("spars",))
    with pytest.raises(DyTError, match="at least one image"):
        compare(tiny(), IMAGES[:0])


def test_merged_lora_computes_what_it_did_and_has_no_matrices_of_its_own():
    model = tiny(tuner={"type": "lora", "rank": 2}).eval()
    with torch.no_grad():
        before = model(IMAGES)
        model.tuner.merge(model.backbone)
        torch.testing.assert_close(model(IMAGES), before)
    assert not [name for name in model.state_dict() if "lora" in name]


def test_plain_gather_equals_sparse():
    x, active = torch.randn(2, 5, 4), torch.rand(2, 5) < 0.5
    both = [one.pointwise(torch.tanh, x, Route(active, 0)) for one in (PlainGather(), Sparse())]
    torch.testing.assert_close(*both)
    with pytest.raises(DyTError, match="variant mlp"):
        PlainGather().mixing(lambda y, tokens: y, x, Route(active, 0))


def test_the_table_says_masks_work_and_load(found):
    text = "\n".join(table(found))
    assert "forced random masks of rate 0.5" in text
    assert "load" in text
    line = next(line for line in text.splitlines() if line.startswith("DyT, sparse"))
    assert "2.00 [2.00, 2.00]" in line
    assert "%" in line


def test_data_survives_json(found):
    assert Bench.of(json.loads(json.dumps(found.data()))) == found


def test_the_picture_has_a_panel_for_each_benchmark(found):
    figure = picture([found])
    assert isinstance(figure, Figure)
    assert [axes.get_title(loc="left") for axes in figure.axes] == [found.title]


def test_the_paper_s_tables_stand_beside_ours(found):
    lines = beside_paper(found)
    dyt_line = next(line for line in lines if "DyT, r = 0.5" in line)
    assert all(number in dyt_line for number in ("12.54", "1.13", "1.21", "1.83", "2.00 [2.00, 2.00]"))
    assert not any("DynamicViT" in line for line in lines)  # was not run


def test_printed_numbers_are_the_paper_s():
    file = Path(__file__).parents[3] / "shared" / "paper" / "tables.json"
    if not file.is_file():
        pytest.skip("the paper's tables are not at hand")
    tables = json.loads(file.read_text())
    four, five = (tables[name]["rows"] for name in ("table4_throughput_img_s", "table5_efficient_transformers"))
    assert [list(row)[1:] for row in four.values()] == [
        [p.gmacs, p.v100, p.t4, p.xeon] for p in PRINTED if p.table == 4
    ]
    assert [[row[1], row[3]] for row in five.values()] == [[p.gmacs, p.v100] for p in PRINTED if p.table == 5]


def test_saved_bytes_counts_each_storage_once_and_no_parameter():
    linear = torch.nn.Linear(4, 8)
    x = torch.randn(2, 4, requires_grad=True)
    assert saved_bytes(lambda: linear(x), linear) == 2 * 4 * 4  # x; the weight is the module's
    assert saved_bytes(lambda: (linear(x), linear(x)), linear) == 2 * 4 * 4
    with torch.no_grad():
        assert saved_bytes(lambda: linear(x), linear) == 0


def test_speed_over_activity_has_a_line_for_each_optimised_model():
    names = (OPTIMISED, f"{OPTIMISED}, calibrated")
    rewrites = dict.fromkeys(names, dyt.optimize)
    found = [
        compare(tiny(), IMAGES, rate, pairs=6, executor_names=(), peers={}, rewrites=rewrites, timer=timer)
        for rate in (1.0, 0.0)
    ]
    figure = over_activity(found)
    (axes,) = figure.axes
    work, models = axes.lines[1], [container.lines[0] for container in axes.containers]
    assert list(work.get_xdata()) == [0.0, 1.0]
    assert list(work.get_ydata()) == sorted(work.get_ydata(), reverse=True)
    assert work.get_ydata()[0] > 1
    for line in models:
        assert list(line.get_xdata()) == [0.0, 1.0]
        assert list(line.get_ydata()) == [0.5, 0.5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["work saved, all of it", *names]
    with pytest.raises(DyTError, match="no points"):
        over_activity([])


@pytest.fixture
def sweep(monkeypatch):
    spec = importlib.util.spec_from_file_location("sweep", Path(__file__).parents[2] / "benchmarks" / "sweep.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(__import__("sys").modules, "sweep", module)
    spec.loader.exec_module(module)
    return module


def test_a_sweep_goes_on_where_it_stopped(sweep, found, tmp_path, monkeypatch, capsys):
    asked = []

    def measured(point, options):
        asked.append((point.batch, point.dtype))
        if len(asked) == 3:
            raise KeyboardInterrupt
        return found

    monkeypatch.setattr(sweep, "measured", measured)
    file = tmp_path / "sweep.jsonl"
    args = [str(file), "--backbones", "vit_small_patch16_224", "--batches", "8", "1", "--modes", "eager"]
    with pytest.raises(KeyboardInterrupt):
        sweep.main(args)
    with file.open("a") as out:
        out.write('{"point": "half a l')
    sweep.main([*args, "--plot", str(tmp_path / "sweep.png")])
    points = [(1, "float32"), (8, "float32"), (1, "bfloat16"), (8, "bfloat16")]
    assert asked == [*points[:3], *points[2:]]
    assert len(file.read_text().splitlines()) == 4
    assert (tmp_path / "sweep.png").stat().st_size > 1000
    capsys.readouterr()
    sweep.main([str(file), "--report"])
    assert capsys.readouterr().out.count("speed-up over dense timm") == 4
    assert len(asked) == 5


def test_a_calibrated_point_is_calibrated_once_for_all_rates(sweep, tmp_path, monkeypatch):
    """The found break-evens are those of the model that runs; the other contenders have none."""
    calls, ran = [], []
    found = {"blocks.0.mlp": BreakEven((2,), (0.25,), 0.5)}

    def calibrate(model, images, batches):
        calls.append((len(images), batches, type(model).__name__))
        return Calibration(found)

    def measured(model, images, rate, rewrites, **others):
        made = {name: make(model) for name, make in rewrites.items()}
        ran.append({name: [site.break_even for site in one.sites] for name, one in made.items()})
        return compare(tiny(), IMAGES, rate, pairs=6, executor_names=(), peers={}, timer=timer)

    monkeypatch.setattr(dyt, "calibrate_break_even", calibrate)
    monkeypatch.setattr(sweep, "compare", measured)
    monkeypatch.setattr(sweep, "untrained", lambda backbone, batch, preset="dyt": (tiny(), IMAGES[:batch]))
    args = [str(tmp_path / "a.jsonl"), "--backbones", "vit_tiny_patch16_224", "--batches", "2", "--calibrate"]
    sweep.main([*args, "--dtypes", "float32", "--modes", "eager", "--rates", "0", "1"])
    assert calls == [(2, (2,), "OptimizedModel")]
    assert len(ran) == 2
    for made in ran:
        assert made[sweep.CALIBRATED] == [found["blocks.0.mlp"], None]
        assert made[OPTIMISED] == [None, None]
