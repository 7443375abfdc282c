"""POLICY, who is active: one file per dispatcher, plus the pure sampling functions."""

from dyt.core.context import BuildContext, DecisionContext
from dyt.deprecated import renamed
from dyt.dispatchers import sampling
from dyt.dispatchers.always import Always, AlwaysSpec
from dyt.dispatchers.attention import Attention, AttentionSpec
from dyt.dispatchers.base import Decision, Dispatcher, DispatcherSpec, RatedSpec
from dyt.dispatchers.counted import CountedSpec
from dyt.dispatchers.learned import Learned, LearnedSpec
from dyt.dispatchers.random import Random, RandomSpec
from dyt.dispatchers.scored import ScoredSpec
from dyt.dispatchers.topk import TopK, TopKSpec

__all__ = [
    "Always",
    "AlwaysSpec",
    "Attention",
    "AttentionSpec",
    "BuildContext",
    "CountedSpec",
    "Decision",
    "DecisionContext",
    "Dispatcher",
    "DispatcherSpec",
    "Learned",
    "LearnedSpec",
    "Random",
    "RandomSpec",
    "RatedSpec",
    "ScoredSpec",
    "TopK",
    "TopKSpec",
    "sampling",
]

__getattr__ = renamed(__name__, {"Place": "BuildContext", "Moment": "DecisionContext"})
