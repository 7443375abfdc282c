"""What all figures share: colours, frames, and where they can be saved."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dyt.errors import DyTError

INK, ACCENT, PALE = "#26323f", "#1f77b4", "#c9d3dc"


def framed(axes: Axes) -> None:
    """No frame but two quiet lines."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(PALE)
    axes.tick_params(colors=INK, length=3, labelsize=8)


def writable(path: Path) -> None:
    """Refuses, before anything is computed, a file that a figure cannot be saved to.

    Raises:
        DyTError: no such directory, or an ending that matplotlib does not write.
    """
    allowed = sorted(FigureCanvasAgg.get_supported_filetypes())
    if path.suffix[1:].lower() not in allowed:
        raise DyTError(f"cannot draw into '{path}': allowed endings: {', '.join(allowed)}")
    if not path.parent.is_dir():
        raise DyTError(f"cannot draw into '{path}': no directory '{path.parent}'")
