"""POLICY, who is active: one file per dispatcher, plus the pure sampling functions."""

from dyt.dispatchers import sampling
from dyt.dispatchers.always import Always, AlwaysSpec
from dyt.dispatchers.base import Decision, Dispatcher, DispatcherSpec, Moment, Place, RatedSpec
from dyt.dispatchers.learned import Learned, LearnedSpec
from dyt.dispatchers.random import Random, RandomSpec

__all__ = [
    "Always",
    "AlwaysSpec",
    "Decision",
    "Dispatcher",
    "DispatcherSpec",
    "Learned",
    "LearnedSpec",
    "Moment",
    "Place",
    "Random",
    "RandomSpec",
    "RatedSpec",
    "sampling",
]
