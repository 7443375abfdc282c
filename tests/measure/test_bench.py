"""The benchmark under a clock that each contender moves by what it computes; no wall clock."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

import dyt
from dyt.errors import DyTError
from dyt.executors import Sparse
from dyt.measure.activations import saved_bytes
from dyt.measure.bench import Bench, compare
from dyt.measure.contenders import DENSE, PEERS, PLAIN, contenders, merge_lora
from dyt.measure.latency import Comparison
from dyt.measure.plain import PlainGather
from dyt.measure.speed import PRINTED, beside_paper, picture, table
from dyt.route import Route
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
        merge_lora(model)
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
    file = Path("/work/shared/paper/tables.json")
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
