"""`Bank`: the adapters, stand-ins, routers, thresholds and classifiers of many tasks on one frozen backbone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dyt import families
from dyt.assembly.build import build
from dyt.assembly.compatibility import is_dynamic
from dyt.bank.contents import Contents
from dyt.bank.refusals import differences, reasons
from dyt.bank.shared import Group, TaskAdapters, TaskDispatchers, TaskStandIns
from dyt.core import context
from dyt.core.interop import bridged
from dyt.errors import DyTError, UnsupportedError, nearest, quoted
from dyt.io.foreign import Trust
from dyt.io.loading import load
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.model.origin import fingerprint
from dyt.model.tensors import plain_state

NO_TASKS = "the bank has no tasks; add one: bank.add(name, model)"


class Bank(nn.Module):
    """Many tuned models as one: a batch of images, each of its own task, goes through the backbone once.

    What is frozen is there once; a task adds its dispatchers, adapters, stand-ins, thresholds and its classifier. Each
    image gets what the task's own model gives. For inference; tasks are added, replaced and removed between forwards.

    All tasks have one variant on one backbone, and change nothing of the backbone itself: no tuner, no reducer, no
    `modules_to_save`, not `trainable: full`. Dispatchers, adapters, stand-ins and numbers of classes are each task's
    own. Of a task's budgets the one that is set when it is added holds. A break-even and a capacity of a task's model
    are left out: every site skips.

    Args:
        backbone: the plain timm model (or that of transformers, as for `dyt.build`) that all tasks were tuned on. It is
            not changed, and its tensors are shared, not copied.
        room: for how many alike tasks there is room at first; doubled where there are more.

    Raises:
        DyTError: a dynamic model, or one that no family knows; a room below 1.
    """

    def __init__(self, backbone: nn.Module, room: int = 8) -> None:
        super().__init__()
        if isinstance(room, bool) or not isinstance(room, int) or room < 1:
            raise DyTError(f"Bank: room is a number of tasks, 1 or more; given {quoted(room)}")
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
        self.contents: Contents | None = None
        self.default: str | None = None
        self._room = room
        self.eval()

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the tasks, in the order in which they were added."""
        return () if self.contents is None else tuple(self.contents.places)

    @property
    def classifiers(self) -> dict[str, nn.Module]:
        """Each task's classifier, by name: of the bank's own tensors, not copies."""
        return {} if self.contents is None else {name: self.contents.classifier(name) for name in self.tasks}

    def __len__(self) -> int:
        return len(self.tasks)

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
        if self.model is None or self.contents is None:
            self.model = self._host(tuned)
            self.contents = Contents(self.model, self._room)
        self.contents.put(name, tuned)
        self._choose(name if self.default is None else self.default)

    def remove(self, name: str) -> None:
        """Removes a task. The tasks that are left go on.

        Raises:
            DyTError: no such task.
        """
        self._known(name)
        assert self.contents is not None
        self.contents.remove(name)
        self._choose(next(iter(self.tasks), None) if self.default == name else self.default)

    def switch(self, name: str) -> None:
        """Makes a task the one of images whose task is not said; at first that is the one that was added first.

        Raises:
            DyTError: no such task.
        """
        self._known(name)
        self._choose(name)

    def indices(self, names: str | Sequence[str]) -> Tensor:
        """Names as a tensor on the bank's device, in place of which the bank takes it: the form for torch.compile.

        They are right for as long as the tasks are there, whatever is added, removed or replaced beside them.

        Args:
            names: one for all images, or one for each.

        Returns:
            () int64 for one name, (B,) int64 for several.

        Raises:
            DyTError: no such task.
            UnsupportedError: the parts of the bank's tasks are not all alike.
        """
        for name in dict.fromkeys([names] if isinstance(names, str) else names):
            self._known(name)
        assert self.contents is not None
        self._sole()
        places, device = self.contents.places, self.contents.default_row.device
        if isinstance(names, str):
            return torch.tensor(places[names].row, device=device)
        return torch.tensor([places[name].row for name in names], dtype=torch.int64, device=device)

    @torch.no_grad()
    def forward(self, images: Tensor, tasks: str | Sequence[str] | Tensor | None = None) -> Any:
        """Images (B, 3, H, W) of their tasks -> the logits of each.

        Args:
            images: a batch.
            tasks: the task of all images, or one name for each; None for the one that `switch` named; or a tensor of
                `indices`, which torch.compile compiles once for all mixes.

        Returns:
            (B, K) for one name or None; for one name an image a list of B tensors (K_i,), of its task's classes; for
            `indices` (B, K) of the task that has most, -inf past the classes of an image's own.

        Raises:
            DyTError: no such task, or another number of names than images.
            UnsupportedError: indices, and the parts of the bank's tasks are not all alike.
        """
        contents = self.contents
        if isinstance(tasks, Tensor):
            return self._by_index(images, tasks)
        if tasks is None:
            if contents is not None and contents.sole is not None and torch.compiler.is_compiling():
                logits = self._logits(images, [Group(contents.sole, None, contents.default_row)])[0]
                return logits[:, : contents.default_classes]
            if self.default is None:
                raise DyTError(NO_TASKS)
            tasks = self.default
        if isinstance(tasks, str):
            self._known(tasks)
            assert contents is not None
            return self._logits(images, [contents.group(tasks)])[0][:, : contents.places[tasks].classes]
        if len(tasks) != len(images):
            raise DyTError(f"give a task for each image: {len(tasks)} names for {len(images)} images")
        for name in dict.fromkeys(tasks):
            self._known(name)
        if not len(images):
            return []
        assert contents is not None
        groups = list(contents.groups(tasks, images.device))
        out: dict[int, Tensor] = {}
        for (_, members), logits in zip(groups, self._logits(images, [group for group, _ in groups]), strict=True):
            for i, row in zip(members, logits, strict=True):
                out[i] = row[: contents.places[tasks[i]].classes]
        return [out[i] for i in range(len(images))]

    def _by_index(self, images: Tensor, index: Tensor) -> Tensor:
        part = self._sole()
        fits = index.ndim == 0 or (index.ndim == 1 and len(index) == len(images))
        if index.dtype != torch.int64 or not fits:
            raise DyTError(
                f"tasks as a tensor are those of bank.indices(names), int64 of shape () or ({len(images)},); given "
                f"{index.dtype} of shape {tuple(index.shape)}"
            )
        assert self.contents is not None
        if index.device.type == "cpu" and not torch.compiler.is_compiling():  # elsewhere it would wait for the device
            known = {place.row for place in self.contents.places.values()}
            unknown = set(index.flatten().tolist()) - known
            if unknown:
                raise DyTError(f"no task has index {min(unknown)}; bank.indices(names) gives those of the bank's tasks")
        return self._logits(images, [Group(part, None, index)])[0]

    def _logits(self, images: Tensor, groups: Sequence[Group]) -> list[Tensor]:
        assert self.model is not None
        assert self.contents is not None
        with context.changed(self.model.key, groups=tuple(groups)):
            features = self.model.forward_head(self.model.forward_features(images), pre_logits=True)
        heads = self.contents.heads
        return [
            heads[group.part](group.of(features))
            if group.index is None
            else heads[group.part](group.of(features), group.index)
            for group in groups
        ]

    def _choose(self, name: str | None) -> None:
        self.default = name
        if name is not None and self.contents is not None:
            self.contents.choose(name)

    def _sole(self) -> str:
        """The stack that has all tasks."""
        contents = self.contents
        if contents is None or contents.sole is None:
            if not self.tasks:
                raise DyTError(NO_TASKS)
            raise UnsupportedError(
                "indices are for tasks whose parts are alike (bottleneck adapters of one dim and activation, learned "
                "dispatchers, the same low_rank stand-ins or none, classifiers with classes); give the bank names"
            )
        return contents.sole

    def _known(self, name: object) -> None:
        if name not in self.tasks:
            raise DyTError(f"the bank has no task {quoted(name)}; {nearest(name, self.tasks)}")

    def _refusal(self, tuned: DynamicModel) -> str | None:
        """Why a model cannot be one of the tasks; None when it can."""
        reason = next(reasons(tuned), None)
        if reason is None and fingerprint(tuned.backbone) != self._sha256:
            reason = "it was tuned on another backbone: the frozen weights differ"
        return reason if reason is not None or self.model is None else next(differences(self.model, tuned), None)

    def _host(self, tuned: DynamicModel) -> DynamicModel:
        """A dynamic model of that variant, on the bank's own tensors, whose sites ask the tasks."""
        plain = self._plain[0]
        head = tuned.spec.head.model_copy(update={"num_classes": 0})
        spec = tuned.spec.model_copy(update={"head": head, "capacity": None, "stand_in": None})
        backbone: Any = copy.deepcopy(plain)
        backbone.reset_classifier(0)
        host = build(spec, backbone=backbone)
        tensors = plain_state(plain)
        for name, tensor in plain_state(host.backbone).items():
            tensor.data = tensors[name].data
        places = [(block, branch) for block in host.dynamic_blocks for branch in block.sites]
        for (block, branch), own in zip(places, tuned.sites, strict=True):
            site, parts = block.site(branch), nn.ModuleDict()
            site.dispatcher = TaskDispatchers(parts, host.key)
            site.adapter = TaskAdapters(parts, own.adapter, host.key)
            site.stand_in = TaskStandIns(parts, block, branch, host.key)
            site.dispatcher.needs_attention = own.dispatcher.needs_attention  # type: ignore[misc]
        return host.eval().requires_grad_(False)
