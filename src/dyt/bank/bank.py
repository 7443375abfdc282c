"""`Bank`: the adapters, routers, thresholds and classifiers of many tasks on one frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt import families
from dyt.assembly.build import build
from dyt.assembly.compatibility import is_dynamic
from dyt.bank.shared import Group, TaskAdapters, TaskDispatchers, TaskPart, grouped
from dyt.core.interop import bridged
from dyt.errors import DyTError, UnsupportedError, nearest, quoted
from dyt.heads import Classifier
from dyt.io.foreign import Trust
from dyt.io.loading import load
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.origin import fingerprint
from dyt.model.tensors import plain_state


class Bank(nn.Module):
    """Many tuned models as one: a batch of images, each of its own task, goes through the backbone once.

    What is frozen is there once; a task adds its dispatchers, adapters, thresholds and its classifier. Each image gets
    what the task's own model gives. For inference; tasks are added, replaced and removed between forwards.

    All tasks have one variant on one backbone, and change nothing of the backbone itself: no tuner, no reducer, no
    `modules_to_save`, not `trainable: full`. Dispatchers, adapters and numbers of classes are each task's own. A
    break-even and a capacity of a task's model are left out: every site skips.

    Args:
        backbone: the plain timm model (or that of transformers, as for `dyt.build`) that all tasks were tuned on. It is
            not changed, and its tensors are shared, not copied.

    Raises:
        DyTError: a dynamic model, or one that no family knows.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        if is_dynamic(backbone):
            raise DyTError(
                "Bank takes the plain timm model that the tasks were tuned on; dyt.unwrap makes it one again"
            )
        plain, _ = bridged(backbone, 0)
        if families.find(plain) is None:
            raise DyTError(f"Bank: no family knows a {type(backbone).__name__}; see dyt.supports()")
        self._plain = (plain,)  # in a tuple: its tensors are the model's
        self._sha256: str = fingerprint(plain)
        self.model: DynamicModel | None = None
        self.classifiers = nn.ModuleDict()
        self.default: str | None = None
        self.eval()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in the order in which they were added."""
        return tuple(self.classifiers)

    def __len__(self) -> int:
        return len(self.classifiers)

    def __contains__(self, name: object) -> bool:
        return name in self.tasks

    def train(self, mode: bool = True) -> Bank:
        """Stays in eval mode.

        Raises:
            UnsupportedError: asked for train mode.
        """
        if mode:
            raise UnsupportedError("a bank is for inference; train each task's own model, and add it")
        super().train(False)
        return self

    def add(self, name: str, model: nn.Module | str | Path, *, trust_paths: Trust = False) -> None:
        """Adds a task, or replaces the one of that name.

        Args:
            name: of letters, digits, '_' and '-'.
            model: a dynamic model on the bank's backbone, of which copies of the small parts are kept; or a file of
                `dyt.save`.
            trust_paths: as for `dyt.load`.

        Raises:
            CheckpointError: a file that cannot be loaded on this backbone.
            DyTError: a name that cannot be one, or not one dynamic model.
            UnsupportedError: a model that was tuned on another backbone, changes the backbone, has another variant than
                the other tasks, or another head than the backbone's classifier. The bank is then as it was.
        """
        if not isinstance(name, str) or not name.replace("_", "").replace("-", "").isalnum():
            raise DyTError(f"a task's name has letters, digits, '_' and '-'; given {quoted(name)}")
        if isinstance(model, (str, Path)):
            tuned = load(model, backbone=copy.deepcopy(self._plain[0]), trust_paths=trust_paths)
        else:
            tuned = dynamic_of(model)
        reason = self._refusal(tuned)
        if reason is not None:
            raise UnsupportedError(f"task '{name}' cannot be in this bank: {reason}")
        parts = [TaskPart(copy.deepcopy(site)).eval().requires_grad_(False) for site in tuned.sites]
        classifier = _classifier(copy.deepcopy(tuned.backbone.get_classifier()))
        if self.model is None:
            self.model = self._host(tuned)
        like = next(self.model.parameters())
        for site, part in zip(self.model.sites, parts, strict=True):
            assert isinstance(site.adapter, TaskAdapters)
            site.adapter.parts[name] = part.to(like)
        self.classifiers[name] = classifier.eval().requires_grad_(False).to(like)
        self.default = name if self.default is None else self.default

    def remove(self, name: str) -> None:
        """Removes a task. The tasks that are left go on.

        Raises:
            DyTError: no such task.
        """
        self._known(name)
        assert self.model is not None
        for site in self.model.sites:
            assert isinstance(site.adapter, TaskAdapters)
            del site.adapter.parts[name]
        del self.classifiers[name]
        if self.default == name:
            self.default = next(iter(self.tasks), None)

    def switch(self, name: str) -> None:
        """Makes a task the one of images whose task is not said; at first that is the one that was added first.

        Raises:
            DyTError: no such task.
        """
        self._known(name)
        self.default = name

    @torch.no_grad()
    def forward(self, images: Tensor, tasks: str | Sequence[str] | None = None) -> Any:
        """Images (B, 3, H, W) of their tasks -> the logits of each.

        Args:
            images: a batch.
            tasks: the task of all images, or one name for each; None for the one that `switch` named.

        Returns:
            (B, K) for one name or None; for one name an image a list of B tensors (K_i,), of its task's classes.

        Raises:
            DyTError: no such task, or another number of names than images.
        """
        if tasks is None:
            if self.default is None:
                raise DyTError("the bank has no tasks; add one: bank.add(name, model)")
            tasks = self.default
        if isinstance(tasks, str):
            self._known(tasks)
            return self._logits(images, [Group(tasks, None)])[0]
        if len(tasks) != len(images):
            raise DyTError(f"give a task for each image: {len(tasks)} names for {len(images)} images")
        for name in dict.fromkeys(tasks):
            self._known(name)
        if not len(images):
            return []
        groups = [
            Group(name, torch.tensor([i for i, task in enumerate(tasks) if task == name], device=images.device))
            for name in dict.fromkeys(tasks)
        ]
        out: list[Tensor | None] = [None] * len(images)
        for group, logits in zip(groups, self._logits(images, groups), strict=True):
            assert group.rows is not None
            for i, row in zip(group.rows.tolist(), logits, strict=True):
                out[i] = row
        return out

    def _logits(self, images: Tensor, groups: Sequence[Group]) -> list[Tensor]:
        assert self.model is not None
        with grouped(groups):
            features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        return [self.classifiers[group.task](group.of(features)) for group in groups]

    def _known(self, name: object) -> None:
        if name not in self.tasks:
            raise DyTError(f"the bank has no task {quoted(name)}; {nearest(name, self.tasks)}")

    def _refusal(self, tuned: DynamicModel) -> str | None:
        """Why a model cannot be one of the tasks; None when it can."""
        reason = next(_reasons(tuned), None)
        if reason is None and fingerprint(tuned.backbone) != self._sha256:
            reason = "it was tuned on another backbone: the frozen weights differ"
        return reason if reason is not None or self.model is None else next(_differences(self.model, tuned), None)

    def _host(self, tuned: DynamicModel) -> DynamicModel:
        """A dynamic model of that variant, on the bank's own tensors, whose sites ask the tasks."""
        plain = self._plain[0]
        spec = tuned.spec.model_copy(
            update={"head": tuned.spec.head.model_copy(update={"num_classes": 0}), "capacity": None}
        )
        backbone: Any = copy.deepcopy(plain)
        backbone.reset_classifier(0)
        host = build(spec, backbone=backbone)
        tensors = plain_state(plain)
        for name, tensor in plain_state(host.backbone).items():
            tensor.data = tensors[name].data
        for site, own in zip(host.sites, tuned.sites, strict=True):
            parts = nn.ModuleDict()
            site.dispatcher, site.adapter = TaskDispatchers(parts), TaskAdapters(parts, own.adapter)
            site.dispatcher.needs_attention = own.dispatcher.needs_attention  # type: ignore[misc]
        return host.eval().requires_grad_(False)


def _reasons(tuned: DynamicModel) -> Iterator[str]:
    """What keeps a model from being in any bank."""
    spec = tuned.spec
    if type(tuned) is not DynamicModel:
        yield f"it is a {type(tuned).__name__}; give the model that it was made from"
    if tuned.tuner is not None or spec.reducer is not None or spec.trainable == "full" or spec.modules_to_save:
        yield "it tunes the backbone itself or reduces tokens (tuner, reducer, modules_to_save or trainable: full)"
    if spec.stand_in is not None:
        yield "it has stand-ins at its sites"
    if type(tuned.head) is not Classifier:
        yield f"its head is a {type(tuned.head).__name__}, and not the backbone's classifier"
    if _classifier(tuned.backbone.get_classifier()) is None:
        yield "its classifier is not one linear layer"


def _differences(host: DynamicModel, tuned: DynamicModel) -> Iterator[str]:
    """What keeps a model from being beside the tasks that are there."""
    windows = host.spec.backbone.window_size, tuned.spec.backbone.window_size
    if tuned.spec.variant != host.spec.variant or windows[0] != windows[1]:
        yield f"its variant is {tuned.spec.variant.type}, with other fields or another than the other tasks'"
    for site, own in zip(host.sites, tuned.sites, strict=True):
        mine, theirs = site.adapter, own.adapter
        if (mine.placement, mine.input) != (theirs.placement, theirs.input):
            yield f"its adapters are {theirs.placement} and read {theirs.input} tokens, the others' differ"
        if own.dispatcher.needs_attention and not site.dispatcher.needs_attention:
            yield "its dispatcher reads the class token's attention, the others' do not"


def _classifier(found: Any) -> Any:
    """A model's classifier where it is one linear layer, or none; None of any other."""
    return found if type(found) in {nn.Linear, nn.Identity} else None
