"""`check`: tests one registered component, also of a third party, against the library's laws."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dyt.errors import DyTError, nearest
from dyt.registry import KINDS


@dataclass(frozen=True)
class Held:
    """A law that held.

    Attributes:
        number: of the law in docs/design.md.
        says: the law in words, for this component.
        examples: how many examples it held for.
    """

    number: int
    says: str
    examples: int


@dataclass(frozen=True)
class Report:
    """The result of a `check` in which every law holds; `str` of it is a table.

    Attributes:
        kind: dispatchers, adapters, variants, executors, families, tuners, reducers or heads.
        name: the component's.
        origin: who brought it, as `dyt list` says it.
        laws: the laws that were tested; all hold.
    """

    kind: str
    name: str
    origin: str
    laws: tuple[Held, ...]

    def __str__(self) -> str:
        rows = [f"law {law.number}: {law.says} ({law.examples} examples)" for law in self.laws]
        return "\n".join([f"{self.kind} '{self.name}' of {self.origin} satisfies the laws:", *rows])


def check(
    kind: str,
    name: str,
    *,
    backbone: Callable[[], nn.Module] | None = None,
    examples: int = 12,
    size: int | None = None,
) -> Report:
    """Tests a registered component against the laws, on small random models, the same ones at every call.

    Warnings are errors inside. Fields of its spec are varied too, if their JSON schema is simple (bounded numbers,
    booleans, literals); unbounded fields keep their default. A dispatcher that draws random numbers at inference
    sets `draws_at_inference = True` and is exempt from law 4. A tuner whose additions take effect from the start
    sets `starts_plain = False` and is exempt from law 1. A reducer is exempt from law 1, since fewer tokens are
    another function; it is tested with the variants and heads that accept it, on ViTs.
    A head is tested on the small ViTs and Swins that its `refusal` accepts, and trained with its `example_targets`. A
    head with a `divergence_refusal` is exempt from law 4, and its outputs are compared in train mode.

    Args:
        kind: dispatchers, adapters, variants, executors, families, tuners, reducers or heads.
        name: the registered name.
        backbone: for a family only: creates a small model of it, a new one at each call, with a head of at
            least two classes.
        examples: the number of examples for each law, at most.
        size: side of the square images for the backbone, in pixels; None reads it from the backbone
            (`patch_embed.img_size`, `default_cfg` or `img_size`).

    Returns:
        The laws that were tested, with the number of examples; all hold.

    Raises:
        AssertionError: a law does not hold; the message has the law, the first failing example, and what is wrong.
        DyTError: no such kind or name, a missing or needless `backbone`, or no hypothesis.
    """
    if kind not in KINDS:
        raise DyTError(f"no kind of component '{kind}'; {nearest(kind, KINDS)}")
    limits = getattr(KINDS[kind].get(name), "limits", None)
    if limits is not None:
        raise DyTError(f"check: executor '{name}' is for {limits}; the laws are for executors that take every branch")
    if (backbone is not None) != (kind == "families"):
        raise DyTError(
            f"check('families', '{name}') needs backbone=, a function that makes a small model of the family"
            if kind == "families"
            else f"check('{kind}', ...) takes no backbone=; that is for families"
        )
    if examples < 1:
        raise DyTError(f"examples is {examples}; give 1 or more")
    try:
        import hypothesis  # noqa: F401
    except ModuleNotFoundError:
        raise DyTError("dyt.testing.check needs hypothesis; run: pip install 'hypothesis>=6.110'") from None
    from dyt.testing.tables import laws_of

    # The caller's random state, and its filters of warnings, are left as they were.
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("error")
        laws = laws_of(kind, name, backbone, size)
        held = tuple(Held(law.number, law.says, _tried(kind, name, law, examples)) for law in laws)
    return Report(kind, name, KINDS[kind].origin(name), held)


def _tried(kind: str, name: str, law: Any, examples: int) -> int:
    """The number of examples for which the law holds.

    Raises:
        AssertionError: it does not hold for one, or no example could be drawn.
    """
    from hypothesis import HealthCheck, Phase, Verbosity, given, settings
    from hypothesis import strategies as st
    from hypothesis.errors import HypothesisException

    tried, last = 0, ""

    # Not shrunk: that would take hundreds of models, and examples are small already and start with the simplest.
    # A slow machine is not the component's fault; all other health checks apply.
    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=examples,
        phases=(Phase.generate,),
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(st.fixed_dictionaries(law.drawn).filter(law.concerns))
    def example(drawn: dict[str, Any]) -> None:
        nonlocal tried, last
        tried, last = tried + 1, ", ".join(f"{key}={value!r}" for key, value in drawn.items())
        law.holds(**law.fixed, **drawn)

    title = f"law {law.number} ({law.says}) does not hold for {kind} '{name}'"
    try:
        example()
    except HypothesisException as error:
        raise AssertionError(f"{title.replace('does not hold', 'could not be tried')}: {error}") from error
    except Exception as error:  # whatever a component raises in the middle of a forward breaks the law as well
        what = str(error) if isinstance(error, AssertionError) else f"{type(error).__name__}: {error}"
        raise AssertionError(f"{title}\nexample: {last}\n{what}") from error
    return tried
