"""Law 8: `count_macs` equals what a FLOP counter sees executed by `sparse`, and what arithmetic says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

import dyt
from laws.models import CLASSES, Case, masks, shaken, spec
from laws.strategies import cases, component, components, mask_kinds, names


def executed(model: dyt.DynamicModel, case: Case) -> int:
    with torch.no_grad(), dyt.execution(model, "sparse"), FlopCounterMode(display=False) as counter:
        model(case.images())
    assert counter.get_total_flops() % 2 == 0
    return int(counter.get_total_flops()) // 2


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("policy", ["forced", "routed", "complete"])
@given(case=cases(), kinds=mask_kinds, data=st.data())
def test_the_sum_over_images_is_what_a_flop_counter_sees(
    variant: str, policy: str, case: Case, kinds: list[str], data: st.DataObject
) -> None:
    chosen = {
        "adapter": data.draw(components("adapters")),
        "dispatcher": data.draw(component("dispatchers", "learned")),
    }
    model = shaken(dyt.build(spec(variant={"type": variant}, **chosen), backbone=case.backbone()), 0.3)
    x = case.images()
    given_masks = masks(model, x, kinds, case.seed)
    with case.precision():
        if policy == "forced":
            with dyt.forced(model, given_masks):
                counted, seen = dyt.count_macs(model, x), executed(model, case)
        elif policy == "complete":
            with dyt.execution(model, "complete"), torch.no_grad(), FlopCounterMode(display=False) as counter:
                model(x)
            with dyt.execution(model, "complete"):
                counted, seen = dyt.count_macs(model, x), counter.get_total_flops() // 2
        else:
            counted, seen = dyt.count_macs(model, x), executed(model, case)
    assert counted.dtype == torch.int64
    assert counted.shape == (case.batch,)
    assert abs(int(counted.sum()) - seen) <= case.batch  # each image's share is rounded to a whole number


@pytest.mark.parametrize("variant", names("variants"))
@given(case=cases(dtypes=("float32",), batch=4), kinds=mask_kinds)
def test_an_image_costs_the_same_in_any_company(variant: str, case: Case, kinds: list[str]) -> None:
    model, x = dyt.build(spec(variant={"type": variant}), backbone=case.backbone()), case.images()
    given_masks = masks(model, x, kinds, case.seed)
    with dyt.forced(model, given_masks):
        together = dyt.count_macs(model, x)
    for i in range(case.batch):
        with dyt.forced(model, [mask[i : i + 1] for mask in given_masks]):
            assert abs(int(dyt.count_macs(model, x[i : i + 1])) - int(together[i])) <= 1


@given(
    case=cases(dtypes=("float32",)), kinds=mask_kinds, level=st.sampled_from(["token", "sample"]), forced=st.booleans()
)
def test_equals_the_formula_for_a_plain_vit(case: Case, kinds: list[str], level: str, forced: bool) -> None:
    v = case.vit | {"mlp_layer": "mlp", "global_pool": "avg", "dynamic_img_size": False, "dynamic_img_pad": False}
    case = Case(v, (v["img_size"],) * 2, case.batch, case.seed)
    width, d = v["embed_dim"], 3
    chosen = {"adapter": {"type": "bottleneck", "dim": d}, "dispatcher": {"type": "learned", "level": level}}
    model, x = shaken(dyt.build(spec(**chosen), backbone=case.backbone()), 0.3), case.images()
    patches = (v["img_size"] // v["patch_size"]) ** 2
    tokens = patches + v["reg_tokens"] + v["class_token"]
    block = tokens * width * 3 * width + 2 * tokens * tokens * width + tokens * width * width + 2 * tokens * width * d
    dense = patches * width * 3 * v["patch_size"] ** 2 + v["depth"] * block + width * CLASSES
    if forced:
        given_masks = masks(model, x, kinds, case.seed)
        active = torch.stack([mask.sum(1) for mask in given_masks]).sum(0)
        with dyt.forced(model, given_masks):
            counted = dyt.count_macs(model, x)
    else:
        with torch.no_grad(), dyt.record(model) as routes:
            model(x)
        active = torch.stack([route.active.sum(1) for route in routes]).sum(0)
        dense += v["depth"] * width * (patches if level == "token" else 1)
        counted = dyt.count_macs(model, x)
    expected = dense + active * 2 * width * int(width * v["mlp_ratio"])
    assert (counted - expected).abs().max() <= 1
