"""Hypothesis strategies for random ViTs, batches, masks and specs; every registered component is walked."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from dyt.registry import KINDS
from laws.models import MLPS, Case

DTYPES = ("float32", "autocast", "bfloat16")
LAYOUTS = ("contiguous", "channels_last", "strided")
MASKS = ("none", "one", "all", "random", "ragged")
SEEDS = st.integers(0, 2**16)
FRACTIONS = st.floats(0, 1, allow_nan=False)


def names(kind: str) -> list[str]:
    """The registered names of a kind, for `pytest.mark.parametrize`."""
    return KINDS[kind].names()


@st.composite
def vits(draw: st.DrawFn, pooled: bool = False, stochastic: bool = False) -> dict[str, Any]:
    """Arguments of timm's VisionTransformer. `pooled`: one vector per image; `stochastic`: drop path, dropout."""
    heads = draw(st.sampled_from([1, 2, 3]))
    class_token = draw(st.booleans())
    pools = ["avg", "map", *(["token"] * 2 if class_token else []), *([] if pooled else [""])]
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
    draw: st.DrawFn, dtypes: tuple[str, ...] = DTYPES, pooled: bool = False, stochastic: bool = False, batch: int = 3
) -> Case:
    """A ViT with a batch of images: other and odd sizes where the model takes them, any memory layout, at least one."""
    args = draw(vits(pooled, stochastic))
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
_FIELDS: dict[tuple[str, str], st.SearchStrategy[dict[str, Any]]] = {
    ("dispatchers", "learned"): st.fixed_dictionaries(
        {},
        optional={
            "level": _LEVEL,
            "temperature": st.floats(0.1, 10) | ramps(0.1, 10),
            "noise": st.floats(0, 2) | ramps(0, 2),
            "bias": st.floats(-2, 2) | ramps(-2, 2),
        },
    ),
    ("dispatchers", "random"): st.fixed_dictionaries({}, optional={"level": _LEVEL, "rate": _RATE | st.none()}),
    ("reducers", "tome"): st.fixed_dictionaries(
        {}, optional={"r": st.integers(0, 9) | st.lists(st.integers(0, 9), max_size=3), "proportional": st.booleans()}
    ),
    ("reducers", "evit"): st.fixed_dictionaries({}, optional={"keep": _RATE, "fuse": st.booleans()}),
    ("reducers", "dynamicvit"): st.fixed_dictionaries({}, optional={"keep": _RATE, "ratio_weight": st.floats(0, 9)}),
    ("dispatchers", "always"): st.fixed_dictionaries({}, optional={"level": _LEVEL}),
    ("adapters", "bottleneck"): st.fixed_dictionaries(
        {}, optional={"dim": st.integers(1, 16), "scale": st.floats(0.1, 2), "dropout": st.floats(0, 0.5)}
    ),
}


def component(kind: str, name: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of one registered component as plain data; its defaults where its fields are not known here."""
    return _FIELDS.get((kind, name), st.just({})).map(lambda fields: {"type": name, **fields})


def components(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    """Specs of any registered component of a kind."""
    return st.sampled_from(names(kind)).flatmap(lambda name: component(kind, name))


_PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
_TAKEN = {"num_classes", "pretrained", "checkpoint_path"}


descents = ramps(0.01, 1).map(lambda ramp: {key: value for key, value in ramp.items() if key != "end"})


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    """Whole specs as plain data that validate; strings and arguments are arbitrary."""
    objective = {
        "rate": draw(_RATE),
        "rate_weight": draw(st.floats(0, 30)),
        "complete": draw(st.floats(0, 3)),
        "distill": draw(st.floats(0, 3)),
        "temperature": draw(st.floats(0.1, 4)),
        "control": draw(st.sampled_from(["loss", "threshold"])),
        "asked": draw(st.none() | descents),
    }
    args = draw(st.dictionaries(st.text().filter(lambda name: name not in _TAKEN), _PLAIN, max_size=3))
    return {
        "backbone": {"name": draw(st.text(min_size=1)), "weights": draw(st.text(min_size=1)), "args": args},
        "head": {"num_classes": draw(st.integers(0, 2000))},
        "variant": draw(components("variants")),
        "dispatcher": draw(components("dispatchers")),
        "adapter": draw(components("adapters")),
        "objective": objective,
        "trainable": draw(st.sampled_from(["adapters", "full"])),
        "reducer": draw(st.none() | components("reducers")),
    }
