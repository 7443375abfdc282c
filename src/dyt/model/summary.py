"""What a model is made of and how much of it is trained, in words; no forward is run."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from dyt.config.base import ComponentSpec
from dyt.dispatchers.always import Always
from dyt.model.parts import Composed


def trained_and_all(model: Composed) -> tuple[int, int]:
    """The number of parameters that are trained, and of all; one that is shared is counted once."""
    sizes = [(parameter.numel(), parameter.requires_grad) for _, parameter in model.named_parameters()]
    return sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)


def share(trained: int, every: int) -> float:
    """Per cent of all parameters that are trained; 0 of none."""
    return 100 * trained / every if every else 0.0


def trainable_line(model: Composed) -> str:
    """One line in the words of PEFT: parameters that are trained, all of them, and the percentage."""
    trained, every = trained_and_all(model)
    return f"trainable params: {trained:,d} || all params: {every:,d} || trainable%: {share(trained, every):.4f}"


def component(spec: ComponentSpec | None) -> str:
    """`bottleneck (dim 64)`: a component's name, and its fields that are not the default ones; `none` for None."""
    if spec is None:
        return "none"
    fields = spec.model_dump(mode="json", exclude={"type"}, exclude_defaults=True)
    said = ", ".join(f"{name} {value}" for name, value in fields.items())
    name = str(getattr(spec, "type", type(spec).__name__))
    return f"{name} ({said})" if said else name


def summary(model: Composed) -> str:
    """What `DynamicModel.summary` returns."""
    spec, sites = model.spec, model.sites
    names = [site.name for site in sites]
    trained, every = trained_and_all(model)
    lines = {
        "backbone": f"{spec.backbone.name} (weights: {spec.backbone.weights})",
        "head": component(spec.head),
        "variant": component(spec.variant),
        "sites": f"{len(names)} ({names[0]} to {names[-1]})" if len(names) > 1 else f"{len(names)} {' '.join(names)}",
        "dispatchers": component(spec.dispatcher),
        "adapters": component(spec.adapter),
        **({} if spec.stand_in is None else {"stand-ins": component(spec.stand_in)}),
        **({} if spec.tuner is None else {"tuner": component(spec.tuner)}),
        **({} if spec.reducer is None else {"reducer": component(spec.reducer)}),
        "parameters": f"{trained:,d} trained of {every:,d} ({share(trained, every):.2f} %)",
        "rate": _rates(model),
        "thresholds": _thresholds(site.threshold for site in sites),
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"{f'{name}:':<{width}}{said}".rstrip() for name, said in lines.items())


def _rates(model: Composed) -> str:
    """What is asked for; what a model reaches is known after a forward only."""
    objective, dispatcher = model.spec.objective, model.spec.dispatcher
    if model.sites and all(isinstance(site.dispatcher, Always) for site in model.sites):
        return "1, every token is active"
    if getattr(dispatcher, "count", None) is not None:
        return "by the dispatcher's count"
    own = getattr(dispatcher, "rate", None)
    if own is not None:
        return f"{own:g}, of the dispatcher" if isinstance(own, (int, float)) else "the dispatcher's"
    if objective.layer_rates is not None:
        return f"{_range(objective.layer_rates)} by layer, asked of the training"
    return f"{objective.rate:g}, asked of the training"


def _thresholds(given: Iterable[Tensor]) -> str:
    thresholds = list(given)
    if any(threshold.is_meta for threshold in thresholds):
        return "not at hand (offloaded)"
    values = [float(threshold) for threshold in thresholds]
    return _range(values) if any(values) else "0, as built"


def _range(values: Iterable[float]) -> str:
    low, high = min(values := tuple(values)), max(values)
    return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"
