"""The small models and batches of `dyt.testing.cases`, under the name that the tests use."""

from dyt.testing.cases import (
    CLASSES,
    MLPS,
    TINY,
    Case,
    GivenCase,
    masks,
    shaken,
    spec,
    tiny,
    tiny_backbone,
    token_shape,
    token_shapes,
)

__all__ = [
    "CLASSES",
    "MLPS",
    "TINY",
    "Case",
    "GivenCase",
    "masks",
    "shaken",
    "spec",
    "tiny",
    "tiny_backbone",
    "token_shape",
    "token_shapes",
]
