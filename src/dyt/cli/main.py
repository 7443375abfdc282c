"""`dyt`: the verbs, put together. No verb's library is imported before the verb runs."""

from __future__ import annotations

from typing import Annotated

import typer

import dyt
from dyt.cli.bench import bench
from dyt.cli.calibrate import calibrate
from dyt.cli.demo import demo
from dyt.cli.doctor import doctor
from dyt.cli.errors import OneLine
from dyt.cli.evaluate import evaluate
from dyt.cli.export import export
from dyt.cli.listing import listing
from dyt.cli.macs import macs
from dyt.cli.paper import paper
from dyt.cli.plot import plot
from dyt.cli.plugin import new_plugin
from dyt.cli.predict import predict
from dyt.cli.spec import SpecCommand, spec
from dyt.cli.supports import supports
from dyt.cli.sweep import sweep
from dyt.cli.train import train

app = typer.Typer(
    name="dyt",
    cls=OneLine,
    help="Dynamic, parameter-efficient vision transformers: freeze a ViT, skip tokens, adapt with one per cent of it.",
    epilog="Start with 'dyt demo'. Every verb has --help.",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def common(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.", is_eager=True)] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error (or set DYT_DEBUG=1).")
    ] = False,
) -> None:
    """Dynamic, parameter-efficient vision transformers: freeze a ViT, skip tokens, adapt with one per cent of it."""
    if version:
        typer.echo(f"dyt {dyt.__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


for name, verb in {
    "demo": demo,
    "train": train,
    "sweep": sweep,
    "eval": evaluate,
    "predict": predict,
    "bench": bench,
    "calibrate": calibrate,
    "macs": macs,
    "paper": paper,
    "plot": plot,
    "spec": spec,
    "list": listing,
    "supports": supports,
    "export": export,
    "new-plugin": new_plugin,
    "doctor": doctor,
}.items():
    app.command(name, cls=SpecCommand if verb is spec else None)(verb)  # type: ignore[type-var]


def main() -> None:
    """The entry point `dyt`."""
    app()
