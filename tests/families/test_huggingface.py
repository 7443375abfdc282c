"""Models of transformers: the same numbers as transformers' own forward, heads, masks, and what is refused."""

import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import dyt
from dyt.core.interop import bridged
from dyt.registry import families
from dyt.tasks.preparation import Preparation
from families.zoo_hf import HUGGINGFACE, SIZE, TEXT, WIDE
from laws.models import CLASSES, shaken, spec

transformers = pytest.importorskip("transformers", reason="transformers is not installed (the extra `hf`)")
each = pytest.mark.parametrize("name", HUGGINGFACE)
X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, atol=1e-5, rtol=1e-5)


@each
def test_the_numbers_are_those_of_transformers(name: str) -> None:
    """Its logits, pooled output and hidden states, from its own forward of an untouched model."""
    tiny = HUGGINGFACE[name]
    model = dyt.build(spec(variant={"type": "layer"}), backbone=tiny.backbone())
    with torch.no_grad(), dyt.execution(model, "complete"):
        theirs = tiny.backbone()(pixel_values=X, output_hidden_states=True)
        if hasattr(theirs, "logits"):
            close(model(X), theirs.logits)
        else:
            pooled = theirs.pooler_output
            pooled = theirs.last_hidden_state.mean(1) if pooled is None else pooled
            features = model.forward_head(model.forward_features(X), pre_logits=True)
            close(features, pooled)
            close(model(X), model.get_classifier()(features))
            close(model.forward_features(X), theirs.last_hidden_state)
        _, maps = model.forward_intermediates(X, output_fmt="NLC", return_prefix_tokens=True)
        assert len(maps) == SIZE["num_hidden_layers"]
        for (patches, prefix), hidden in zip(maps, theirs.hidden_states[1:], strict=True):
            close(torch.cat([prefix, patches], 1), hidden)
        (last,) = model.forward_intermediates(X, indices=1, intermediates_only=True)
        close(last.flatten(2).mT, maps[-1][0])
        (normed,) = model.forward_intermediates(X, indices=1, norm=True, output_fmt="NLC", intermediates_only=True)
        if tiny.family != "hf_clip" or "siglip" in name:  # CLIP leaves the final norm to the pooled class token
            close(normed, model.forward_features(X)[:, tiny.prefix :])
    with pytest.raises(dyt.UnsupportedError, match="allowed: NCHW, NLC"):
        model.forward_intermediates(X, output_fmt="NHWC")


def test_a_given_model_stays_the_user_s_object() -> None:
    given = HUGGINGFACE["vit"].backbone()
    model = dyt.build(spec(), backbone=given)
    assert model.backbone.model is given
    with torch.no_grad():
        assert torch.equal(given(pixel_values=X).logits, model(X))
    with pytest.raises(dyt.UnsupportedError, match="already dynamic"):
        dyt.build(spec(), backbone=given)


def test_a_model_without_a_classifier_gets_the_spec_s_head() -> None:
    given = HUGGINGFACE["vit, no classifier"].backbone()
    model = dyt.build(spec(head={"num_classes": 3}), backbone=given)
    head = model.get_classifier()
    assert (head.in_features, head.out_features) == (24, 3)  # the pooler's outputs
    assert all(p.requires_grad for p in head.parameters())
    assert float(head.weight.detach().std()) < 0.02
    assert not head.bias.any()
    bare = dyt.build(spec(head={"num_classes": 0}), backbone=HUGGINGFACE["siglip, no classifier"].backbone())
    assert bare(X).shape == (2, 32)


def test_a_classifier_of_another_size_is_refused_and_can_be_reset() -> None:
    given = HUGGINGFACE["dinov2"].backbone()
    with pytest.raises(dyt.SpecError, match="backbone has 5; change the spec, or load it with num_labels=9"):
        dyt.build(spec(head={"num_classes": 9}), backbone=given)
    model = dyt.build(spec(), backbone=given)
    model.reset_classifier(9)
    assert given(pixel_values=X).logits.shape == (2, 9)
    assert given.config.num_labels == given.num_labels == 9
    assert given.classifier.in_features == 64


@pytest.mark.parametrize("name", ["vit", "dinov2, registers", "clip"])
def test_the_class_token_s_attention_is_what_eager_attention_tells(name: str) -> None:
    tiny = HUGGINGFACE[name]
    backbone, _ = bridged(tiny.backbone(), CLASSES)
    backbone.model.set_attn_implementation("eager")
    family = families.get(tiny.family)()
    assert family.attention_refusal(backbone) is None
    block = backbone.get_submodule(backbone.layer_paths[0])
    x = torch.randn(2, 16 + tiny.prefix, 32)
    attention: Any = getattr(block, tiny.attn)
    with torch.no_grad():
        weights = attention(family.normalised(block, "attn", x), attention_mask=None)[1]
        close(family.class_attention(block, x, tiny.prefix), weights.mean(1)[:, 0, tiny.prefix :])


def test_siglip_has_no_class_token() -> None:
    backbone, _ = bridged(HUGGINGFACE["siglip"].backbone(), CLASSES)
    assert families.get("hf_clip")().attention_refusal(backbone) == "it has no class token"


@pytest.mark.filterwarnings("ignore:_compile flag on create_block_mask:DeprecationWarning")  # in transformers
def test_attention_without_masks_is_refused() -> None:
    given = HUGGINGFACE["vit"].backbone()
    given.config._attn_implementation = "flex_attention"
    with pytest.raises(dyt.UnsupportedError, match="'flex_attention' takes no mask of queries by keys"):
        dyt.build(spec(variant={"type": "attn"}), backbone=given)
    model = dyt.build(spec(variant={"type": "layer"}), backbone=HUGGINGFACE["vit"].backbone())
    model.backbone.model.config._attn_implementation = "flex_attention"
    with pytest.raises(dyt.UnsupportedError, match=r"allowed: eager, sdpa"), dyt.execution(model, "masked"):
        shaken(model, 1.0)(X)


