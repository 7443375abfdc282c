"""Hypothesis strategies for random ViTs, batches, masks and specs; every registered component is walked."""

from __future__ import annotations

from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from dyt.config.scalars import LARGEST_NUMBER
from dyt.registry import KINDS
from dyt.testing.cases import MLPS, Case
from dyt.testing.schema import allowed, depths, stands

DTYPES = ("float32", "autocast", "bfloat16")
LAYOUTS = ("contiguous", "channels_last", "strided")
MASKS = ("none", "one", "all", "random", "ragged")
SEEDS = st.integers(0, 2**16)
FRACTIONS = st.floats(0, 1, allow_nan=False)


def names(kind: str) -> list[str]:
    """The registered names of a kind, for `pytest.mark.parametrize`; of executors those that take every branch."""
    limited = {name for name, cls in KINDS[kind].items() if getattr(cls, "limits", None) is not None}
    return [name for name in KINDS[kind].names() if name not in limited]


def needs_attention(dispatcher: str) -> bool:
    """Whether the dispatcher reads the class token's attention, which only some backbones provide."""
    return bool(KINDS["dispatchers"].get(dispatcher).needs_attention)


def draws_at_inference(dispatcher: str) -> bool:
    """Whether a dispatcher says that it draws random numbers at inference."""
    return bool(KINDS["dispatchers"].get(dispatcher).draws_at_inference)


@st.composite
def vits(
    draw: st.DrawFn,
    pooled: bool = False,
    stochastic: bool = False,
    class_token: bool | None = None,
    reads_patches: bool = True,
) -> dict[str, Any]:
    """Arguments of timm's VisionTransformer.

    `pooled`: one vector per image; `stochastic`: drop path, dropout; `class_token`: with or without one, None for any;
    `reads_patches`: whether the head may read patch tokens, otherwise there is a class token, which it reads.
    """
    heads = draw(st.sampled_from([1, 2, 3]))
    if not reads_patches:
        class_token = True
    class_token = draw(st.booleans()) if class_token is None else class_token
    pools = ["avg", "map", *(["token"] * 2 if class_token else []), *([] if pooled else [""])]
    if not reads_patches:
        pools = ["token"]
    patch = draw(st.sampled_from([4, 7, 8]))
    args: dict[str, Any] = {
        "img_size": patch * draw(st.integers(1, 3)),
        "patch_size": patch,
        "embed_dim": heads * draw(st.sampled_from([8, 16])),
        "depth": draw(st.integers(1, 3)),
        "num_heads": heads,
        "mlp_ratio": draw(st.sampled_from([1.0, 2.5, 4.0])),
        "mlp_layer": draw(st.sampled_from(sorted(MLPS))),
        "class_token": class_token,
        "reg_tokens": draw(st.integers(0, 4)),
        "no_embed_class": draw(st.booleans()),
        "global_pool": draw(st.sampled_from(pools)),
        "pre_norm": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "qkv_bias": draw(st.booleans()),
        "init_values": draw(st.sampled_from([None, 1.0, 1e-1])),
        "scale_mlp_norm": draw(st.booleans()),
        "scale_attn_norm": draw(st.booleans()),
        "dynamic_img_size": draw(st.booleans()),
    }
    if args["dynamic_img_size"]:
        args["dynamic_img_pad"] = draw(st.booleans())
    if stochastic:
        rates = st.sampled_from([0.0, 0.2])
        args |= {name: draw(rates) for name in ("drop_path_rate", "proj_drop_rate", "attn_drop_rate", "pos_drop_rate")}
    return args


@st.composite
def cases(
    draw: st.DrawFn,
    dtypes: tuple[str, ...] = DTYPES,
    pooled: bool = False,
    stochastic: bool = False,
    batch: int = 3,
    dispatcher: str | None = None,
    reducer: str | None = None,
) -> Case:
    """A ViT with a batch of images: other and odd sizes where the model takes them, any memory layout, at least one.

    `dispatcher`, `reducer`: one that the ViT must be able to have.
    """
    attended, restores = dispatcher is not None and needs_attention(dispatcher), True
    if reducer is not None:
        kind = KINDS["reducers"].get(reducer)
        attended, restores = attended or kind.needs_attention, kind.restores
    args = draw(vits(pooled, stochastic, True if attended else None, restores))
    if reducer is not None:
        args["depth"] = draw(st.sampled_from(depths(reducer)))
    image = (args["img_size"], args["img_size"])
    if args["dynamic_img_size"]:
        side = st.integers(1, 4).map(lambda n: n * args["patch_size"])
        if args["dynamic_img_pad"]:
            side = st.integers(3, 29)
        image = (draw(side), draw(side))
    return Case(
        args,
        image,
        draw(st.integers(1, batch)),
        draw(SEEDS),
        draw(st.sampled_from(LAYOUTS)),
        draw(st.sampled_from(dtypes)),
    )


def parts_of(backbone: nn.Module) -> st.SearchStrategy[list[str]]:
    """At most two of a plain backbone's modules that have parameters, by name."""
    found = [name for name, module in backbone.named_modules() if name and any(True for _ in module.parameters())]
    return st.lists(st.sampled_from(sorted(found)), max_size=2, unique=True)


mask_kinds = st.lists(st.sampled_from(MASKS), min_size=1, max_size=3)


# Specs ---------------------------------------------------------------------------


@st.composite
def ramps(draw: st.DrawFn, low: float, high: float) -> dict[str, Any]:
    """A ramp as plain data, between `low` and `high`, both above 0 where it is exponential."""
    begin, until = sorted((draw(FRACTIONS), draw(FRACTIONS)))
    values = st.floats(max(low, 1e-3), high)
    shape = draw(st.sampled_from(["linear", "cosine", "exponential"]))
    return {"start": draw(values), "end": draw(values), "begin": begin, "until": until, "shape": shape}


_LEVEL = st.sampled_from(["token", "sample"])
_RATE = st.floats(0.01, 1)
_SAMPLING: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.floats(0.1, 10) | ramps(0.1, 10),
    "noise": st.floats(0, 2) | ramps(0, 2),
}
_RATE_OR_COUNT: list[st.SearchStrategy[dict[str, Any]]] = [
    st.just({}),
    st.fixed_dictionaries({"rate": _RATE}),
    st.fixed_dictionaries({"count": st.integers(1, 20)}),
]
_PROJECTION: dict[str, st.SearchStrategy[Any]] = {
    "placement": st.sampled_from(["parallel", "sequential"]),
    "input": st.sampled_from(["block", "normalised"]),
    "dim": st.integers(1, 16),
    "activation": st.sampled_from(["relu", "gelu", "silu", "tanh"]),
    "scale": st.floats(0.1, 2),
    "scale_learnable": st.booleans(),
    "dropout": st.floats(0, 0.5),
}
_MIXTURE: dict[str, st.SearchStrategy[Any]] = {
    "experts": st.integers(1, 4),
    "normalisation": st.sampled_from(["softmax", "sigmoid", "none"]),
}


def _bounded(mixture: dict[str, Any]) -> dict[str, Any]:
    """With bare logits for weights the adapter is cubic in its tokens: six sites of random weights overflow float32."""
    return mixture | {"input": "normalised"} if mixture.get("normalisation") == "none" else mixture


# Layers that a model of any depth has.
_VARIANT = st.fixed_dictionaries({}, optional={"layers": st.sampled_from([None, [0], [-1]])})
_FIELDS: dict[tuple[str, str], st.SearchStrategy[dict[str, Any]]] = {
    ("dispatchers", "learned"): st.fixed_dictionaries(
        {}, optional={"level": _LEVEL, **_SAMPLING, "bias": st.floats(-2, 2) | ramps(-2, 2)}
    ),
    ("dispatchers", "topk"): st.tuples(st.one_of(_RATE_OR_COUNT), st.fixed_dictionaries({}, optional=_SAMPLING)).map(
        lambda parts: parts[0] | parts[1]
    ),
    ("dispatchers", "attention"): st.one_of(_RATE_OR_COUNT),
    ("dispatchers", "random"): st.fixed_dictionaries({}, optional={"level": _LEVEL, "rate": _RATE | st.none()}),
    ("dispatchers", "always"): st.fixed_dictionaries({}, optional={"level": _LEVEL}),
    ("adapters", "bottleneck"): st.fixed_dictionaries({}, optional=_PROJECTION),
    ("adapters", "moe"): st.fixed_dictionaries({}, optional=_PROJECTION | _MIXTURE).map(_bounded),
    ("tuners", "lora"): st.fixed_dictionaries(
        {},
        optional={
            "rank": st.integers(1, 4),
            "alpha": st.none() | st.floats(0.5, 8),
            "dropout": st.floats(0, 0.5),
            "targets": st.sampled_from([["attn.qkv"], ["attn.proj", "attn.qkv"]]),
        },
    ),
    ("tuners", "vpt"): st.fixed_dictionaries(
        {}, optional={"tokens": st.integers(1, 3), "deep": st.booleans(), "dropout": st.floats(0, 0.5)}
    ),
    ("reducers", "tome"): st.fixed_dictionaries(
        {}, optional={"r": st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=3), "proportional": st.booleans()}
    ),
    ("reducers", "evit"): st.fixed_dictionaries({}, optional={"keep": _RATE, "fuse": st.booleans()}),
    ("reducers", "dynamicvit"): st.fixed_dictionaries({}, optional={"keep": _RATE, "ratio_weight": st.floats(0, 9)}),
    **{("variants", name): _VARIANT for name in ("attn", "mlp", "attn_mlp", "layer")},
}


