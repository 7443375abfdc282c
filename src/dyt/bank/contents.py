"""Where the parts of a bank's tasks are: in a row of the stacks that alike tasks share, or by themselves."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dyt.adapters.bottleneck import Bottleneck
from dyt.bank.shared import Group, TaskAdapters, TaskPart
from dyt.bank.stack import Classifiers, Rows, SiteKind, Stack, kind_of, outside_inference_mode
from dyt.core.calls import bare
from dyt.model.dynamic import DynamicModel

Kind = tuple[SiteKind, ...]
"""Of a model: that of each site."""


@dataclass(frozen=True)
class Place:
    """Where one task's parts are.

    Attributes:
        part: the key of its part in each site, and of its classifier.
        row: the task's own for as long as it is there, whichever stack it stands in; no other task has it.
        stacked: whether the part is a stack, and not the task's own.
        classes: of its classifier; None for features.
    """

    part: str
    row: int
    stacked: bool
    classes: int | None

    @property
    def index(self) -> int | None:
        """As `Group.index`."""
        return self.row if self.stacked else None


class Contents(nn.Module):
    """The classifiers of a bank's tasks, and where the parts are that stand in the sites of its model.

    Args:
        model: the bank's, whose sites hold the parts.
        room: for how many tasks stacks have room at first.

    Attributes:
        places: by the tasks' names, in the order in which they were added.
        sole: the key of the one stack that has all tasks; None where there is none.
        default_row: () int64, the row of the task of images whose task is not said, where there is a `sole` stack.
        default_classes: of that task.
    """

    default_row: Tensor

    def __init__(self, model: DynamicModel, room: int) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: it is the bank's child
        self.room = room
        self.heads = nn.ModuleDict()
        self.places: dict[str, Place] = {}
        self._kinds: dict[Kind, str] = {}
        self.sole: str | None = None
        self.default_classes: int | None = None
        with torch.inference_mode(False):
            self.register_buffer("default_row", torch.zeros((), dtype=torch.int64, device=self._like().device))

    def put(self, name: str, tuned: DynamicModel) -> None:
        """Copies a task's parts from its model; where the name is there, in its place."""
        before, kind = self.places.get(name), _kind(tuned)
        taken = {place.row for place in self.places.values()}
        row = next(row for row in range(len(taken) + 1) if row not in taken) if before is None else before.row
        self.places[name] = self._alone(name, row, tuned) if kind is None else self._stacked(row, tuned, kind)
        if before is not None and before.part != self.places[name].part:
            self._vacate(before)
        self._tidy()

    def remove(self, name: str) -> None:
        """Takes a task out. Its row is kept for another."""
        self._vacate(self.places.pop(name))
        self._tidy()

    @outside_inference_mode
    def choose(self, name: str) -> None:
        """Makes a task the one of images whose task is not said; written in place, for compiled code."""
        place = self.places[name]
        self.default_classes = place.classes
        self.default_row.fill_(place.row)

    def groups(self, names: Sequence[str], device: torch.device) -> Iterator[tuple[Group, list[int]]]:
        """What computes the images of these tasks, and which images each group has."""
        by_part: dict[str, list[int]] = {}
        for image, name in enumerate(names):
            by_part.setdefault(self.places[name].part, []).append(image)
        for part, images in by_part.items():
            which = [self.places[names[image]].index for image in images]
            rows = None if len(by_part) == 1 else on_device(images, device)
            yield Group(part, rows, which[0] if len(set(which)) == 1 else on_device(which, device)), images

    def group(self, name: str) -> Group:
        """What computes a batch of one task."""
        return Group(self.places[name].part, None, self.places[name].index)

    def classifier(self, name: str) -> nn.Module:
        """A task's classifier, of the tensors that are kept here."""
        place = self.places[name]
        kept = self.heads[place.part]
        if not place.stacked:
            return kept
        assert isinstance(kept, Classifiers)
        assert place.classes is not None
        linear = nn.Linear(kept.weight.shape[2], place.classes, device="meta").requires_grad_(False).eval()
        for key, tensor in (("weight", kept.weight), ("bias", kept.bias)):
            setattr(linear, key, nn.Parameter(tensor.detach()[place.row, : place.classes], requires_grad=False))
        return linear

    def _like(self) -> Tensor:
        return next(self._model[0].parameters())

    def _parts(self) -> Iterator[nn.ModuleDict]:
        for site in self._model[0].sites:
            assert isinstance(site.adapter, TaskAdapters)
            yield site.adapter.parts

    def _alone(self, name: str, row: int, tuned: DynamicModel) -> Place:
        part = f"task:{name}"  # a ModuleDict cannot have all names
        like = self._like()
        copies = [TaskPart(copy.deepcopy(site)).eval().requires_grad_(False).to(like) for site in tuned.sites]
        classifier = copy.deepcopy(tuned.backbone.get_classifier()).eval().requires_grad_(False).to(like)
        for parts, own in zip(self._parts(), copies, strict=True):
            parts[part] = own
        self.heads[part] = classifier
        return Place(part, row, False, getattr(classifier, "out_features", None))

    def _stacked(self, row: int, tuned: DynamicModel, kind: Kind) -> Place:
        classifier = tuned.backbone.get_classifier()
        part = self._kinds[kind] if kind in self._kinds else self._new_stack(tuned, kind)
        head, stacks = self.heads[part], [parts[part] for parts in self._parts()]
        assert isinstance(head, Classifiers)
        for rows in (*stacks, head):
            assert isinstance(rows, Rows)
            while row >= rows.room:
                rows.grow(2 * rows.room)
        for stack, site in zip(stacks, tuned.sites, strict=True):
            assert isinstance(stack, Stack)
            stack.write(row, site)
        head.write(row, classifier)
        return Place(part, row, True, classifier.out_features)

    def _new_stack(self, tuned: DynamicModel, kind: Kind) -> str:
        part = next(key for key in map("stack:{}".format, range(len(self._kinds) + 1)) if key not in self.heads)
        like = self._like()
        for parts, of_site, site in zip(self._parts(), kind, tuned.sites, strict=True):
            assert isinstance(site.adapter, Bottleneck)
            parts[part] = Stack(of_site, site.adapter.up.out_features, self.room, like)
        self.heads[part] = Classifiers(tuned.backbone.get_classifier(), self.room, like)
        self._kinds[kind] = part
        return part

    def _vacate(self, place: Place) -> None:
        head = self.heads[place.part]
        if isinstance(head, Classifiers):
            head.clear(place.row)
        else:
            self._delete(place.part)

    def _delete(self, part: str) -> None:
        for parts in self._parts():
            del parts[part]
        del self.heads[part]

    def _tidy(self) -> None:
        """Drops stacks without tasks, but for what an empty bank may still be compiled for."""
        used = {place.part for place in self.places.values()}
        for kind, part in list(self._kinds.items()):
            if used and part not in used:
                self._delete(part)
                del self._kinds[kind]
        self.sole = next(iter(used)) if len(used) == 1 and used <= set(self._kinds.values()) else None


def _kind(tuned: DynamicModel) -> Kind | None:
    """Of a model whose parts can be stacked; None of any other."""
    classifier = tuned.backbone.get_classifier()
    if type(classifier) is not nn.Linear or not bare(classifier):
        return None
    kinds = tuple(kind for kind in map(kind_of, tuned.sites) if kind is not None)
    return kinds if len(kinds) == len(tuned.sites) else None


def on_device(values: Sequence[int | None], device: torch.device) -> Tensor:
    """(n,) int64, sent without waiting for the device."""
    tensor = torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
