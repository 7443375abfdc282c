"""The command line as tests call it, in this process and without the face that makes errors a line."""

import typer
from typer.testing import CliRunner

from dyt.cli.bench import bench
from dyt.cli.calibrate import calibrate
from dyt.cli.evaluate import evaluate
from dyt.cli.export import export
from dyt.cli.plot import plot
from dyt.cli.predict import predict
from dyt.cli.train import train

APP = typer.Typer(pretty_exceptions_enable=False)
APP.command("eval")(evaluate)
for verb in (train, predict, plot, calibrate, bench, export):
    APP.command()(verb)


def said(*arguments: str) -> str:
    """What a command that ends well prints on standard output; its errors are raised."""
    done = CliRunner().invoke(APP, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
