"""Which laws concern a head, and what is drawn for each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from dyt import families, registry
from dyt.assembly.compatibility import refusal
from dyt.testing import heads, laws
from dyt.testing.head_strategies import head_cases, headed
from dyt.testing.law import Law
from dyt.testing.schema import allowed
from dyt.testing.strategies import DTYPES, chosen, companions, draws_at_inference, mask_kinds, names, specs


def head_laws(name: str) -> list[Law]:
    """The laws that concern this head."""
    refused = registry.heads.get(name).divergence_refusal is not None
    frozen: dict[str, Any] = {"tuner": None, "modules_to_save": [], "trainable": "adapters"}
    kept = frozen if registry.heads.get(name).taught else {}  # by the backbone as it was
    objective = laws.OBJECTIVE | ({"distill": 0.0} if refused else {})
    adapter = {"type": "bottleneck", "dim": 4, "dropout": 0.0}
    common = {"dispatcher": companions("dispatchers"), "adapter": st.just(adapter), "objective": st.just(objective)}
    picked = st.fixed_dictionaries({"variant": companions("variants"), **common})
    pointwise = st.fixed_dictionaries({"variant": st.just({"type": "mlp"}), **common})
    exact, trained = head_cases(headed(name)), head_cases(headed(name), DTYPES[:2])
    wild = head_cases(allowed("heads", name))
    each = {"case": exact, "chosen": picked}
    # Fewer tokens than patches: only of ToMe is it known where each one went, so that any other head may read them.
    reduced = pointwise.map(lambda c: c | {"dispatcher": {"type": "learned"}, "reducer": {"type": "tome", "r": 1}})
    whole = st.tuples(specs(), chosen(), headed(name)).map(
        lambda drawn: {
            **drawn[0],
            **drawn[1],
            **kept,
            "head": drawn[2],
            "objective": drawn[0]["objective"] | ({"distill": 0.0} if refused else {}),
        }
    )
    found = [
        Law(
            1,
            "with everything active the outputs equal those on the plain backbone",
            heads.head_reads_the_plain_backbone,
            each,
        ),
        Law(
            2,
            "every executor gives the outputs of masked, and repeats them",
            heads.outputs_equal_masked,
            each | {"executor": st.sampled_from(names("executors")), "kinds": mask_kinds},
        ),
        Law(
            3,
            "training leaves the backbone unchanged and reaches everything trainable",
            laws.training_keeps_the_backbone,
            {"case": trained, "chosen": picked, "checkpointing": st.booleans()},
            {"steps": 1},
        ),
        *(
            []
            if refused
            else [Law(4, "the inputs of a batch do not affect one another", heads.inputs_do_not_meet, each)]
        ),
        Law(7, "a saved file loads into an equal model", laws.file_loads_equal, each),
        Law(
            8,
            "count_macs equals what sparse executes",
            laws.macs_are_what_sparse_executes,
            {
                "case": exact,
                # In a mixing branch the frames of a clip are padded to the longest, which is no frame's own cost.
                "chosen": pointwise.filter(lambda c: not draws_at_inference(c["dispatcher"]["type"])),
                "policy": st.sampled_from(["routed", "complete"]),
                "kinds": st.just(["all"]),
            },
        ),
        Law(10, "the loss trains the head; a divergence, or the reason for none", heads.head_can_be_trained, each),
    ]
    if registry.heads.get(name).reads_grid:
        law = Law(11, "it is refused with a reducer", heads.refusal_changes_nothing, each | {"chosen": reduced})
        found.append(law)
    return [
        *(replace(law, concerns=_can_stand) for law in found),
        Law(6, "a spec survives JSON and YAML", laws.spec_survives, {"plain": whole}),
        Law(
            11,
            "a refused backbone is left unchanged",
            heads.refusal_changes_nothing,
            {"case": wild, "chosen": st.one_of(picked, reduced)},
        ),
    ]


def _can_stand(drawn: Mapping[str, Any]) -> bool:
    """Whether the drawn head does not refuse the drawn backbone, which can have the drawn variant."""
    plain, head = drawn["case"].plain(), drawn["case"].head_spec
    found = families.find(plain)
    if found is None or refusal(found[1], plain, registry.variants.get(drawn["chosen"]["variant"]["type"])) is not None:
        return False
    return registry.heads.get(head.type).refusal(head, plain, found[1]) is None
