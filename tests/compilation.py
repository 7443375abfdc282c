"""Whether this torch compiles a model into one graph; where it cannot, it splits it, with the same numbers."""

from contextvars import ContextVar

import torch

VARIABLE: ContextVar[int] = ContextVar("variable", default=1)


def reads_context_variables() -> bool:
    """Whether this torch traces ContextVar.get into one graph."""
    torch.compiler.reset()
    try:
        torch.compile(lambda x: x * VARIABLE.get(), fullgraph=True, backend="eager")(torch.ones(1))
    except torch._dynamo.exc.Unsupported:
        return False
    return True


WHOLE = reads_context_variables()
"""For `torch.compile(fullgraph=WHOLE)`."""
