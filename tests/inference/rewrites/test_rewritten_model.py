"""An optimised model is for inference: what it refuses, and what goes on to work."""

import copy
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import is_notrace_module  # type: ignore[attr-defined]

import dyt
from compilation import WHOLE
from dyt.measure.bench import compare
from dyt.measure.contenders import DENSE
from laws.models import CLASSES, masks, tiny

X = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}


def test_training_is_refused() -> None:
    optimized = dyt.optimize(tiny())
    for module in (optimized, optimized.backbone.blocks[0], optimized.backbone.blocks[1]):
        with pytest.raises(dyt.UnsupportedError, match="train the model that it was made from"):
            module.train()
    assert not any(module.training for module in optimized.modules())
    assert optimized.eval() is optimized


def test_saving_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dyt.CheckpointError, match="save the model that it was made from"):
        dyt.save(dyt.optimize(tiny()), tmp_path / "x.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_all_tokens_are_had_where_the_last_block_computes_them() -> None:
    model = tiny()
    short, whole = dyt.optimize(model), dyt.optimize(model, last_block=False)
    for ask in ("forward_features", "forward_intermediates"):
        with pytest.raises(dyt.UnsupportedError, match="last_block=False"):
            getattr(short, ask)(X)
    with torch.no_grad():
        torch.testing.assert_close(whole.forward_features(X), model.forward_features(X), atol=2e-5, rtol=2e-5)
        final, found = whole.forward_intermediates(X)
        expected, wanted = model.forward_intermediates(X)
    for a, b in zip([final, *found], [expected, *wanted], strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


def test_a_copy_is_a_model_of_its_own() -> None:
    optimized = dyt.optimize(tiny())
    twin = copy.deepcopy(optimized)
    with torch.no_grad(), dyt.execution(optimized, "complete"), dyt.record(twin) as routes:
        out = twin(X)
    assert len(routes) == 2
    with torch.no_grad():
        assert torch.equal(out, optimized(X))


def test_nothing_is_trainable() -> None:
    assert not any(parameter.requires_grad for parameter in dyt.optimize(tiny()).parameters())


def test_the_image_s_gradient_is_the_original_s() -> None:
    """Writing in place hides nothing from autograd."""
    model, grads = tiny(), []
    optimized = dyt.optimize(model)
    given_masks = masks(model, X, ["random"], 0)
    for each in (model, optimized):
        x = X.clone().requires_grad_()
        with dyt.forced(each, given_masks):
            each(x)[:, 0].sum().backward()
        grads.append(x.grad)
    assert grads[0] is not None
    torch.testing.assert_close(grads[1], grads[0], atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["masked", "sparse"])
def test_one_graph_is_traced(name: str) -> None:
    optimized = dyt.optimize(tiny())
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True), torch.no_grad():
        compiled = torch.compile(optimized, backend="eager", fullgraph=WHOLE)
        with dyt.execution(optimized, name):
            torch.testing.assert_close(compiled(X), optimized(X))


def test_feature_extraction_sees_a_block_as_one_node() -> None:
    blocks = dyt.optimize(tiny()).backbone.blocks
    assert [is_notrace_module(type(block)) for block in blocks] == [True, True]


def test_it_is_benchmarked_as_any_model() -> None:
    backbone = {"name": "vit_tiny_patch16_224", "weights": "none", "args": SIZE}
    model = dyt.build({"backbone": backbone, "head": {"num_classes": CLASSES}}).eval()
    found = compare(dyt.optimize(model), X, pairs=1, warmup=0, peers={})
    assert found.row("DyT, sparse").macs < found.row(DENSE).macs
    assert found.batch == 3


def test_a_given_backbone_cannot_be_had_of_an_optimised_model() -> None:
    backbone = timm.create_model("vit_tiny_patch16_224", num_classes=CLASSES, **SIZE)
    model = dyt.optimize(dyt.build({}, backbone=backbone).eval())
    with pytest.raises(dyt.UnsupportedError, match=r"given to dyt\.build, and .* unwrap the one that it was made from"):
        compare(model, X, pairs=1, warmup=0, peers={})


def test_a_new_head_has_the_asked_outputs() -> None:
    optimized = dyt.optimize(tiny())
    optimized.reset_classifier(CLASSES + 2)
    with torch.no_grad():
        assert optimized(X).shape == (3, CLASSES + 2)
