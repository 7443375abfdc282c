"""What a model was built on: the fingerprint of a frozen backbone, and what has become of it since."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from dyt.core import twins
from dyt.core.data_config import own_size
from dyt.core.offloading import plain_parts
from dyt.model.parts import Composed, classifiers, head_keys
from dyt.model.tensors import aside, bare, plain_state, stored
from dyt.tuners.base import Tuner

Shapes = Mapping[str, tuple[int, ...]]
CHECKSUM = "sha256"
"""The metadata entry with the checksum of all the rest; safetensors has none of its own."""
RESIZED = frozenset(
    {
        *("pos_embed", "pos_embed_win", "pos_embed_spatial", "rel_pos_h", "rel_pos_w"),
        *("relative_position_bias_table", "relative_position_index", "relative_coords_table", "attn_mask"),
    }
)
"""What timm's models call the tensors that depend on the image size, and that timm resamples for another one."""


def checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """sha256 over names, shapes, dtypes and values of tensors, and over all metadata but the checksum itself.

    Sharded tensors are gathered, and packed ones are read as the tensors that they are made of.
    """
    digest = hashlib.sha256()
    for entry, text in sorted(metadata.items()):
        if entry != CHECKSUM:
            digest.update(f"{entry} {text}\n".encode())
    parts = (part for name, tensor in sorted(tensors.items()) for part in plain_parts(tensor, name))
    for key, plain in parts:
        digest.update(f"{key} {tuple(plain.shape)} {plain.dtype}\n".encode())
        digest.update(_bytes(plain))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The memory of a contiguous tensor on the CPU."""
    return tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b""


def frozen_state(
    backbone: nn.Module, tuner: Tuner | None = None, modules: Sequence[str] = (), also: Collection[str] = ()
) -> dict[str, Tensor]:
    """The backbone's tensors that are neither trained nor, by the plain names `also`, in the file; by plain name."""
    trained = aside(backbone, tuner, modules)
    return {k: t for k, t in plain_state(backbone, tuner).items() if k not in trained and k not in also}


def fingerprint(
    backbone: nn.Module,
    tuner: Tuner | None = None,
    modules: Sequence[str] = (),
    also: Collection[str] = (),
    sized: bool = True,
) -> str:
    """sha256 over the names, shapes, dtypes and values of the backbone's frozen tensors, under their plain names.

    Left out are the head, our sites, what the tuner adds or trains, `modules_to_save`, and what is `also` in the file:
    a tuned backbone and the plain one that it was made of have the same. `sized` False leaves out what depends on the
    image size.
    """
    frozen = frozen_state(backbone, tuner, modules, also)
    return checksum({k: t for k, t in frozen.items() if sized or not is_sized(k)}, {})


def is_sized(name: str) -> bool:
    """Whether a tensor of this name depends on the image size."""
    return name.rpartition(".")[2] in RESIZED


