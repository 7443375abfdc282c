"""A dynamic model as a file that runs without this library: torch.export's .pt2, ONNX, or the weights of a timm model.

The first two contain the routers and one executor, the one that they were exported with; their batch size is dynamic.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from dyt.assembly.merging import merge
from dyt.core import context
from dyt.core.execution import Executor
from dyt.core.offloading import plain_tensor, refuse_absent
from dyt.errors import DyTError, UnsupportedError
from dyt.io.tensor_file import write
from dyt.model.block import POINTWISE
from dyt.model.dynamic import COMPLETE, DynamicModel, dynamic_of, execution
from dyt.registry import executors
from dyt.writing import check_target, whole

Run = Callable[[Tensor], Tensor]
"""Images (B, 3, H, W), any B -> logits (B, classes), computed by the exported file."""
TRACED = 2
"""Batch size of the trace. With a batch of one the exporter would make the size a constant."""


def program(model: nn.Module, images: Tensor, executor: str = "capacity") -> ExportedProgram:
    """The forward of inference as a torch.export program, with a dynamic batch size.

    Args:
        model: the dynamic model, or a wrapper around it; in eval mode.
        images: (B, 3, H, W), with the size and dtype of all later images; their values do not matter.
        executor: `capacity` (without calibration it computes all tokens), `masked`, `complete` (every token is active,
            nothing is decided), or `sparse` where only MLP branches are dispatched.

    Raises:
        UnsupportedError: a model in train mode, an executor that chooses shapes by the data in a branch of this model,
            or a call inside `dyt.forced`, `dyt.record` or `dyt.budgets`, which would become part of the file.
        DyTError: an unknown executor, or no image.
    """
    model = dynamic_of(model)
    refuse_absent(model, "export")
    if model.training:
        raise UnsupportedError("a model is exported as it is at inference: call model.eval() first")
    if len(images) == 0:
        raise DyTError("export needs an image, for its size and dtype; given a batch of none")
    _check(model, executor)
    now = context.current(model.key)
    if now.masks is not None or now.records or now.thresholds is not None:
        raise UnsupportedError(
            "forced masks, records and budgets would be part of the file: export outside of their contexts"
        )
    traced = images[:1].expand(TRACED, *images.shape[1:]).contiguous()
    with torch.no_grad(), execution(model, executor):
        return torch.export.export(model, (traced,), dynamic_shapes=({0: Dim("batch")},))


def _check(model: DynamicModel, executor: str) -> None:
    if executor == COMPLETE or executor not in executors.names():
        return  # an unknown one is refused by `execution`
    chosen: type[Executor] = executors.get(executor)
    for site in model.sites:
        method = "pointwise" if site.name.rpartition(".")[2] in POINTWISE else "mixing"
        if method in chosen.untraceable:
            raise UnsupportedError(
                f"executor '{executor}' cannot be exported: at site {site.name} it chooses shapes by the data; use "
                f"'capacity' or 'masked'"
            )


def to_pt2(model: nn.Module, path: str | Path, images: Tensor, executor: str = "capacity") -> Run:
    """Writes `path` (.pt2), to be loaded by `torch.export.load(path).module()`; arguments and errors as `program`.

    Returns:
        The written file, loaded.
    """
    path = _writable(path, ".pt2")
    made = program(model, images, executor)
    with whole(path) as draft, draft.open("wb") as file:
        torch.export.save(made, file)
    run: Run = torch.export.load(path).module()
    return run


def to_onnx(model: nn.Module, path: str | Path, images: Tensor, executor: str = "capacity") -> Run:
    """Writes `path` (.onnx), with input `images` and output `logits`; arguments and errors as `program`.

    Returns:
        The written file, in an onnxruntime session on the CPU.

    Raises:
        UnsupportedError: onnx, onnxscript or onnxruntime are not installed, or the model is not float32, of which
            onnxruntime has all operators on the CPU.
    """
    path = _writable(path, ".onnx")
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if find_spec(name) is None]
    if missing:
        raise UnsupportedError(f"ONNX needs {', '.join(missing)}, not installed here; pip install 'dyt[export]'")
    if images.dtype != torch.float32:
        raise UnsupportedError(f"ONNX is written in float32; given images in {images.dtype}; use .pt2 for other dtypes")
    found = torch.onnx.export(
        program(model, images, executor), dynamo=True, input_names=["images"], output_names=["logits"], verbose=False
    )
    assert found is not None, "only the exporter without dynamo returns None"
    with whole(path) as draft:
        found.save(draft)

    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(["logits"], {"images": batch.numpy()})[0])

    return run


def to_timm(model: nn.Module, path: str | Path) -> Run:
    """Writes `path` (.safetensors), the state dict of `dyt.merge(model)`; what merge refuses is refused.

    `timm.create_model(name, num_classes=..., checkpoint_path=path)` loads it.

    Returns:
        The merged model.
    """
    path = _writable(path, ".safetensors")
    merged: nn.Module = merge(model)
    tensors = {key: plain_tensor(tensor, key).clone() for key, tensor in merged.state_dict().items()}
    with whole(path) as draft:
        write(tensors, {"format": "pt"}, draft)
    return merged


def _writable(path: str | Path, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise DyTError(f"'{path}' must end in {suffix}")
    check_target(path)
    return path


@dataclass(frozen=True)
class Difference:
    """The difference between an exported file and the model.

    Attributes:
        largest: the largest absolute difference of all logits.
        logits: the model's largest absolute logit, for comparison with `largest`.
        same: images with the same top class.
        images: images compared.
        overflowed: images left out of the comparison, because they exceeded the capacity and their logits are NaN.
    """

    largest: float
    logits: float
    same: int
    images: int
    overflowed: int

    def __str__(self) -> str:
        text = (
            f"largest difference {self.largest:.2e} (logits up to {self.logits:.2f}), same class for {self.same} of "
            f"{self.images} images"
        )
        return text + (f"; {self.overflowed} exceeded the capacity and are NaN" if self.overflowed else "")


@torch.no_grad()
def difference(model: nn.Module, run: Run, images: Tensor, dtype: torch.dtype = torch.float32) -> Difference:
    """Compares an exported file with the model, which runs `masked` with its own routes.

    Args:
        model: in eval mode; the model before any conversion, to include the difference made by the conversion.
        run: the exported file, as returned by `to_pt2`, `to_onnx` or `to_timm`.
        images: (B, 3, H, W), in the model's dtype; B other than `TRACED`, to check that the batch size is dynamic.
        dtype: the dtype that `run` takes.

    Raises:
        DyTError: a batch of the traced size, or of none.
    """
    model = dynamic_of(model)
    if len(images) in {0, TRACED}:
        raise DyTError(f"compare on a batch of another size than {TRACED}, that of the trace; given {len(images)}")
    with execution(model, "masked"):
        wanted = model(images).float().cpu()
    given = run(images.to(dtype)).float().cpu()
    nan = given.isnan().any(1)
    off, wanted, given = int(nan.sum()), wanted[~nan], given[~nan]
    if not len(wanted):
        return Difference(0.0, 0.0, 0, 0, off)
    same = int((wanted.argmax(1) == given.argmax(1)).sum())
    return Difference(float((wanted - given).abs().max()), float(wanted.abs().max()), same, len(wanted), off)
