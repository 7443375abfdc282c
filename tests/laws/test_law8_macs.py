"""Law 8: `count_macs` equals what a FLOP counter sees executed by `sparse`, and what arithmetic says."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import dyt
from dyt.testing import laws
from laws.models import CLASSES, Case, masks, shaken, spec
from laws.strategies import cases, chosen, mask_kinds, names


@pytest.mark.parametrize("variant", names("variants"))
@pytest.mark.parametrize("policy", ["forced", "routed", "complete"])
@given(dispatcher=st.sampled_from(["learned", "topk", "attention"]), kinds=mask_kinds, data=st.data())
def test_each_image_costs_what_a_flop_counter_sees(
    variant: str, policy: str, dispatcher: str, kinds: list[str], data: st.DataObject
) -> None:
    case = data.draw(cases(dispatcher=dispatcher))
    picked = data.draw(chosen(variant=variant, dispatcher=dispatcher))
    laws.macs_are_what_sparse_executes(case, picked, policy, kinds)


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
