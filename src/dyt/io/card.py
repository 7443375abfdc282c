"""The model card of a saved file: what is known of it, for readers and for the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import ModelCardData

from dyt.assembly import hub
from dyt.assembly.backbone import GIVEN
from dyt.config.spec import BackboneSpec
from dyt.errors import shortened
from dyt.io.header import read_header
from dyt.io.kept import FINGERPRINT
from dyt.io.loading import Contents
from dyt.model.dynamic import DynamicModel
from dyt.model.summary import component, share, trained_and_all

PIPELINES = {
    "classification": "image-classification",
    "features": "image-feature-extraction",
    "segmentation": "image-segmentation",
    "detection": "object-detection",
    "video": "video-classification",
}
"""What the hub calls a head's task."""
TAGS = ("dyt", "dynamic-vision-transformer", "parameter-efficient-fine-tuning", "timm")
REPOSITORY = "OWNER/NAME"
"""In the card of a folder, which may become any repository."""


def card(model: DynamicModel, path: Path, repo_id: str | None = None, license: str | None = None) -> str:
    """The README.md of a saved model, Markdown with YAML front matter.

    The path of a local file of weights, which the spec may have, is not told.

    Args:
        model: what was saved; its parameters are counted.
        path: its file, whose metadata are read.
        repo_id: the repository that it will be in.
        license: the hub's name of one, such as `apache-2.0`; no licence is told without it.

    Raises:
        CheckpointError: a file that cannot be read.
    """
    header = read_header(path)
    contents = Contents.of(header)
    spec, task = contents.spec, str(getattr(model.head, "task", "unknown"))
    trained, every = trained_and_all(model)
    front = ModelCardData(
        library_name="dyt",
        tags=list(TAGS),
        license=license,
        base_model=_base(spec.backbone),
        pipeline_tag=PIPELINES.get(task),
    )
    facts = {
        "Task": f"{task}, {spec.head.classifier} outputs" if task == "classification" else task,
        "Backbone": f"`{_bare(spec.backbone.name)}`, weights: {_weights(spec.backbone, contents.kept.every)}",
        "Hash of the frozen backbone": f"`{header.metadata.get(FINGERPRINT, 'none: the file has all of it')}`",
        "Variant": component(spec.variant),
        "Dispatcher": component(spec.dispatcher),
        "Adapter": component(spec.adapter),
        **({} if spec.stand_in is None else {"Stand-in": component(spec.stand_in)}),
        **({} if spec.tuner is None else {"Tuner": component(spec.tuner)}),
        **({} if spec.reducer is None else {"Reducer": component(spec.reducer)}),
        "Trained parameters": f"{trained:,d} of {every:,d} ({share(trained, every):.2f} %)",
    }
    if contents.config is not None:
        facts["Images"] = " x ".join(map(str, contents.config.input_size))
    table = "\n".join(f"| {name} | {_cell(said)} |" for name, said in facts.items())
    title = _bare((repo_id or path.resolve().parent.name).rpartition("/")[2])
    loading = _loading(spec.backbone, contents.kept.every, repo_id or REPOSITORY)
    return (
        f"---\n{front.to_yaml()}\n---\n\n# {title}\n\n"
        f"A dynamic vision transformer, fine-tuned with `dyt`. `{path.name}` has what was trained and the spec of the "
        f"model; loading it runs no code.\n\n| | |\n|---|---|\n{table}\n\n## Loading\n\n```python\n{loading}\n```\n"
    )


def _base(spec: BackboneSpec) -> str | None:
    """The repository of the weights that it was tuned from, where they are timm's own."""
    found = hub.repository(spec.name) if spec.weights == "pretrained" else None
    return None if found is None else found[0]


def _weights(spec: BackboneSpec, every: bool) -> str:
    if every:
        return "in the file"
    known = {"pretrained": "timm's", "none": "random ones", GIVEN: "those of a backbone that was handed over"}
    return known.get(spec.weights, "a local file")


def _loading(spec: BackboneSpec, every: bool, repo_id: str) -> str:
    if every or spec.weights == "pretrained":
        return f'import dyt\n\nmodel = dyt.from_pretrained("{repo_id}")'
    if spec.weights in {"none", GIVEN}:
        told = f"backbone = ...  # {_bare(spec.name)}, with the weights that it was tuned on"
        return f'import dyt\n\n{told}\nmodel = dyt.from_pretrained("{repo_id}", backbone=backbone)'
    told = 'weights = "..."  # the file of the backbone\'s weights'
    return f'import dyt\n\n{told}\nmodel = dyt.from_pretrained("{repo_id}", weights=weights)'


def _bare(name: str) -> str:
    """A name that ends neither a span nor a block of code."""
    return shortened(name).replace("`", "'")


def _cell(text: str) -> str:
    return shortened(text, 300).replace("|", "\\|")
