"""What all figures share: colours, frames, and where they can be saved."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dyt.errors import DyTError
from dyt.writing import check_target, whole

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
    check_target(path)


def save_figure(figure: Figure, path: Path, dpi: float | None = 150) -> None:
    """Writes a figure to a file, in the format of its ending, whole or not at all.

    Args:
        dpi: dots per inch; None for the figure's own.

    Raises:
        DyTError: it cannot be written.
    """
    with whole(path) as draft:
        figure.savefig(draft, dpi="figure" if dpi is None else dpi)
