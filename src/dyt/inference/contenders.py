"""What a benchmark also runs of the model that it measures: the exact rewrites, each a faster model of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from dyt.inference.rewrites import optimize
from dyt.measure.contenders import OPTIMISED, Rewrite

REWRITES: Mapping[str, Rewrite] = {
    f"{OPTIMISED}, last block whole": partial(optimize, last_block=False),
    OPTIMISED: optimize,
}
"""By name, for `dyt.measure.bench.compare`."""
