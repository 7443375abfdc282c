"""`triton`: its kernels under Triton's interpreter in a process of its own; here, what it is refused for."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import dyt
from dyt.executors import Triton
from dyt.testing import check
from laws.models import tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
HERE = Path(__file__).parent


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_the_kernels_in_the_interpreter() -> None:
    """Triton reads TRITON_INTERPRET when it is imported, hence another process."""
    done = subprocess.run(
        [sys.executable, str(HERE / "interpreted.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split()[-1] == "agree"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="compiled kernels need a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_kernels_on_a_gpu(dtype: torch.dtype) -> None:
    sys.path.insert(0, str(HERE))
    from interpreted import agreement, optimised

    agreement("cuda", dtype)
    optimised("cuda", dtype)


@pytest.mark.skipif(torch.cuda.is_available() or find_spec("triton") is None, reason="says what is so without a GPU")
def test_a_cpu_is_refused() -> None:
    model = tiny()
    message = r"at site blocks\.0\.mlp: it needs a GPU .* use 'sparse' or 'capacity'"
    with torch.no_grad(), dyt.execution(model, "triton"), pytest.raises(dyt.UnsupportedError, match=message):
        model(X)


def test_a_missing_package_and_attention_branches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dyt.executors.triton.operators.find_spec", lambda name: None)
    assert Triton.refusal(torch.device("cuda")) == "the package triton is not installed"
    model = tiny(variant={"type": "attn"})
    with (
        torch.no_grad(),
        dyt.execution(model, "triton"),
        pytest.raises(dyt.UnsupportedError, match="for MLP branches"),
    ):
        model(X)


def test_check_says_that_it_is_not_for_every_branch() -> None:
    with pytest.raises(dyt.DyTError, match="executor 'triton' is for MLP branches"):
        check("executors", "triton")
