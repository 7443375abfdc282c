"""Token reduction from block to block: the methods in the paper's table 5. One file per reducer."""

from dyt.core.context import BuildContext, DecisionContext
from dyt.deprecated import renamed
from dyt.reducers.base import Carried, Reduced, Reducer, ReducerSpec
from dyt.reducers.dynamicvit import DynamicViT, DynamicViTSpec
from dyt.reducers.evit import EViT, EViTSpec
from dyt.reducers.tome import ToMe, ToMeSpec

__all__ = [
    "BuildContext",
    "Carried",
    "DecisionContext",
    "DynamicViT",
    "DynamicViTSpec",
    "EViT",
    "EViTSpec",
    "Reduced",
    "Reducer",
    "ReducerSpec",
    "ToMe",
    "ToMeSpec",
]

__getattr__ = renamed(__name__, {"Position": "BuildContext", "Scene": "DecisionContext"})
