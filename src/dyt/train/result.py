"""Result: what a run came to, as it is written to result.json and shown as a table."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError
from rich.table import Table

from dyt.config.base import Spec
from dyt.train.evaluation import Evaluation
from dyt.train.state import RunError


class Result(Spec):
    """A finished run, as result.json has it."""

    test: Evaluation
    """The evaluation on the test split, at inference."""
    asked_rate: float
    """The target rate at the end of the run, `objective.rate`."""
    training_rate: float
    """Share of active patch tokens in the dynamic passes of the last epoch, under training noise."""
    training_rates: dict[str, float]
    """The same share for each site."""
    calibrated_rate: float | None
    """The rate over training images that `train.calibrate` reached. Null without it."""
    trainable: int
    """Number of trained parameters."""
    trainable_without_head: int
    """Number of trained parameters without the head, as the paper counts."""
    epochs: int
    """Number of epochs."""
    seconds: float
    """Duration of the run, its earlier, interrupted parts included."""

    def table(self, unit: str = "image") -> Table:
        """The table at the end of a run; `unit` is what the task calls an input."""
        table = report_table(self.test, f"{self.test.images} test {unit}s", unit, self.asked_rate, self)
        table.add_row("trainable parameters", f"{self.trainable:,}")
        table.add_row("  without the head", f"{self.trainable_without_head:,}")
        return table

    @staticmethod
    def read(path: Path) -> Result:
        """The result in a result.json.

        Raises:
            RunError: not one.
        """
        try:
            return Result.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValidationError) as error:
            raise RunError(f"{path} is not the result of a run; remove it, or give --fresh to start anew") from error


def report_table(
    report: Evaluation, title: str, unit: str = "image", asked: float | None = None, training: Result | None = None
) -> Table:
    """An evaluation as a table, beside the rates under training noise when a result is given."""
    table = Table(title=title)
    table.add_column("")
    table.add_column("at inference", justify="right")
    if training is not None:
        table.add_column("in training, last epoch", justify="right")
    if report.accuracy is not None:
        table.add_row("accuracy", f"{report.accuracy:.2%}")
    if report.accuracy_top5 is not None:
        table.add_row("accuracy, top 5", f"{report.accuracy_top5:.2%}")
    for metric, value in report.metrics.items():
        table.add_row(metric.replace("_", " "), "none" if value is None else f"{value:.2%}")
    name = "active tokens" if asked is None else f"active tokens (asked {asked:g})"
    beside = [] if training is None else [f"{training.training_rate:.3f}"]
    table.add_row(name, f"{report.active_rate:.3f}", *beside)
    for site, rate in report.active_rates.items():
        beside = [] if training is None else [f"{training.training_rates[site]:.3f}"]
        table.add_row(f"  {site}", f"{rate:.3f}", *beside)
    table.add_row(f"GMACs per {unit}", f"{report.gmacs:.4g}")
    table.add_row("  with every token active", f"{report.gmacs_complete:.4g}")
    if report.gmacs_dense is not None and report.gmacs_head is not None:
        table.add_row("  dense, without adapters", f"{report.gmacs_dense:.4g}")
        table.add_row("  of these, the head's", f"{report.gmacs_head:.4g}")
    return table
