"""Making the timm backbone of a spec: from the hub, from a local file, or at random."""

from __future__ import annotations

import glob
import sys
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from traceback import extract_tb
from typing import Any

import timm
import torch
from huggingface_hub.errors import LocalEntryNotFoundError
from timm.models import adapt_input_conv, load_state_dict
from torch import Tensor, nn

from dyt import families
from dyt.assembly import hub
from dyt.assembly.extent import check_arguments
from dyt.assembly.window_attention import put_windows, window_refusal
from dyt.config.spec import BackboneSpec
from dyt.core.data_config import any_size, attached, own_size, stems
from dyt.errors import LONGEST_NAME, DyTError, SpecError, UnsupportedError, WeightsError, nearest, quoted, shortened
from dyt.model.parts import head_keys

GIVEN = "given"
"""`weights` of a model that was built on a backbone that was handed over."""


def create(spec: BackboneSpec, num_classes: int) -> tuple[nn.Module, bool]:
    """The timm model of a spec, and whether its head is new (not from the weights).

    Raises:
        SpecError: a name or an argument that timm does not know.
        WeightsError: weights that cannot be had, or do not fit; says what to do.
        UnsupportedError: windows for a model that cannot have them.
    """
    model, new_head = _created(spec, num_classes)
    with_windows(model, spec)
    return model, new_head


def with_windows(model: nn.Module, spec: BackboneSpec) -> None:
    """Puts the attention of a plain timm model into the windows of the spec; nothing where it asks for none.

    Raises:
        UnsupportedError: a model that cannot have them; it is then unchanged.
    """
    if spec.window_size is None:
        return
    known = families.find(model)
    reason = "no family knows its blocks" if known is None else window_refusal(spec, model, known[1])
    if known is None or reason is not None:
        raise UnsupportedError(f"backbone.window_size is not available for {type(model).__name__}: {reason}")
    put_windows(spec, model, known[1])


def described(backbone: nn.Module, spec: BackboneSpec) -> BackboneSpec:
    """The spec with what a given backbone is: timm's name for it where it has one, else its class's.

    Weights that the spec names itself stay, unless they are said to be of another architecture; where it names none
    they are `given`. A name that is not the default stays where the model says nothing of its own.
    """
    cfg: Any = getattr(backbone, "pretrained_cfg", None) or {}
    architecture, tag = cfg.get("architecture"), cfg.get("tag")
    given = type(backbone).__name__ if spec.name == BackboneSpec().name or spec.weights == GIVEN else spec.name
    if architecture:
        given = f"{architecture}.{tag}" if tag else architecture
    claimed = "weights" in spec.model_fields_set and spec.weights != GIVEN
    same = spec.name in {given, given.partition(".")[0]}
    keeps = claimed and (same or spec.weights == "none")
    return spec.model_copy(update={"name": given, "weights": spec.weights if keeps else GIVEN})


def _created(spec: BackboneSpec, num_classes: int) -> tuple[nn.Module, bool]:
    if spec.weights == GIVEN:
        raise SpecError(
            f"backbone.weights: 'given' is of a model that was built on a backbone that was handed over "
            f"({spec.name}); hand it over again with backbone=, or set 'pretrained', 'none' or a file"
        )
    check_name(spec.name)
    if spec.weights == "pretrained":
        return _from_hub(spec, num_classes)
    model = _made(spec, num_classes, pretrained=False)
    if spec.weights == "none":
        return model, True
    return model, load_weights(model, spec.weights)


def check_name(name: str) -> None:
    """Refuses a name that timm does not know, with the nearest one; names with a scheme (`hf-hub:`) are left to timm.

    Raises:
        SpecError: naming the nearest model.
    """
    if not isinstance(name, str):
        raise SpecError(f"backbone.name: a timm name is a string, not {quoted(name)}")
    base = name.split(".", maxsplit=1)[0]
    if ":" not in name and not timm.is_model(base):
        raise SpecError(f"backbone.name: timm {timm.__version__} has no model {quoted(name)}; {_alike(base)}")


def _made(spec: BackboneSpec, num_classes: int, pretrained: bool) -> nn.Module:
    return make(spec.name, spec.args, pretrained=pretrained, num_classes=num_classes)


def make(name: str, args: Mapping[str, Any], **ours: Any) -> nn.Module:
    """`timm.create_model(name, **args, **ours)` for a known name.

    Raises:
        SpecError: arguments that timm refuses.
    """
    try:
        plain = _plain(args)
        if plain:
            check_arguments(name, plain, **ours)
        model: nn.Module = timm.create_model(name, **plain, **ours)
    except Exception as error:  # whatever an architecture raises of its arguments becomes the one answer
        reaching = ours.get("pretrained") and isinstance(error, (OSError, RuntimeError))  # for weights on the hub
        if isinstance(error, DyTError) or reaching:
            raise
        what = f"args: timm refused {quoted(dict(args), 200)} for" if args else "name: timm refused"
        raise SpecError(f"backbone.{what} {shortened(name)}: {_line(error)}") from error
    return model


