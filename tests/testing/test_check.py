"""`check` finds what it is for: each component here breaks one law, and is told which, with an example."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import pytest
import torch
from hypothesis import find
from pydantic import Field, field_serializer
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import dyt
from dyt.adapters import Adapter, AdapterSpec
from dyt.core.context import BuildContext
from dyt.core.route import Route
from dyt.dispatchers import Decision, DecisionContext, Dispatcher, DispatcherSpec, RatedSpec
from dyt.executors import Masked
from dyt.families import Family, ViT
from dyt.reducers import Carried, Reduced, Reducer, ReducerSpec
from dyt.testing import check
from dyt.testing.reduction import reducer_keeps_the_order
from dyt.testing.schema import depths, stands, values
from dyt.tuners import VPT, BitFit, Tuner
from dyt.variants import MLPVariant
from laws.models import TINY


@pytest.fixture(autouse=True)
def _registries() -> Iterator[None]:
    with ExitStack() as stack:
        for registry in dyt.registry.KINDS.values():
            stack.enter_context(registry.temporary())
        yield


def broken(kind: str, number: int, component: type, examples: int = 6, **given: Any) -> str:
    """The message of the law that the component breaks."""
    dyt.registry.KINDS[kind]("broken")(component)
    with pytest.raises(AssertionError) as caught:
        check(kind, "broken", examples=examples, **given)
    message = str(caught.value)
    assert message.startswith(f"law {number} (")
    assert f"does not hold for {kind} 'broken'\nexample: " in message
    return message


def test_a_report_says_which_laws_and_how_often() -> None:
    before = torch.get_rng_state()
    report = check("dispatchers", "always", examples=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert (report.kind, report.name, report.origin) == ("dispatchers", "always", "dyt")
    assert [law.number for law in report.laws] == sorted(law.number for law in report.laws)
    assert {law.number for law in report.laws} == {1, 2, 3, 4, 5, 6, 7, 8, 11}
    assert all(law.examples == 2 for law in report.laws)
    assert "law 4: the images of a batch do not affect one another (2 examples)" in str(report)


def test_one_that_draws_is_excused_from_law_4_when_it_says_so() -> None:
    assert 4 not in {law.number for law in check("dispatchers", "random", examples=1).laws}

    class Draws(Dispatcher):
        def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
            return Decision(torch.rand(tokens.shape[:2]) < 0.5)

    broken("dispatchers", 4, Draws)


def test_a_dispatcher_that_compares_images() -> None:
    class Compares(Dispatcher):
        Spec = RatedSpec

        def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
            size = tokens.detach().float().norm(dim=-1)
            return Decision(size > size.mean())

    message = broken("dispatchers", 4, Compares)
    assert "routed otherwise than in its batch" in message
    assert "Case(vit=" in message


def test_a_dispatcher_that_looks_at_padding() -> None:
    class Looks(Dispatcher):
        def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
            size = tokens.detach().float().norm(dim=-1)
            return Decision(size > size.mean(1, keepdim=True))

    assert "what stands in padding tokens" in broken("dispatchers", 5, Looks)


def test_an_adapter_that_starts_somewhere() -> None:
    class Starts(Adapter):
        def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
            return x * 1e-3

    assert "adds something other than 0" in broken("adapters", 1, Starts)


def test_an_adapter_with_a_parameter_that_nothing_reaches() -> None:
    class Idle(Adapter):
        def __init__(self, spec: AdapterSpec, dim: int) -> None:
            super().__init__(spec, dim)
            self.idle = nn.Parameter(torch.zeros(dim))

        def forward(self, x: Tensor, padding: Tensor | None = None) -> None:
            return None

    assert "not reached by the gradient" in broken("adapters", 3, Idle)


def test_an_adapter_whose_state_is_not_saved() -> None:
    class Forgets(Adapter):
        def __init__(self, spec: AdapterSpec, dim: int) -> None:
            super().__init__(spec, dim)
            self.gain = nn.Parameter(torch.zeros(dim))
            self.sign = torch.randn(dim)

        def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
            return (x * self.gain * self.sign).to(x.dtype)

    assert "answers otherwise than the saved one" in broken("adapters", 7, Forgets)


def test_a_spec_that_does_not_come_back() -> None:
    class RoundedSpec(AdapterSpec):
        type: str = "broken"
        size: Annotated[int, Field(ge=1, le=9)] = 5

        @field_serializer("size")
        def _shrink(self, size: int) -> int:
            return max(1, size - 1)

    class Rounded(Adapter):
        Spec = RoundedSpec

        def forward(self, x: Tensor, padding: Tensor | None = None) -> None:
            return None

    assert "not the same spec again" in broken("adapters", 6, Rounded)


def test_an_executor_that_forgets_the_mask() -> None:
    class Forgets(Masked):
        def pointwise(self, fn: Any, x: Tensor, route: Route) -> Tensor:
            return fn(x)

    broken("executors", 2, Forgets, examples=12)


def test_a_variant_that_adds_twice() -> None:
    class Twice(MLPVariant):
        def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            out = super().forward(x, *args, **kwargs)
            return out + self.branch("mlp", out)

    broken("variants", 1, Twice)


def test_a_family_that_forgets_the_norm() -> None:
    class OtherViT(VisionTransformer):
        pass

    class Forgets(ViT):
        def matches(self, backbone: nn.Module) -> bool:
            return isinstance(backbone, OtherViT)

        def mlp(self, block: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return block.mlp(x)

    broken("families", 1, Forgets, backbone=lambda: OtherViT(num_classes=3, **TINY))


def test_a_family_is_checked_with_a_model_of_its_own() -> None:
    report = check("families", "vit", backbone=lambda: VisionTransformer(num_classes=3, **TINY), examples=1)
    assert {law.says.partition(":")[0] for law in report.laws} == set(dyt.list("variants"))
    with pytest.raises(AssertionError, match="families 'vit' is not the one that knows Linear"):
        check("families", "vit", backbone=lambda: nn.Linear(2, 2))
    with pytest.raises(dyt.DyTError, match="num_classes 0; give one with a head"):
        check("families", "vit", backbone=lambda: VisionTransformer(num_classes=0, **TINY))


@pytest.mark.parametrize("name", ["bitfit", "lora", "vpt"])
def test_the_library_s_tuners_keep_the_laws(name: str) -> None:
    laws = {law.number for law in check("tuners", name, examples=2).laws}
    assert laws == {2, 3, 4, 5, 6, 7, 8, 11} | (set() if name == "vpt" else {1})


class NoChange(Tuner):
    """Trains the biases and changes nothing: what the broken ones below start from."""

    def refusal(self, backbone: nn.Module, family: Family) -> str | None:
        return None

    def apply(self, backbone: nn.Module, family: Family) -> None:
        pass

    def trains(self, name: str) -> bool:
        return name.endswith("bias")


def test_a_tuner_that_starts_elsewhere_and_does_not_say_so() -> None:
    class Silent(VPT):
        starts_plain = True

    broken("tuners", 1, Silent)


def test_a_tuner_that_overwrites_frozen_weights() -> None:
    class Overwrites(NoChange):
        starts_plain = False

        def apply(self, backbone: nn.Module, family: Family) -> None:
            with torch.no_grad():
                backbone.get_parameter("patch_embed.proj.weight").mul_(1.01)

    message = broken("tuners", 3, Overwrites)
    assert "not what the plain backbone had, though frozen: ['patch_embed.proj.weight']" in message


def test_a_tuner_that_trains_nothing() -> None:
    class Idle(NoChange):
        def trains(self, name: str) -> bool:
            return False

    assert "the tuner names nothing that it trains" in broken("tuners", 3, Idle)


def test_a_tuner_that_calls_what_it_added_the_backbone_s() -> None:
    class Adds(NoChange):
        def apply(self, backbone: nn.Module, family: Family) -> None:
            backbone.register_parameter("gain_bias", nn.Parameter(torch.zeros(1)))
            backbone.register_forward_hook(lambda module, args, out: out + module.gain_bias.to(out.dtype))

    assert "other keys than the plain backbone's: ['gain_bias']" in broken("tuners", 3, Adds)


def test_a_tuner_whose_state_is_not_saved() -> None:
    class Forgets(BitFit):
        def apply(self, backbone: nn.Module, family: Family) -> None:
            shift = torch.randn(())
            backbone.register_forward_hook(lambda module, args, out: out + shift.to(out.dtype))

        starts_plain = False

    assert "answers otherwise than the saved one" in broken("tuners", 7, Forgets)


def test_a_tuner_is_tried_where_it_does_not_refuse() -> None:
    """And if that is nowhere, the check says so."""

    class Choosy(NoChange):
        asked: ClassVar[list[bool]] = []

        def refusal(self, backbone: nn.Module, family: Family) -> str | None:
            self.asked.append(len(family.blocks(backbone)) == 2)
            return None if self.asked[-1] else "it has not two blocks"

    dyt.registry.tuners("choosy")(Choosy)
    assert {law.number for law in check("tuners", "choosy", examples=1).laws} == {1, 2, 3, 4, 5, 6, 7, 8, 11}
    assert False in Choosy.asked

    class Never(NoChange):
        def refusal(self, backbone: nn.Module, family: Family) -> str | None:
            return "not today"

    dyt.registry.tuners("never")(Never)
    with pytest.raises(AssertionError, match=r"law 1 \(.*\) could not be tried for tuners 'never'"):
        check("tuners", "never", examples=1)


@pytest.mark.parametrize("name", ["dynamicvit", "evit", "tome"])
def test_the_library_s_reducers_keep_the_laws(name: str) -> None:
    assert {law.number for law in check("reducers", name, examples=2).laws} == {2, 3, 4, 5, 6, 7, 8, 9, 11}


class First(Reducer):
    """Keeps the first half of the patch tokens in every block: what the broken ones below start from."""

    @classmethod
    def layers(cls, spec: ReducerSpec, depth: int) -> tuple[int, ...]:
        return tuple(range(depth))

    def kept(self, patches: Tensor, context: DecisionContext) -> Tensor:
        return patches[:, : (patches.shape[1] + 1) // 2]

    def reduce(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
        prefix, patches = x[:, : context.prefix], x[:, context.prefix :]
        return Reduced(torch.cat([prefix, self.kept(patches, context)], 1), carried)


def test_what_the_broken_reducers_start_from_is_whole() -> None:
    dyt.registry.reducers("first")(First)
    assert {law.number for law in check("reducers", "first", examples=2).laws} == {2, 3, 4, 5, 6, 7, 8, 9, 11}


def alone(reducer: type[Reducer]) -> str:
    """The message of law 9, for a reducer that breaks it."""
    dyt.registry.reducers("broken")(reducer)
    with pytest.raises(AssertionError) as caught:
        reducer_keeps_the_order({"type": "broken"}, seed=0, prefix=1, patches=6, depth=2, training=False)
    return str(caught.value)


def test_a_reducer_that_draws_at_inference() -> None:
    class Draws(First):
        def kept(self, patches: Tensor, context: DecisionContext) -> Tensor:
            order = torch.randperm(patches.shape[1])[: (patches.shape[1] + 1) // 2]
            return patches[:, order.sort().values]

    broken("reducers", 2, Draws, examples=12)


def test_a_reducer_with_a_parameter_that_nothing_reaches() -> None:
    class Idle(First):
        def __init__(self, spec: ReducerSpec, context: BuildContext) -> None:
            super().__init__(spec, context)
            self.idle = nn.Parameter(torch.zeros(context.dim))

    assert "not reached by the gradient" in broken("reducers", 3, Idle)


def test_a_reducer_that_compares_images() -> None:
    class Compares(First):
        def kept(self, patches: Tensor, context: DecisionContext) -> Tensor:
            size = patches.detach().float().norm(dim=-1).sum(0)  # one order for the whole batch
            return patches[:, size.argsort(descending=True)[: (patches.shape[1] + 1) // 2].sort().values]

    broken("reducers", 4, Compares, examples=12)


def test_a_reducer_that_touches_prefix_tokens() -> None:
    class Touches(First):
        def reduce(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
            return super().reduce(x * 1.01, carried, context)

    assert "block 0 of 2: a prefix token is not what it was" in alone(Touches)


def test_a_reducer_that_changes_the_order() -> None:
    class Turns(First):
        def kept(self, patches: Tensor, context: DecisionContext) -> Tensor:
            return super().kept(patches, context).flip(1)

    assert re.search(
        r"block 0 of \d: kept tokens are not in ascending order: \[(\d, )*1, 0\]", broken("reducers", 9, Turns, 3)
    )


def test_a_reducer_whose_sizes_are_wrong() -> None:
    class Heavy(First):
        def reduce(self, x: Tensor, carried: Carried, context: DecisionContext) -> Reduced:
            x = super().reduce(x, carried, context).x
            return Reduced(x, replace(carried, sizes=torch.full(x.shape[:2], 3.0)))

    assert "a prefix token's size is not 1" in alone(Heavy)


def test_a_reducer_that_restores_and_has_no_source() -> None:
    class Restores(First):
        restores = True

    assert "it says that it restores, and has no source" in alone(Restores)


def test_a_reducer_is_tried_at_depths_that_it_fits() -> None:
    class Deep(First):
        @classmethod
        def layers(cls, spec: ReducerSpec, depth: int) -> tuple[int, ...]:
            if depth < 5:
                raise dyt.SpecError(f"reducer.layers: no block 4; the backbone has {depth}")
            return (4,)

    dyt.registry.reducers("deep")(Deep)
    assert depths("deep") == [5, 6, 7]
    assert not stands("deep", {"type": "deep"}, 4)
    assert {law.number for law in check("reducers", "deep", examples=1).laws} == {2, 3, 4, 5, 6, 7, 8, 9, 11}


class Errs(Dispatcher):
    Spec = DispatcherSpec
    said: ClassVar[str] = "cannot be had today"

    def decide(self, tokens: Tensor, context: DecisionContext) -> Decision:
        raise RuntimeError(self.said)


def test_any_error_of_a_component_is_told_with_its_law() -> None:
    assert broken("dispatchers", 2, Errs).endswith(f"RuntimeError: {Errs.said}")


@pytest.mark.parametrize(
    ("arguments", "given", "words"),
    [
        (("dispatcher", "always"), {}, "no kind of component 'dispatcher'; did you mean 'dispatchers'?"),
        (("dispatchers", "alway"), {}, "did you mean 'always'?"),
        (("dispatchers", "always"), {"backbone": nn.Identity}, "takes no backbone="),
        (("families", "vit"), {}, "needs backbone="),
        (("dispatchers", "always"), {"examples": 0}, "examples is 0; give 1 or more"),
    ],
)
def test_what_is_wrong_is_refused_in_one_line(arguments: tuple[str, str], given: Any, words: str) -> None:
    with pytest.raises(dyt.DyTError) as caught:
        check(*arguments, **given)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_hypothesis_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(dyt.DyTError, match="needs hypothesis; run: pip install"):
        check("dispatchers", "always")


class ManySpec(DispatcherSpec):
    count: Annotated[int, Field(gt=2)] = 3
    share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    free: float = 0.0
    soft: bool = False
    how: Literal["a", "b"] | None = None
    names: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("field", "seen"),
    [
        ("count", lambda v: v == 18),
        ("share", lambda v: 0 < v < 1),
        ("soft", lambda v: v is True),
        ("how", lambda v: v is None),
        ("how", lambda v: v == "b"),
    ],
)
def test_simple_fields_are_drawn_within_their_bounds(field: str, seen: Any) -> None:
    part = ManySpec.model_json_schema()["properties"][field]
    strategy = values(part)
    assert strategy is not None
    find(strategy, seen)
    with pytest.raises(Exception, match="No examples found"):
        find(strategy, lambda value: field == "count" and value <= 2)


@pytest.mark.parametrize("field", ["free", "names"])
def test_other_fields_keep_their_defaults(field: str) -> None:
    assert values(ManySpec.model_json_schema()["properties"][field]) is None
