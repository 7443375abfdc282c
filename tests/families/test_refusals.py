"""What a family cannot do properly it refuses, with the reason, before anything is changed."""

import pytest
import torch
from timm.models.cait import Cait
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import dyt
from families.test_zoo import some, spec
from families.zoo import CLASSES, TINY, ZOO


class OtherAttention(nn.Module):
    """Attention that only looks like CaiT's."""

    def __init__(self, dim: int, **args: object) -> None:
        super().__init__()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.proj(x)
        return out


@pytest.mark.parametrize("variant", ["attn", "attn_mlp", "layer"])
def test_other_attention_in_cait(variant: str) -> None:
    backbone = Cait(**TINY, attn_block=OtherAttention)
    with pytest.raises(dyt.UnsupportedError, match="OtherAttention cannot be told which tokens to attend to"):
        dyt.build(spec(variant), backbone=backbone)
    assert all(parameter.requires_grad for parameter in backbone.parameters())
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = backbone.eval()(x)
        model = dyt.build(spec("mlp"), backbone=backbone)
        with dyt.execution(model, "complete"):
            torch.testing.assert_close(model(x), expected)


def test_a_fused_projection_that_was_swapped() -> None:
    model = dyt.build(spec("mlp"), backbone=ZOO["parallel fused"].backbone())
    block = model.backbone.blocks[0]
    block.out_proj = nn.Sequential(block.out_proj)
    with pytest.raises(dyt.UnsupportedError, match="out_proj is a Sequential"):
        model(torch.randn(1, 3, 32, 32))


def test_drop_path_of_zero_does_not_hinder_parallel_blocks() -> None:
    animal = ZOO["parallel"]
    assert animal.variants == dyt.supports("vit_base_patch16_xp_224", depth=2).variants
    refused = dyt.supports("vit_base_patch16_xp_224", depth=2, drop_path_rate=0.1)
    assert refused.variants == ("layer",)
    assert set(refused.refused) == {"attn", "attn_mlp", "mlp"}


def test_normalised_adapter_input_where_the_branch_starts_without_a_norm() -> None:
    for name in ("respost", "eva02 post-norm", "relpos respost", "parallel things"):
        with pytest.raises(dyt.UnsupportedError, match="does not start with a norm of its own"):
            dyt.build(spec("mlp", adapter={"type": "bottleneck", "input": "normalised"}), backbone=ZOO[name].backbone())


@pytest.mark.parametrize(
    "name", [name for name, animal in ZOO.items() if dyt.registry.families.get(animal.family).norms]
)
@pytest.mark.parametrize("variant", ["attn_mlp", "layer"])
def test_normalised_adapter_input_is_the_branch_s_norm(name: str, variant: str) -> None:
    animal, family = ZOO[name], dyt.registry.families.get(ZOO[name].family)()
    model = dyt.build(spec(variant, adapter={"type": "bottleneck", "input": "normalised"}), backbone=animal.backbone())
    x = animal.images(model.backbone)
    masks, given, normed = some(model, x, "ragged"), {}, {}
    for site in model.sites:
        path, _, branch = site.name.rpartition(".")
        norm = model.backbone.get_submodule(path).get_submodule(family.norms[branch])
        normed[site.name] = []
        norm.register_forward_hook(lambda m, args, out, name=site.name: normed[name].append(out))
        site.adapter.register_forward_pre_hook(lambda m, args, name=site.name: given.update({name: args[0]}))
    with torch.no_grad(), dyt.forced(model, masks):
        model(x)
    assert len(given) == len(model.sites)
    assert all(any(torch.equal(out, given[name]) for out in outs) for name, outs in normed.items())


def test_vision_transformer_is_not_changed_by_a_refusal() -> None:
    backbone = VisionTransformer(**TINY)
    backbone.blocks[0] = nn.Identity()
    with pytest.raises(dyt.UnsupportedError, match="Identity"):
        dyt.build(spec("mlp"), backbone=backbone)
    assert backbone.num_classes == CLASSES
    assert all(parameter.requires_grad for parameter in backbone.parameters())
