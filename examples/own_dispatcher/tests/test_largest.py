import pytest
import torch

import dyt
import dyt.testing

SPEC = {
    "backbone": {
        "name": "vit_tiny_patch16_224",
        "weights": "none",
        "args": {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2},
    },
    "head": {"num_classes": 10},
    "dispatcher": {"type": "largest"},
    "objective": {"rate": 0.25},
}


def test_it_is_found_by_its_entry_point():
    assert "largest" in dyt.list("dispatchers")
    assert dyt.registry.dispatchers.origin("largest").startswith("dyt-largest ")


def test_it_keeps_the_laws():
    """Those that the library's own dispatchers are held to, on random models; a message says what does not hold."""
    report = dyt.testing.check("dispatchers", "largest")
    assert {law.number for law in report.laws} == {1, 2, 3, 4, 5, 6, 7, 8, 11}


def test_it_keeps_the_largest():
    model, seen = dyt.build(SPEC).eval(), []
    for site in model.sites:
        site.dispatcher.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad(), dyt.record(model) as routes:
        model(torch.randn(3, 3, 32, 32))
    for route, tokens in zip(routes, seen, strict=True):
        patches, norms = route.active[:, route.prefix :], tokens.norm(dim=-1)
        assert patches.sum(1).tolist() == [4, 4, 4]  # a quarter of 16
        for image, kept in zip(norms, patches, strict=True):
            assert image[kept].min() >= image[~kept].max()


def test_its_executors_agree():
    model = dyt.build(SPEC).eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        sparse = model(images)
        with dyt.execution(model, "masked"):
            torch.testing.assert_close(model(images), sparse)


def test_one_decision_for_a_whole_image_is_refused():
    with pytest.raises(dyt.DyTError, match="level"):
        dyt.build(SPEC | {"dispatcher": {"type": "largest", "level": "sample"}})
