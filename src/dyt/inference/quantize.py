"""`dyt.quantize`: a copy whose frozen layers have int8 weights, by torchao."""

from __future__ import annotations

import copy
from importlib.util import find_spec

from torch import nn

from dyt.core.offloading import refuse_absent
from dyt.errors import UnsupportedError
from dyt.inference.rewrites.model import InferenceModel
from dyt.inference.rewrites.products import is_linear
from dyt.model.block import DynamicBlock
from dyt.model.dynamic import dynamic_of
from dyt.model.site import Site


def quantize(model: nn.Module, activations: bool = False) -> InferenceModel:
    """A copy for inference with int8 weights in the linear layers of its blocks; not the same numbers.

    One scale per output channel, symmetric. Adapters, dispatchers, the head, norms and what lies before the blocks stay
    as they are. A weight takes a quarter of its float32 bytes. Measure what it costs in accuracy (`dyt eval --dtype
    int8`): numbers differ by about a per cent, and a token whose logit is that near its threshold is routed otherwise.

    Args:
        model: from `dyt.build` or `dyt.load`, or what wraps one; not changed. `dyt.optimize` leaves quantised layers as
            they are.
        activations: also quantise what the layers are given, to int8, token by token, for products in int8. For GPUs
            and CPUs with int8 instructions (VNNI, AMX); much slower on others.

    Raises:
        UnsupportedError: torchao is not installed, the model is for inference already, it has no linear layers that
            can be quantised, or its weights are offloaded or sharded.
        DyTError: not one dynamic model.
    """
    model = dynamic_of(model)
    if isinstance(model, InferenceModel):
        raise UnsupportedError(f"{model.kind} model cannot be quantised; quantise the one that it was made from")
    if find_spec("torchao") is None:
        raise UnsupportedError("quantize needs torchao, not installed here; pip install 'dyt[int8]'")
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_

    refuse_absent(model, "quantize")
    twin = copy.deepcopy(model).eval().requires_grad_(False)
    chosen = {id(layer) for block in twin.modules() if isinstance(block, DynamicBlock) for layer in _layers(block)}
    if not chosen:
        raise UnsupportedError("quantize: none of the model's blocks has a plain linear layer")
    config = Int8DynamicActivationInt8WeightConfig() if activations else Int8WeightOnlyConfig()
    quantize_(twin, config, filter_fn=lambda module, _: id(module) in chosen)
    return InferenceModel(twin, "a quantised")


def _layers(block: nn.Module) -> list[nn.Module]:
    """Its linear layers, but for those of its sites: adapters and dispatchers are small, and decide."""
    own = {id(module) for site in block.modules() if isinstance(site, Site) for module in site.modules()}
    return [module for module in block.modules() if is_linear(module) and id(module) not in own]
