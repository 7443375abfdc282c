"""`dyt train`: fine-tunes, evaluates, saves; run again to go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from dyt.train.spec import RunSpec


def train(
    run: Annotated[
        Path | None, typer.Argument(help="A run.yaml; takes the place of a recipe.", show_default=False)
    ] = None,
    recipe_name: Annotated[
        str | None,
        typer.Option(
            "--recipe",
            help="default, one_rate, features, vtab1k, images, k400, ssv2, segmentation or detection.",
            show_default="the task's",
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="classification, video, segmentation, detection or features (no labels).", show_default="the recipe's"
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(help="Directory of the data: class folders, VTAB-1K lists, a HF dataset, or a task's."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory of the run.")] = Path("runs/last"),
    preset: Annotated[str | None, typer.Option(help="Model of a preset: linear, static_adapter, dyt, ...")] = None,
    backbone: Annotated[str | None, typer.Option(help="A timm name.")] = None,
    weights: Annotated[str | None, typer.Option(help="pretrained, none, or a local file.")] = None,
    changes: Annotated[list[str] | None, typer.Option("--set", help="field.field=value, any number of times.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--fresh", help="Go on with the run in OUT, or start anew.")] = True,
    accept_changes: Annotated[
        bool, typer.Option("--accept-changes", help="Go on although spec, data, weights or versions have changed.")
    ] = False,
) -> None:
    """Fine-tune on your images; interrupt with Ctrl-C, run the same command again to go on."""
    spec = run_spec(
        run,
        recipe_name,
        preset,
        {"data.root": data, "model.backbone.name": backbone, "model.backbone.weights": weights},
        changes or [],
        task,
    )
    from accelerate import PartialState

    from dyt.cli.output import console
    from dyt.tasks.kinds import task_of
    from dyt.train.loop import fit

    result = fit(spec, out, resume=resume, accept_changes=accept_changes)
    state = PartialState()
    if state.is_main_process:
        console().print(result.table(task_of(spec.data).unit))
        typer.echo(f"saved in {out}: model.safetensors, result.json, metrics.jsonl, run.yaml")
    state.destroy_process_group()


def run_spec(
    file: Path | None,
    recipe_name: str | None,
    preset: str | None,
    options: dict[str, str | None],
    changes: list[str],
    task: str | None = None,
) -> RunSpec:
    """The run of a file or a recipe, changed by a preset, then the task, then options, then `--set`.

    Raises:
        SpecError: in one line.
        typer.BadParameter: both a file and a recipe, or no data.
    """
    if file is not None and recipe_name is not None:
        raise typer.BadParameter("give a run file or --recipe, not both")
    from dyt.config.files import part, read
    from dyt.config.spec import parse
    from dyt.tasks.kinds import TASKS
    from dyt.train.named_runs import changed, recipe, with_preset, with_task
    from dyt.train.spec import RunSpec

    own = "default" if task is None or task not in TASKS else TASKS[task].recipe  # an unknown one is answered below
    plain: dict[str, Any] = read(file) if file is not None else recipe(recipe_name or own)
    if preset is not None:
        plain = with_preset(plain, preset)
    if task is not None:
        plain = with_task(plain, task)
    for field, value in options.items():
        if value is not None:
            *path, last = field.split(".")
            inner = plain
            for key in path:
                inner = part(inner, key)
            inner[last] = value
    plain = changed(plain, changes, ours=file is None)
    if "root" not in part(plain, "data"):
        raise typer.BadParameter("give --data, the directory of the images")
    return parse(RunSpec, plain)