def _plain(args: Mapping[str, Any]) -> dict[str, Any]:
    """YAML and JSON have lists where timm wants tuples."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in args.items()}


def _from_hub(spec: BackboneSpec, num_classes: int) -> tuple[nn.Module, bool]:
    try:
        model = _cached_or_fetched(spec, num_classes)
    except (OSError, RuntimeError) as error:  # no hub or network, or timm saying that there are no weights
        missing = isinstance(error, LocalEntryNotFoundError)
        reason = "the model hub is out of reach and they are not in its cache" if missing else _line(error)
        raise WeightsError(
            f"no pretrained weights for '{spec.name}': {reason}; go online once so that they are cached, or set "
            f"backbone.weights to a local .safetensors file, or to 'none' for random weights"
        ) from error
    cfg: Any = model.pretrained_cfg
    return model, cfg.get("num_classes") != num_classes


def _cached_or_fetched(spec: BackboneSpec, num_classes: int) -> nn.Module:
    """The model with timm's weights: from the cache without any request, else from the hub if it answers.

    Raises:
        LocalEntryNotFoundError: not in the cache, and the hub does not answer.
        OSError, RuntimeError: what else timm and the hub raise.
    """
    if hub.cached(spec.name):
        try:
            with hub.cache_only():
                return _made(spec, num_classes, pretrained=True)
        except LocalEntryNotFoundError:  # timm wants another file than those that `cached` knows of
            pass
    with nullcontext() if hub.reachable() else hub.cache_only():
        return _made(spec, num_classes, pretrained=True)


def load_weights(model: nn.Module, path: str | Path) -> bool:
    """Loads a local file into a timm model, all but a head of another size; returns whether the head is new.

    Tensors only, never unpickling. timm's own checkpoint filter of the architecture runs first, so that position
    embeddings are resampled to the model's image size; a stem of RGB is adapted to another number of channels as timm
    does it.

    Raises:
        WeightsError: a missing or unreadable file, or weights of another architecture; the model is then unchanged.
    """
    if not Path(path).is_file():
        raise WeightsError(
            f"backbone.weights: no file {quoted(str(path), 200)}; give a .safetensors or .pth file, 'pretrained', or "
            f"'none' for random"
        )
    try:
        state: dict[str, Tensor] = load_state_dict(str(path), weights_only=True)
    except Exception as error:  # whatever a reader of foreign files raises becomes the one answer, its cause attached
        raise WeightsError(f"backbone.weights: '{path}' is not a readable weights file: {_line(error)}") from error
    filter_fn = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    if filter_fn is not None:
        state = filter_fn(state, model)
    state = _with_channels(model, state)
    wanted, head, named = model.state_dict(), head_keys(model), head_names(model)
    new_head = not head or not all(k in state and state[k].shape == wanted[k].shape for k in head)
    if new_head:
        state = {k: v for k, v in state.items() if k.rpartition(".")[0] not in named}
        wanted = {k: v for k, v in wanted.items() if k not in head}
    wrong = faults(wanted, state)
    if wrong:
        raise WeightsError(f"backbone.weights: '{path}' is not a {type(model).__name__} of this size: tensors {wrong}")
    model.load_state_dict(state, strict=not new_head)
    return new_head


def _with_channels(model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with stems of RGB images brought to the model's number of channels, by timm's rule."""
    changed = dict(state)
    for name in stems(model):
        key, stem = f"{name}.weight", model.get_submodule(name)
        given, own = state.get(key), getattr(stem, "in_channels", None)
        if given is not None and own is not None and given.ndim == 4 and given.shape[1] == 3 != own:
            changed[key] = adapt_input_conv(own, given)
    return changed


def faults(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> str:
    """What keeps `given` from filling `wanted`, in words; empty when nothing does."""
    differing = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unknown": sorted(given.keys() - wanted.keys()),
        "of another shape": sorted(k for k in wanted.keys() & given.keys() if wanted[k].shape != given[k].shape),
    }
    return "; ".join(
        f"{len(keys)} {what} ({keys[0]}{', ...' if len(keys) > 1 else ''})" for what, keys in differing.items() if keys
    )


def head_names(model: nn.Module) -> tuple[str, ...]:
    """The classifiers' module names as timm's description of the model has them, also when the model has none."""
    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    names = cfg.get("classifier") or ()
    return (names,) if isinstance(names, str) else tuple(names)


def on_meta(name: str, **args: Any) -> nn.Module:
    """The architecture without memory or weights, for questions about it.

    Raises:
        SpecError: a name or an argument that timm does not know.
    """
    check_name(name)
    with torch.device("meta"):
        return make(name, args, pretrained=False)


def input_size(backbone: nn.Module) -> tuple[int, int]:
    """(H, W) pixels of the images that a timm model takes.

    Its own size; of a model that takes any, the one that it was trained at, or that of its weights.
    """
    own, config = own_size(backbone), attached(backbone)
    patches = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    if config is not None and (patches is None or any_size(backbone)):
        return config.input_size[1], config.input_size[2]
    height, width = own or backbone.pretrained_cfg["input_size"][1:]  # type: ignore[index]
    return int(height), int(width)


def _alike(name: str) -> str:
    name = name[:LONGEST_NAME]
    start = glob.escape(name.split("_", maxsplit=1)[0])  # timm matches it as the names of files
    family = timm.list_models(f"{start}*")
    close = nearest(name, family or timm.list_models("vit_*"))
    return close if len(close) < 300 else f"{close.split('allowed:')[0]}see timm.list_models()"


def _line(error: BaseException) -> str:
    """What an error says, in one line; of an assertion without words, which timm has, the line that asserts."""
    text = " ".join(str(error).split())
    if not text:
        frames = extract_tb(error.__traceback__)
        text = (frames[-1].line if frames else None) or type(error).__name__
    return text if len(text) <= 200 else f"{text[:197]}..."
