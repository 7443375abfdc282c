"""`none` adds nothing and has nothing to learn."""

import torch

from dyt.adapters import NoAdapter, NoAdapterSpec
from laws.models import tiny


def test_nothing_is_added() -> None:
    assert NoAdapter(NoAdapterSpec(), 4)(torch.zeros(1, 2, 4)) is None
    model = tiny(adapter="none", dispatcher="always")
    assert [name for name, p in model.named_parameters() if p.requires_grad] == [
        "backbone.head.weight",
        "backbone.head.bias",
    ]
