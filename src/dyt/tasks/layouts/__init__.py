"""How image data lies on disk: class folders, lists, Hugging Face datasets, and data sets as they were published."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from dyt.tasks.layouts.aircraft import Aircraft
from dyt.tasks.layouts.base import (
    EXTENSIONS,
    DataError,
    Layout,
    Split,
    by_name,
    contents_of,
    files,
    read_lines,
    relabelled,
    some,
)
from dyt.tasks.layouts.cars import Cars
from dyt.tasks.layouts.cifar100 import Cifar100
from dyt.tasks.layouts.folder import Folder, folder_classes
from dyt.tasks.layouts.food101 import Food101
from dyt.tasks.layouts.hf import HuggingFace
from dyt.tasks.layouts.pets import Pets
from dyt.tasks.layouts.svhn import Svhn
from dyt.tasks.layouts.vtab import VtabLists

__all__ = [
    "EXTENSIONS",
    "LAYOUTS",
    "DataError",
    "Layout",
    "Split",
    "by_name",
    "contents_of",
    "files",
    "folder_classes",
    "read_lines",
    "relabelled",
    "some",
]

LAYOUTS: Mapping[str, Layout] = MappingProxyType(
    {
        layout.name: layout
        for layout in (
            HuggingFace(),
            VtabLists(),
            Folder(),
            Cifar100(),
            Svhn(),
            Food101(),
            Aircraft(),
            Pets(),
            Cars(),
        )
    }
)
"""By the name that `data.format` has; first, in order of precedence, those that are not of one published data set."""
