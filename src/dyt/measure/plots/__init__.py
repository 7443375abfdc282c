"""The paper's figures for any model: matplotlib `Figure`s, returned; the caller saves them. No global pyplot state."""

from dyt.measure.plots.activity import activation_chart, activity_picture, as_rgb, layer_labels, veiled
from dyt.measure.plots.costs import Point, Timed, speed_over_activity, time_against_macs, tradeoff
from dyt.measure.plots.style import save_figure, writable

__all__ = [
    "Point",
    "Timed",
    "activation_chart",
    "activity_picture",
    "as_rgb",
    "layer_labels",
    "save_figure",
    "speed_over_activity",
    "time_against_macs",
    "tradeoff",
    "veiled",
    "writable",
]