def component(kind: str, name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of one registered component as plain data; of one unknown here, what its spec's JSON schema allows."""
    known = _FIELDS.get((kind, name))
    if known is None:
        return allowed(kind, name)
    return known.map(lambda fields: {"type": name, **fields})


def components(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of any registered component of a kind."""
    return st.sampled_from(names(kind)).flatmap(lambda name: component(kind, name))


def companions(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of any registered component of a kind that every backbone can have, to stand beside the one in question."""
    anywhere = [name for name in names(kind) if kind != "dispatchers" or not needs_attention(name)]
    return st.sampled_from(anywhere).flatmap(lambda name: component(kind, name))


def reducing_variants() -> st.SearchStrategy[dict[str, Any]]:
    """Specs of the variants in which a reducer may act: in all blocks."""
    able = [name for name in names("variants") if KINDS["variants"].get(name).reduces]
    return st.sampled_from(able).flatmap(
        lambda name: component("variants", name).filter(lambda plain: plain.get("layers") is None)
    )


def reducing(name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of one reducer that fit each of its `depths`."""
    return component("reducers", name).filter(lambda plain: all(stands(name, plain, depth) for depth in depths(name)))


@st.composite
def chosen(draw: st.DrawFn, /, **fixed: str) -> dict[str, Any]:
    """Variant, dispatcher and adapter of a spec; `fixed` names some of them: `dispatcher="learned"`.

    A tuner or a reducer is there only where it is named, and a reducer stands beside a variant that it may act in. One
    in two whose dispatcher skips tokens has a stand-in.
    """
    slots = {"variant": "variants", "dispatcher": "dispatchers", "adapter": "adapters"}
    parts = {slot: component(kind, fixed[slot]) if slot in fixed else companions(kind) for slot, kind in slots.items()}
    if "tuner" in fixed:
        parts["tuner"] = component("tuners", fixed["tuner"])
    if "reducer" in fixed:
        parts |= {"variant": reducing_variants(), "reducer": reducing(fixed["reducer"])}
    stand_ins = companions("adapters").filter(lambda plain: plain.get("placement", "parallel") == "parallel")
    found = {slot: draw(part) for slot, part in parts.items()}
    skips = KINDS["dispatchers"].get(found["dispatcher"]["type"]).skips
    return found | {"stand_in": draw(st.none() | stand_ins) if skips else None}


@st.composite
def batches(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Tokens x (B, N, C) in any layout and active (B, N) bool; zero, one and all active tokens included."""
    generator = torch.Generator().manual_seed(draw(SEEDS))
    batch, count, dim = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.sampled_from([1, 4, 6]))
    x = torch.randn(batch, count, dim, generator=generator)
    x = x.mT.contiguous().mT if draw(st.sampled_from(LAYOUTS)) != "contiguous" else x
    density = torch.tensor(draw(st.lists(st.sampled_from([0.0, 0.2, 0.6, 1.1]), min_size=batch, max_size=batch)))
    return x, torch.rand(batch, count, generator=generator) < density[:, None]


_PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(-LARGEST_NUMBER, LARGEST_NUMBER) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_TAKEN = {"num_classes", "pretrained", "checkpoint_path"}


descents = ramps(0.01, 1).map(lambda ramp: {key: value for key, value in ramp.items() if key != "end"})


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Whole specs as plain data that validate; strings and arguments are arbitrary."""
    rates: list[st.SearchStrategy[dict[str, Any]]] = [
        st.fixed_dictionaries({"rate": _RATE}),
        st.fixed_dictionaries({"layer_rates": st.lists(_RATE, min_size=1, max_size=4)}),
    ]
    whole = {"features": draw(st.floats(0, 3))}
    thinned = {"complete_share": draw(st.floats(0.01, 1)), "complete_every": draw(st.integers(1, 9))}
    objective = {
        **draw(st.one_of(rates)),
        **draw(st.sampled_from([whole, thinned])),
        "rate_weight": draw(st.floats(0, 30)),
        "complete": draw(st.floats(0, 3)),
        "distill": draw(st.floats(0, 3)),
        "temperature": draw(st.floats(0.1, 4)),
        "control": draw(st.sampled_from(["loss", "threshold"])),
        "asked": draw(st.none() | descents),
    }
    args = draw(st.dictionaries(st.text().filter(lambda name: name not in _TAKEN), _PLAIN, max_size=3))
    tuner = draw(st.none() | components("tuners"))
    trainable = draw(st.sampled_from(["adapters", "full"])) if tuner is None else "adapters"
    return {
        "backbone": {"name": draw(st.text(min_size=1)), "weights": draw(st.text(min_size=1)), "args": args},
        "head": {"num_classes": draw(st.integers(0, 2000))},
        "variant": draw(components("variants")),
        "dispatcher": draw(components("dispatchers")),
        "adapter": draw(components("adapters")),
        "objective": objective,
        "tuner": tuner,
        "reducer": draw(st.none() | components("reducers")),
        "trainable": trainable,
        "modules_to_save": draw(st.lists(st.text(), max_size=3)) if trainable == "adapters" else [],
    }
