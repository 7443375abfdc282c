"""Which laws concern which kind of component, and what is drawn for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from torch import nn

from dyt import families
from dyt.assembly.compatibility import refusal
from dyt.assembly.plan import tuner_of
from dyt.config.spec import DyTSpec, parse
from dyt.errors import DyTError
from dyt.registry import tuners, variants
from dyt.testing import laws, parts, reduction, refusals
from dyt.testing.cases import Case, GivenCase
from dyt.testing.head_table import head_laws
from dyt.testing.law import Law
from dyt.testing.schema import depths
from dyt.testing.strategies import (
    DTYPES,
    LAYOUTS,
    SEEDS,
    batches,
    cases,
    chosen,
    component,
    draws_at_inference,
    mask_kinds,
    names,
    needs_attention,
    reducing,
    specs,
)

FLOAT32 = ("float32",)
EXECUTION = (1, 2, 4)
"""The laws for whole models that an executor can break; training, files and counting have executors of their own."""


def laws_of(kind: str, name: str, backbone: Callable[[], nn.Module] | None, size: int | None) -> list[Law]:
    """The laws that concern this component."""
    if backbone is not None:
        return _family(name, backbone, size)
    tables = {
        "dispatchers": _dispatcher,
        "adapters": _adapter,
        "variants": _variant,
        "executors": _executor,
        "tuners": _tuner,
        "reducers": _reducer,
        "heads": head_laws,
    }
    return sorted(tables[kind](name), key=lambda law: law.number)


def _dispatcher(name: str) -> list[Law]:
    found = _models(dispatcher=name)
    alone = {
        "dispatcher": component("dispatchers", name),
        "seed": SEEDS,
        "prefix": st.integers(0, 5),
        "training": st.booleans(),
    }
    return [*found, Law(5, "padding tokens are never active", parts.padding_is_inactive, alone), _spec(dispatcher=name)]


def _adapter(name: str) -> list[Law]:
    alone = {"adapter": component("adapters", name), "seed": SEEDS}
    return [
        Law(1, "a new one adds nothing", parts.adapter_starts_at_zero, alone | {"training": st.booleans()}),
        *_models(adapter=name),
        Law(5, "padding tokens change no other token", parts.adapter_leaves_padding_out, alone),
        _spec(adapter=name),
    ]


def _variant(name: str) -> list[Law]:
    return [*_models(variant=name), _spec(variant=name)]


def _executor(name: str) -> list[Law]:
    batch = batches()
    tokens, both = batch.map(lambda b: b[0]), st.tuples(batch, st.sampled_from(parts.METHODS))
    one = {"executor": name}
    return [
        *(law for law in _models(executor=name) if law.number in EXECUTION),
        Law(
            2,
            "mixing branches see the active tokens only",
            lambda batch, executor: parts.mixing_sees_active_tokens_alone(executor, *batch),
            {"batch": batch},
            one,
        ),
        Law(
            2,
            "pointwise branches are 0 at inactive tokens",
            lambda batch, executor: parts.pointwise_zeroes_the_rest(executor, *batch),
            {"batch": batch},
            one,
        ),
        Law(
            2,
            "a branch is added to active tokens only",
            lambda batch, executor: parts.onto_adds_the_branch_at_active_tokens(executor, *batch),
            {"batch": batch},
            one,
        ),
        Law(
            2,
            "a dense route runs the branch unchanged",
            parts.dense_runs_the_branch_as_it_is,
            {"x": tokens, "method": st.sampled_from(parts.METHODS)},
            one,
        ),
        Law(
            2,
            "gradients at active tokens equal those of masked",
            lambda both, executor: parts.gradients_equal_masked(executor, both[1], *both[0]),
            {"both": both},
            one,
        ),
    ]


def _tuner(name: str) -> list[Law]:
    starts_plain = tuners.get(name).starts_plain
    found = [law for law in _models(tuner=name) if starts_plain or law.number != 1]
    able = (law if law.number == 11 else replace(law, concerns=_can_be_tuned) for law in found)
    return [*able, _spec(tuner=name)]


def _can_be_tuned(drawn: Mapping[str, Any]) -> bool:
    """Whether the drawn tuner does not refuse the drawn backbone."""
    plain, tuner = drawn["case"].plain(), tuner_of(parse(DyTSpec, {"tuner": drawn["chosen"]["tuner"]}))
    found = families.find(plain)
    return tuner is not None and found is not None and tuner.refusal(plain, found[1]) is None


def _reducer(name: str) -> list[Law]:
    # No law 1: fewer tokens are another function. Law 2 in float32: in less, two executors' rounding may tip which
    # tokens a later block keeps.
    exact = cases(dtypes=FLOAT32, reducer=name)
    found = [
        replace(law, drawn={**law.drawn, "case": exact}) if law.number == 2 else law
        for law in _models(reducer=name)
        if law.number != 1
    ]
    alone = {
        "reducer": reducing(name),
        "seed": SEEDS,
        "prefix": st.integers(1, 5),
        "patches": st.integers(0, 20),
        "depth": st.sampled_from(depths(name)),
        "training": st.booleans(),
    }
    return [
        *found,
        _spec(reducer=name),
        Law(9, "prefix tokens are untouched, kept tokens stay in order", reduction.reducer_keeps_the_order, alone),
    ]


def _spec(**fixed: str) -> Law:
    wanted = st.tuples(specs(), chosen(**fixed)).map(lambda both: both[0] | both[1])
    if "tuner" in fixed:
        wanted = wanted.map(lambda plain: plain | {"trainable": "adapters"})  # nothing else goes with a tuner
    return Law(6, "a spec survives JSON and YAML", laws.spec_survives, {"plain": wanted})


def _models(**fixed: str) -> list[Law]:
    """The laws for whole models, over random ViTs; `fixed` names the component in question by its slot."""
    executors = [fixed.pop("executor")] if "executor" in fixed else names("executors")
    dispatcher, reducer = fixed.get("dispatcher"), fixed.get("reducer")
    picked = chosen(**fixed)
    any_case = cases(dispatcher=dispatcher, reducer=reducer)
    pooled = cases(pooled=True, stochastic=True, dispatcher=dispatcher, reducer=reducer)
    many = pooled.filter(lambda case: case.vit["img_size"] > case.vit["patch_size"])  # more than one patch
    # Two patches are equally far from their mean whatever the image: a tie for all that measures from it.
    exact = cases(dtypes=FLOAT32, batch=4, dispatcher=dispatcher, reducer=reducer).filter(_untied)
    each = st.sampled_from(executors)
    return _whole(any_case, many, exact, any_case.filter(_untied), picked, executors, each, dispatcher)


def _untied(case: Case) -> bool:
    return case.patches != 2


def _whole(
    case: st.SearchStrategy[Any],
    trained: st.SearchStrategy[Any],
    exact: st.SearchStrategy[Any],
    counted: st.SearchStrategy[Any],
    picked: st.SearchStrategy[dict[str, Any]],
    executors: list[str],
    each: st.SearchStrategy[str],
    dispatcher: str | None,
) -> list[Law]:
    first = {"case": case, "chosen": picked}
    draws = dispatcher is not None and draws_at_inference(dispatcher)
    steady = picked if dispatcher else picked.filter(lambda c: not draws_at_inference(c["dispatcher"]["type"]))
    heads = st.sampled_from([None, 9])
    # Two forwards of a dispatcher that draws are not the same tokens, so that there is nothing to count twice.
    policies = st.sampled_from(["forced", "complete"] if draws else ["forced", "routed", "complete"])
    found = [
        Law(
            1,
            "with everything active the model equals the plain one",
            laws.starts_as_the_backbone,
            first,
            {"executors": executors},
        ),
        Law(
            2,
            "every executor equals masked",
            laws.executor_equals_masked,
            first | {"executor": each, "kinds": mask_kinds},
        ),
        Law(
            2,
            "a dispatcher's own routes give equal results in every executor",
            laws.own_routes_equal_masked,
            first | {"executor": each},
        ),
        Law(
            3,
            "training leaves the backbone unchanged and reaches everything trainable",
            laws.training_keeps_the_backbone,
            {"case": trained, "chosen": picked, "checkpointing": st.booleans()},
        ),
        Law(
            4,
            "the images of a batch do not affect one another",
            laws.images_do_not_meet,
            {"case": exact, "chosen": steady, "executor": each},
        ),
        Law(5, "prefix tokens are always active", laws.prefix_is_active, first | {"training": st.booleans()}),
        Law(7, "a saved file loads into an equal model", laws.file_loads_equal, first | {"other_head": heads}),
        Law(
            8,
            "count_macs equals what sparse executes",
            laws.macs_are_what_sparse_executes,
            {"case": counted, "chosen": steady, "policy": policies, "kinds": mask_kinds},
        ),
        Law(11, "what is refused or fails leaves the backbone", refusals.refusal_leaves_the_backbone, first),
    ]
    return [law for law in found if not (draws and law.number == 4)]


def _family(name: str, backbone: Callable[[], nn.Module], size: int | None) -> list[Law]:
    plain = backbone()
    found = families.find(plain)
    if found is None or found[0] != name:
        other = f"; '{found[0]}' does" if found else ""
        raise AssertionError(f"families '{name}' is not the one that knows {type(plain).__name__}{other}")
    classes = getattr(plain, "num_classes", 0)
    if not isinstance(classes, int) or classes < 2:
        raise DyTError(f"backbone() has num_classes {classes}; give one with a head of 2 classes or more")
    side = _side(plain) if size is None else size
    offered = [v for v, cls in variants.items() if refusal(found[1], plain, cls) is None]
    if not offered:
        raise AssertionError(f"families '{name}' offers no variant for {type(plain).__name__}")
    policies = [d for d in names("dispatchers") if not needs_attention(d) or not found[1].attention_refusal(plain)]
    case = st.builds(
        GivenCase,
        st.just(backbone),
        st.just((side, side)),
        st.integers(1, 3),
        SEEDS,
        st.sampled_from(LAYOUTS),
        st.sampled_from(DTYPES),
        st.just(classes),
    )
    exact = case.map(lambda c: GivenCase(c.make, c.image, c.batch, c.seed, c.layout, "float32", c.classes))
    laws_found: list[Law] = []
    for variant in offered:
        picked = st.fixed_dictionaries(
            {
                "variant": st.just({"type": variant}),
                "dispatcher": st.sampled_from(policies).map(lambda d: {"type": d}),
                "adapter": st.just({"type": "bottleneck", "dim": 8, "dropout": 0.0}),
            }
        )
        executors = names("executors")
        rows = _whole(case, case, exact, case, picked, executors, st.sampled_from(executors), None)
        laws_found += [Law(r.number, f"{variant}: {r.says}", r.holds, r.drawn, r.fixed) for r in rows]
    return sorted(laws_found, key=lambda law: law.number)


def _side(backbone: Any) -> int:
    """The side of the images that a backbone says it takes, in pixels.

    Raises:
        DyTError: it does not say, or they are not square.
    """
    patches, config = getattr(backbone, "patch_embed", None), getattr(backbone, "default_cfg", None)
    said = getattr(patches, "img_size", None) or getattr(backbone, "img_size", None)
    if said is None and isinstance(config, Mapping):
        said = config.get("input_size", (None,))[-1]
    side = said[0] if isinstance(said, (tuple, list)) and len(set(said)) == 1 else said
    if not isinstance(side, int):
        raise DyTError(f"{type(backbone).__name__} does not say which images it takes ({said}); give check(..., size=)")
    return side