@dataclass(frozen=True)
class Origin:
    """What `dyt.build` found and made, so that `dyt.save` can tell what a load would not make again.

    Attributes:
        layout: shapes by stored key: of all of the backbone's tensors and of the file's others, but not of `head`.
        head: of the backbone's own classifier.
        values: of each frozen tensor its dtype, its version counter and the CRC-32 of its memory; none of tensors
            whose memory cannot be read (those without any, and other libraries' subclasses).
        classes: of the backbone's modules, by path.
        size: (H, W) pixels that the backbone was made for; None where it does not say.
        pooling: timm's `global_pool`.
        thawed: plain names of the parameters that were trainable before.
        whole: whether the file that it is from, or is to be saved in, has the whole backbone.
    """

    layout: Shapes
    head: Shapes
    values: Mapping[str, tuple[torch.dtype, int, int]] = field(repr=False)
    classes: Mapping[str, type] = field(repr=False)
    size: tuple[int, int] | None
    pooling: object
    thawed: frozenset[str] = field(repr=False)
    whole: bool = False

    @classmethod
    def of(cls, model: Composed, thawed: Collection[str] = (), whole: bool = False) -> Origin:
        """Of a model as it is now. Reads every frozen tensor once: a tenth of what making them takes."""
        full = model.spec.trainable == "full"
        frozen = {} if full else frozen_state(model.backbone, model.tuner, model.spec.modules_to_save)
        values = {k: (t.dtype, _version(t), crc) for k, t in frozen.items() if (crc := _crc(t)) is not None}
        size, pooling = own_size(model.backbone), getattr(model.backbone, "global_pool", None)
        layout, head, classes = _layout(model), _head(model.backbone), _classes(model.backbone)
        return cls(layout, head, values, classes, size, pooling, frozenset(thawed), whole)

    def again(self, model: Composed, whole: bool) -> Origin:
        """Of the same model whose frozen weights were replaced by those that it is to have."""
        return replace(Origin.of(model, self.thawed), whole=whole)

    def resized(self, model: Composed) -> Origin:
        """Of the model at its present image size. What depends on that has changed, and so will be in the file."""
        return replace(self, layout=_layout(model), size=own_size(model.backbone))

    def changed(self, model: Composed) -> list[str]:
        """Plain names of what of the backbone is trained or has other values, and is not stored as the spec says."""
        frozen = frozen_state(model.backbone, model.tuner, model.spec.modules_to_save)
        return sorted(name for name, tensor in frozen.items() if tensor.requires_grad or self._differs(name, tensor))

    def _differs(self, name: str, now: Tensor) -> bool:
        if name not in self.values:
            return False
        dtype, version, crc = self.values[name]
        if now.dtype != dtype and torch.promote_types(now.dtype, dtype) != now.dtype:
            return _version(now) > version  # rounded since: its first values cannot be had any more
        found = _crc(now.detach().to(dtype))
        return found is not None and found != crc

    def refusal(self, model: Composed) -> str | None:
        """Why a file could not be made into this model again, in words; None when it could."""
        loose = _loose(model)
        if loose:
            return f"{_listed(loose)} would be lost: no part of the backbone or the head; train and save it by itself"
        return self._resized(model) or self._rebuilt(model) or self._reclassed(model) or self._reheaded(model)

    def _resized(self, model: Composed) -> str | None:
        size = own_size(model.backbone)
        if size == self.size:
            return None
        return (
            f"its backbone takes images of {_pixels(size)}, and took {_pixels(self.size)} when it was built; "
            f"set that size again (backbone.set_input_size), or build on a backbone of the new one"
        )

    def _rebuilt(self, model: Composed) -> str | None:
        now = _layout(model)
        gone, new = sorted(self.layout.keys() - now.keys()), sorted(now.keys() - self.layout.keys())
        other = sorted(k for k in now.keys() & self.layout.keys() if now[k] != self.layout[k])
        if not (gone or new or other):
            return None
        what = [f"{_listed(names)} {verb}" for names, verb in ((new, "added"), (gone, "gone")) if names]
        what += [f"{_listed(other)} of another shape"] if other else []
        return (
            f"its tensors are not those of its spec any more: {'; '.join(what)} since it was built; undo that "
            f"(merge, remove the parametrization), or make the change to the plain backbone before dyt.build"
        )

    def _reclassed(self, model: Composed) -> str | None:
        now, pooling = _classes(model.backbone), getattr(model.backbone, "global_pool", None)
        if pooling != self.pooling:
            return f"the backbone's global_pool is '{pooling}', and was '{self.pooling}' when the model was built"
        gone = sorted(self.classes.keys() - now.keys())
        if gone:
            return f"{_listed(gone)} of its backbone gone since it was built; make that change before dyt.build"
        for path, was in self.classes.items():
            if not (issubclass(now[path], was) or (issubclass(was, _BatchNorm) and issubclass(now[path], _BatchNorm))):
                return (
                    f"backbone.{path} is a {now[path].__name__}, and was a {was.__name__} when the model was built; "
                    f"put that back, or make the change to the plain backbone before dyt.build"
                )
        return None

    def _reheaded(self, model: Composed) -> str | None:
        """Why the classifier is none that timm would make; None when it is one, for whatever number of classes."""
        found = _head(model.backbone)
        if found == self.head:
            return None
        twin: Any = twins.without_memory(model.backbone)
        twin.reset_classifier(model.backbone.num_classes)
        other = sorted(name for name, _ in _head(twin).items() ^ found.items())
        return f"the classifier is not timm's own: {_listed(other)}; use model.reset_classifier" if other else None


def _layout(model: Composed) -> dict[str, tuple[int, ...]]:
    """Shapes by stored key, and the backbone's others as `backbone.*`; the classifier's left out."""
    own = {id(t) for head in classifiers(model.backbone) for t in head.state_dict(keep_vars=True).values()}
    every = stored(model, whole=True)
    return {key: tuple(t.shape) for key, t in every.items() if id(t) not in own}


def _classes(backbone: nn.Module) -> dict[str, type]:
    """By path, torch's wrappers of single modules left out, and the classifiers, which may be of any size."""
    found: Any = backbone.get_classifier()  # type: ignore[operator]
    own = {id(module) for head in (found if isinstance(found, (tuple, list)) else (found,)) for module in _inside(head)}
    return {bare(name): type(module) for name, module in backbone.named_modules() if name and id(module) not in own}


def _inside(head: Any) -> Iterator[nn.Module]:
    return head.modules() if isinstance(head, nn.Module) else iter(())


def _loose(model: Composed) -> list[str]:
    """Names of trainable parameters that no file would have."""
    known = {id(t) for t in stored(model, whole=True).values()}
    return [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in known]


def _head(backbone: nn.Module) -> dict[str, tuple[int, ...]]:
    own = head_keys(backbone)
    return {bare(name): tuple(p.shape) for name, p in backbone.named_parameters() if name in own}


def _pixels(size: tuple[int, int] | None) -> str:
    return "any size" if size is None else f"{size[0]} x {size[1]}"


def _crc(tensor: Tensor) -> int | None:
    """CRC-32 of a tensor's memory; None where it cannot be read."""
    bare_tensor = tensor.detach()
    if type(bare_tensor) is not Tensor or bare_tensor.is_meta or bare_tensor.layout != torch.strided:
        return None
    if bare_tensor.is_quantized:
        return None
    return zlib.crc32(_bytes(bare_tensor.cpu().contiguous()))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
