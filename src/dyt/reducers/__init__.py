"""Fewer tokens from block to block: the token-reduction peers of the paper's table 5, one file per reducer."""

from dyt.reducers.base import Carried, Position, Reduced, Reducer, ReducerSpec, Scene
from dyt.reducers.dynamicvit import DynamicViT, DynamicViTSpec
from dyt.reducers.evit import EViT, EViTSpec
from dyt.reducers.tome import ToMe, ToMeSpec

__all__ = [
    "Carried",
    "DynamicViT",
    "DynamicViTSpec",
    "EViT",
    "EViTSpec",
    "Position",
    "Reduced",
    "Reducer",
    "ReducerSpec",
    "Scene",
    "ToMe",
    "ToMeSpec",
]
