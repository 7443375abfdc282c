"""The strategies of `dyt.testing.strategies`, under the name that the tests use."""

from dyt.testing.strategies import (
    DTYPES,
    LAYOUTS,
    MASKS,
    SEEDS,
    batches,
    cases,
    chosen,
    companions,
    component,
    components,
    mask_kinds,
    names,
    parts_of,
    ramps,
    specs,
)

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "MASKS",
    "SEEDS",
    "batches",
    "cases",
    "chosen",
    "companions",
    "component",
    "components",
    "mask_kinds",
    "names",
    "parts_of",
    "ramps",
    "specs",
]
