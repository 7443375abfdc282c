"""`dyt supports`: which variants a timm model can have."""

from __future__ import annotations

from typing import Annotated

import typer


def supports(
    name: Annotated[str, typer.Argument(help="A name of timm's, for example vit_small_patch14_dinov2.")],
) -> None:
    """Say which variants can be built on a timm model, and why not the others. Downloads nothing."""
    import dyt

    answer = dyt.supports(name)
    typer.echo(f"{name}: {f'family {answer.family}' if answer.family else 'not supported'}")
    for variant in answer.variants:
        typer.echo(f"  {variant}: yes")
    for variant, reason in answer.refused.items():
        typer.echo(f"  {variant}: no, {reason}")
    if not answer:
        raise typer.Exit(1)
