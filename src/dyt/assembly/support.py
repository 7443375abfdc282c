"""What can be built on which backbone, and why not the rest: of a timm model, and of every family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dyt import families, registry
from dyt.assembly import backbone as backbones
from dyt.assembly.compatibility import refusal, unknown_blocks
from dyt.model.block import DynamicBlock


@dataclass(frozen=True)
class Support:
    """What `dyt.supports` answers.

    Attributes:
        name: the timm name asked about.
        family: the family that knows its blocks, or None.
        variants: the variants that can be built.
        refused: for every other variant, why not.
    """

    name: str
    family: str | None
    variants: tuple[str, ...]
    refused: Mapping[str, str]

    def __bool__(self) -> bool:
        return bool(self.variants)

    def __contains__(self, variant: object) -> bool:
        return variant in self.variants


def supports(name: str, **args: Any) -> Support:
    """Which variants can be built on a timm model, and why not the others; costs no memory for weights.

    Args:
        name: as for `timm.create_model`.
        **args: plain values for `timm.create_model`.

    Raises:
        SpecError: a name or an argument that timm does not know.
    """
    backbone = backbones.on_meta(name, **args)
    offered = dict(registry.variants.items())
    found = families.find(backbone)
    if found is None:
        return Support(name, None, (), dict.fromkeys(offered, unknown_blocks(backbone)))
    reasons = {variant: refusal(found[1], backbone, cls) for variant, cls in offered.items()}
    return Support(
        name,
        found[0],
        tuple(variant for variant, reason in reasons.items() if reason is None),
        {variant: reason for variant, reason in reasons.items() if reason is not None},
    )


def support_matrix() -> list[Support]:
    """What `supports` says of every registered family, by its examples; in the families' order.

    Of a family whose backbones can only be given (another library's), `name` is empty and the answer is that of its
    branches: what a single backbone of it may be refused for is said when it is given.
    """
    found = []
    for name, family in registry.families.items():
        if family.examples:
            found += [supports(example) for example in family.examples]
            continue
        offered = registry.variants.items()
        bare = {key: f"it has no {_lacking(family, cls)} branch" for key, cls in offered if _lacking(family, cls)}
        found.append(Support("", name, tuple(key for key, _ in offered if key not in bare), bare))
    return found


def _lacking(family: type[families.Family], variant: type[DynamicBlock]) -> str:
    return next((branch for branch in variant.dispatched if branch not in family.children), "")
