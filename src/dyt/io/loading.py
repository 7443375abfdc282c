"""Loading a saved file: all or nothing, never unpickling, and nothing beside the file on its own word.

The way: the header, what the spec and the metadata say, the tensors' checksum, the model without memory, and only then
the backbone and its weights.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt import families
from dyt.assembly.build import apply
from dyt.assembly.compatibility import is_dynamic
from dyt.assembly.plan import plan
from dyt.assembly.rollback import rollback
from dyt.config.spec import DyTSpec, parse
from dyt.core import data_config
from dyt.core.breakeven import BreakEven
from dyt.core.budgets import BudgetTable
from dyt.core.data_config import DataConfig
from dyt.core.interop import bridged
from dyt.core.randomness import untouched
from dyt.core.versions import reset_classifier
from dyt.errors import CheckpointError
from dyt.io import budgets
from dyt.io.foreign import Trust, check_backbone, check_sizes, check_spec, check_weights
from dyt.io.header import Header, read_header, read_tensors, refusal
from dyt.io.kept import Kept
from dyt.io.trial import check_types, floating, tried
from dyt.model.dynamic import DynamicModel
from dyt.model.tensors import put, stored

BREAK_EVEN = "break_even"
"""The metadata entry with the result of `dyt.calibrate_break_even`, as JSON by site name; absent before it."""


@untouched()
def load(
    path: str | Path,
    backbone: nn.Module | None = None,
    weights: str | Path | None = None,
    *,
    trust_paths: Trust = False,
    allow_nonfinite: bool = False,
) -> DynamicModel:
    """Loads a model that `save` wrote. The generators of random numbers are left as they were.

    A file from a stranger is safe to load: it runs no code, and reads, writes and fetches nothing but timm's own
    weights of the architecture that it names. Nothing is made before its checksum, names and shapes are known to fit.

    Args:
        path: the file.
        backbone: the plain timm model to wrap (or that of transformers, as for `build`), changed in place after
            everything has been checked; its head is replaced by the stored one. It may have another image size.
            Needed for a spec with `weights: none` or `given`, unless the file has the whole backbone. Without it the
            spec's backbone is created.
        weights: the current location of the spec's weights, as `backbone.weights` of a spec: a file, or `pretrained`.
            Needed, or `backbone`, for a file whose spec names a file of weights.
        trust_paths: open whatever the file's spec names, for a file of your own: a weights file, a repository
            (`hf-hub:`), any argument of timm. Or the paths and names that may be, in place of all.
        allow_nonfinite: load tensors with infinities and NaNs as well.

    Returns:
        A model equal to the saved one, in eval mode. On a backbone of another image size its position embeddings are
        that backbone's.

    Raises:
        CheckpointError: not such a file, of another version, with missing, unknown, wrongly shaped or non-finite
            tensors, made for another backbone, or with a spec that names what a file may not name. Nothing was changed.
        WeightsError: weights that are not available.
    """
    trust_paths = (trust_paths,) if isinstance(trust_paths, (str, Path)) else trust_paths
    header = read_header(Path(path))
    said = Contents.of(header)
    spec, kept = said.spec, said.kept
    check_spec(spec, header, trust_paths)
    if backbone is None:
        check_backbone(spec, header, trust_paths)
        if weights is None and not kept.every:
            check_weights(spec.backbone.weights, header, trust_paths)
    elif weights is not None:
        raise CheckpointError(f"'{path}': give backbone= or weights=, not both; a backbone has its weights")
    tensors = read_tensors(header)
    if not allow_nonfinite:
        check_finite(tensors, header)
    if backbone is None:
        spec = kept.with_weights(spec, weights, path)
        known = ":" not in spec.backbone.name  # else it is no architecture before its description has been fetched
        if known:
            tried(spec, header, kept.every, kept.also, None, said.check_sites)
        backbone = kept.made(spec, path)
        dtypes = floating(header.tensors)
        backbone = backbone.to(dtypes.pop()) if len(dtypes) == 1 else backbone
        kept.check(backbone, spec, path)
    else:
        known, backbone = False, given_backbone(backbone, spec)
        spec = kept.check(backbone, spec, path, resizable=True)
    if not known:
        tried(spec, header, kept.every, kept.also, backbone, said.check_sites)
    model = filled(spec, backbone, header, tensors, kept.every, kept.also)
    if kept.whole and model.origin is not None:
        model.origin = model.origin.again(model, whole=True)
    for site in model.sites:
        site.break_even = said.break_evens.get(site.name)
    model.budget_table, model.set_rate = said.table, said.budget
    if said.config is not None:
        data_config.attach(model.backbone, said.config)
    return model.eval()


def filled(
    spec: DyTSpec,
    backbone: nn.Module,
    header: Header,
    tensors: Mapping[str, Tensor],
    every: bool = False,
    also: Collection[str] = (),
) -> DynamicModel:
    """The model of a spec on a plain backbone, changed in place, with a file's tensors by stored key in it.

    Raises:
        CheckpointError: tensors of other dtypes than the model's. The backbone is then as it was.
    """
    with rollback(backbone):
        if backbone.num_classes != spec.head.classifier:
            reset_classifier(backbone, spec.head.classifier)
        model = apply(plan(spec, backbone))
        check_types(stored(model, every, also), header)
    put(model, tensors, every, also)
    return model


@dataclass(frozen=True)
class Contents:
    """What the metadata of a file say, each entry validated.

    Attributes:
        spec: of the model.
        kept: what of the backbone is in the file.
        break_evens: by the name of the site.
        config: what the model was trained on; None where the file does not say.
        table: of budgets; None where it was not calibrated.
        budget: the rate that was last set from it.
        path: the file.
    """

    spec: DyTSpec
    kept: Kept
    break_evens: Mapping[str, BreakEven]
    config: DataConfig | None
    table: BudgetTable | None
    budget: float | None
    path: Path

    @staticmethod
    def of(header: Header) -> Contents:
        """Of a header.

        Raises:
            CheckpointError: an entry that cannot be used.
        """
        told = header.decoded("spec")
        try:
            spec = parse(DyTSpec, told)
        except Exception as error:  # a SpecError, or whatever a component's own validator raises
            raise refusal(header.path, f": its spec cannot be used: {error}") from error
        kept, config = Kept.read(header, spec), None
        if data_config.ENTRY in header.metadata:
            check_sizes(header.decoded(data_config.ENTRY), data_config.ENTRY, header)
            config = data_config.of_file(header.metadata, header.path, spec.head.num_classes)
        return Contents(spec, kept, _break_evens(header), config, *budgets.read(header), header.path)

    def check_sites(self, names: Collection[str]) -> None:
        """Refuses what is said of other sites than the model has.

        Raises:
            CheckpointError: naming one.
        """
        unknown = sorted(set(self.break_evens) - set(names))
        if unknown:
            raise refusal(self.path, f"has a break-even of '{unknown[0]}', which is no site of its model")
        other = sorted(set(names).symmetric_difference(names if self.table is None else self.table.sites))
        if other:
            raise refusal(self.path, f"has budgets of other sites than its model: '{other[0]}' is not in both")


def given_backbone(backbone: nn.Module, spec: DyTSpec) -> nn.Module:
    """A backbone that is handed over for a file, with timm's interface.

    Raises:
        CheckpointError: it is dynamic already, or no plain model whose blocks a family knows.
    """
    if is_dynamic(backbone):
        raise CheckpointError(
            f"the given backbone, a {type(backbone).__name__}, is already dynamic; give the plain timm model that the "
            f"file was made on (dyt.unwrap makes it one again)"
        )
    backbone, _ = bridged(backbone, spec.head.classifier)
    if families.find(backbone) is None:
        raise CheckpointError(
            f"the given backbone is a {type(backbone).__name__}, not a plain timm model that a family knows"
        )
    return backbone


def _break_evens(header: Header) -> dict[str, BreakEven]:
    found = header.decoded(BREAK_EVEN, "{}")
    try:
        return {name: _break_even(each) for name, each in found.items()}
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a DyTError is a ValueError
        raise refusal(header.path, f": its break-even cannot be used: {error}") from error


def _break_even(each: Mapping[str, Any]) -> BreakEven:
    batches, shares, expected = each["batches"], each["shares"], each["expected"]
    if not all(type(batch) is int and batch < 1 << 31 for batch in batches):
        raise TypeError("batches are whole numbers")
    if not all(type(share) in {int, float} for share in (*shares, expected)):
        raise TypeError("shares are numbers")
    return BreakEven(tuple(batches), tuple(shares), expected)


def check_finite(tensors: Mapping[str, Tensor], header: Header, function: str = "load") -> None:
    """Refuses infinities and NaNs: no calibration and no sound training writes one, in thresholds either.

    Raises:
        CheckpointError: naming the tensor, and how to have it from the public `function` all the same.
    """
    for key, tensor in tensors.items():
        wide = tensor.float() if tensor.dtype.itemsize == 1 else tensor  # torch asks no float8 whether it is finite
        if tensor.is_floating_point() and not torch.isfinite(wide).all():
            raise refusal(
                header.path,
                f"has infinities or NaNs in {key}: its training has diverged, or it was made by something else; "
                f"{function}(..., allow_nonfinite=True) loads it all the same",
            )
