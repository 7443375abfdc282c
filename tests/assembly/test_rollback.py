"""What fails while a model is built, whoever's it is, is taken back: nothing is left on the given backbone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import parametrize

import dyt
from dyt.adapters import Adapter
from dyt.assembly.rollback import Snapshot, rollback
from dyt.config.base import ComponentSpec
from dyt.dispatchers import Dispatcher
from dyt.families import ViT
from dyt.heads import Query
from dyt.reducers import ToMe
from dyt.registry import KINDS
from dyt.testing.refusals import as_it_was, lived_in
from dyt.tuners import VPT, LoRA
from dyt.variants import DynamicBlock
from dyt.variants.mlp import MLP
from laws.models import CLASSES, TINY, Case, shaken, spec