def test_a_mask_of_the_user_s_goes_with_the_mlp_variant_alone() -> None:
    seen = torch.ones(2, 17, dtype=torch.bool)
    seen[:, 9:] = False
    plain, model = HUGGINGFACE["vit"].backbone(), dyt.build(spec(), backbone=HUGGINGFACE["vit"].backbone())
    with torch.no_grad(), dyt.execution(model, "complete"):
        close(model(X, attention_mask=seen), plain(pixel_values=X, attention_mask=seen).logits)
    attn = dyt.build(spec(variant={"type": "attn"}), backbone=HUGGINGFACE["vit"].backbone())
    half = [torch.arange(17).expand(2, -1) < 9 for _ in attn.sites]
    with pytest.raises(dyt.UnsupportedError, match="does not combine with an attention_mask"), dyt.forced(attn, half):
        attn(X, attention_mask=seen)


def test_other_image_sizes_go_as_transformers_has_it() -> None:
    plain, model = HUGGINGFACE["clip"].backbone(), dyt.build(spec(), backbone=HUGGINGFACE["clip"].backbone())
    x = torch.randn(1, 3, 48, 40)
    with torch.no_grad(), dyt.execution(model, "complete"):
        expected = plain(pixel_values=x, interpolate_pos_encoding=True).logits
        close(model(x, interpolate_pos_encoding=True), expected)


@pytest.mark.parametrize("cls", ["CLIPModel", "ViTForMaskedImageModeling"])
def test_other_models_are_refused_before_anything_changes(cls: str) -> None:
    if cls == "CLIPModel":
        given = transformers.CLIPModel(transformers.CLIPConfig(vision_config=WIDE, text_config=TEXT))
    else:
        given = transformers.ViTForMaskedImageModeling(transformers.ViTConfig(**WIDE))
    with pytest.raises(dyt.UnsupportedError, match=rf"no family knows {cls} of transformers; allowed: ViTModel"):
        dyt.build(spec(), backbone=given)
    assert all(parameter.requires_grad for parameter in given.parameters())


def test_another_layout_is_refused() -> None:
    given = HUGGINGFACE["vit"].backbone()
    given.vit.encoder = given.vit.layers
    del given.vit.layers
    with pytest.raises(dyt.UnsupportedError, match="laid out otherwise in this version of transformers"):
        dyt.build(spec(), backbone=given)
    given = HUGGINGFACE["vit"].backbone()
    given.vit.layers[1] = nn.Identity()
    with pytest.raises(dyt.UnsupportedError, match="no family knows the blocks"):
        dyt.build(spec(), backbone=given)


@each
def test_images_are_prepared_as_the_released_weights_want_them(name: str) -> None:
    backbone, _ = bridged(HUGGINGFACE[name].backbone(), CLASSES)
    prepared = Preparation.of(backbone)
    assert prepared.size == (32, 32)
    half = (0.5, 0.5, 0.5)
    expected = {"vit": half, "siglip": half, "clip": (0.48145466, 0.4578275, 0.40821073)}
    assert prepared.mean == expected.get(name.partition(",")[0], (0.485, 0.456, 0.406))


def test_transformers_is_imported_by_nobody_but_the_user() -> None:
    code = "import sys, dyt; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@each
def test_dynamic_layers_record_hidden_states(name: str) -> None:
    """What stands behind a tower may read any of them, LLaVA the last but one; again after the layers are put back."""
    tower = HUGGINGFACE[name].backbone()
    with torch.no_grad():
        theirs = HUGGINGFACE[name].backbone()(pixel_values=X, output_hidden_states=True).hidden_states
        model = dyt.build(spec(variant={"type": "mlp"}), backbone=tower)
        with dyt.execution(model, "complete"):
            ours = tower(pixel_values=X, output_hidden_states=True).hidden_states
            again = pickle.loads(pickle.dumps(tower))(pixel_values=X, output_hidden_states=True).hidden_states
        dyt.unwrap(model)
        back = tower(pixel_values=X, output_hidden_states=True).hidden_states
    assert len(ours) == len(back) == len(theirs) == 3
    assert len(again) == 3
    for found in (ours, back):
        for actual, expected in zip(found, theirs, strict=True):
            close(actual, expected)


def test_a_model_of_images_and_text_generates_with_a_dynamic_tower() -> None:
    size = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(image_size=32, patch_size=8, **size)
    text = transformers.LlamaConfig(vocab_size=32, num_key_value_heads=2, **size)
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=9, image_seq_length=16)
    torch.manual_seed(0)
    llava = transformers.LlavaForConditionalGeneration(config).eval()
    words = torch.tensor([[1, *[9] * 16, 5]]).repeat(2, 1)
    asked = {"input_ids": words, "attention_mask": torch.ones_like(words), "pixel_values": X}

    def said() -> Tensor:
        made: Tensor = llava.generate(**asked, max_new_tokens=4, do_sample=False, pad_token_id=0)
        return made

    with torch.no_grad():
        before, logits = said(), llava(**asked).logits
        tower = dyt.build(
            {"head": {"type": "tokens"}, "objective": {"distill": 0.0}}, backbone=llava.model.vision_tower
        )
        tower.eval()
        with dyt.execution(tower, "complete"):
            assert torch.equal(said(), before)
            close(llava(**asked).logits, logits)
        with dyt.record(tower) as routes:
            assert said().shape == before.shape
    assert len(routes) == 2
