"""The command line as tests call it, in this process."""

from typer.testing import CliRunner

from dyt.cli.main import app


def said(*arguments: str) -> str:
    """What a command that ends well prints on standard output; its errors are raised."""
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout
