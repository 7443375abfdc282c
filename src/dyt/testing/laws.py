"""The laws of docs/design.md for whole models, each a plain function of one example; no hypothesis here.

Every function returns nothing, or raises an AssertionError that says what does not hold. `chosen` has the variant,
dispatcher, adapter (and whatever else differs from the defaults, a tuner or a reducer say) of a spec.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from dyt.assembly.build import build
from dyt.config.files import dump_yaml, parse_yaml
from dyt.config.spec import DyTSpec, parse
from dyt.core.context import changed
from dyt.core.route import activation_rate
from dyt.io.checkpoint import load, save
from dyt.measure.flops import MacCounter
from dyt.measure.macs import count_macs, tokens_alone
from dyt.model.dynamic import DynamicModel, execution, forced, record
from dyt.model.parts import head_keys, tuned_keys
from dyt.model.site import Site
from dyt.model.tensors import aside, plain_state, trainable
from dyt.model.token_state import TokenReduction
from dyt.objective.step import TuningStep
from dyt.testing.cases import Sample, leaves, masks, shaken, spec
from dyt.testing.steady import steady_images

Chosen = Mapping[str, Any]
# The penalty's gradient is zero only if rate and target are equal; no small number of tokens gives 0.3717.
OBJECTIVE = {"rate": 0.3717}


def require(holds: object, otherwise: str) -> None:
    """An assertion that `python -O` keeps, with its words."""
    if not holds:
        raise AssertionError(otherwise)


def built(case: Sample, chosen: Chosen, backbone: nn.Module | None = None) -> DynamicModel:
    """The case's backbone, or a given one, with the chosen components."""
    wanted = spec(**{"head": case.head(), **chosen})
    return build(wanted, backbone=case.backbone() if backbone is None else backbone)


def starts_as_the_backbone(case: Sample, chosen: Chosen, executors: Sequence[str]) -> None:
    """Law 1: with fresh adapters and everything active the model equals the plain one, in any executor."""
    backbone, x = case.backbone(), case.images()
    with torch.no_grad(), case.precision():
        plain = copy.deepcopy(backbone)(x)
        model = built(case, chosen, backbone)
        with execution(model, "complete"), record(model) as routes:
            case.close(model(x), plain)
        require(len(routes) == len(model.sites), f"{len(routes)} routes were recorded of {len(model.sites)} sites")
        for route in routes:
            hidden = torch.zeros_like(route.active) if route.padding is None else route.padding
            require((route.active | hidden).all(), f"{route.site} is not all active in the complete model")
            require(route.logits is None and route.gate is None, f"{route.site} was decided in the complete model")
        for executor in executors:
            with forced(model, masks(model, x, ["all"], 0)), execution(model, executor):
                out = model(x)
            require((out.dtype, out.shape) == (plain.dtype, plain.shape), f"{executor}: {out.dtype} {out.shape}")
            case.close(out, plain)


def executor_equals_masked(case: Sample, chosen: Chosen, executor: str, kinds: Sequence[str]) -> None:
    """Law 2: an executor equals `masked` under the same masks."""
    model, x = shaken(built(case, chosen)), case.images()
    given_masks = masks(model, x, kinds, case.seed)
    with case.precision():
        if model.reductions:
            with torch.no_grad(), forced(model, given_masks):
                x = steady_images(case, model)  # a reducer decides independently of the masks
        equals_masked(model, x, given_masks, [executor], case.close)


def equals_masked(
    model: DynamicModel,
    x: Any,
    given_masks: Sequence[Tensor],
    executors: Sequence[str],
    close: Callable[[Tensor, Tensor], None],
) -> Tensor:
    """Law 2 for a model that is there: each executor gives what `masked` gives under these masks, which all keep.

    Args:
        model: of the mode, device and dtype to be tried.
        x: what it is called with.
        given_masks: for each site (B, N).
        executors: by name.
        close: asserts that the first argument equals the second up to rounding.

    Returns:
        What `masked` gives.
    """
    out = {}
    with torch.no_grad(), forced(model, given_masks):
        for name in ("masked", *executors):
            with execution(model, name), record(model) as routes:
                out[name] = model(x)
            for route, mask in zip(routes, given_masks, strict=True):
                wanted = mask if route.padding is None else mask & ~route.padding
                require(torch.equal(route.active, wanted), f"{route.site} did not keep its forced mask")
                require(not route.dense, f"{route.site} calls a forced mask dense")
    expected: Tensor = out["masked"]
    for name in executors:
        require(out[name].dtype == expected.dtype, f"{name}: {out[name].dtype} in place of {expected.dtype}")
        close(out[name], expected)
    return expected


def own_routes_equal_masked(case: Sample, chosen: Chosen, executor: str) -> None:
    """Law 2: what a dispatcher decides under an executor gives what `masked` makes of the same decisions."""
    model = shaken(built(case, chosen))
    drawn = any(site.dispatcher.draws_at_inference for site in model.sites)  # which no image keeps from changing
    x = steady_images(case, model) if model.reductions and not drawn else case.images()
    with torch.no_grad(), case.precision():
        with execution(model, executor), record(model) as routes:
            out = model(x)
        with execution(model, "masked"), forced(model, [route.active for route in routes]):
            case.close(out, model(x))


def training_keeps_the_backbone(case: Sample, chosen: Chosen, checkpointing: bool = False, steps: int = 2) -> None:
    """Law 3: the frozen backbone is bit-identical after training; no trainable gradient is None.

    Frozen is what neither a tuner nor `modules_to_save` trains nor a reducer brings, and it is what the plain model had
    before it was tuned.
    """
    backbone = case.backbone()
    given = {k: v.detach().clone() for k, v in backbone.state_dict().items()}
    model = built(case, {"objective": OBJECTIVE, **chosen}, backbone)
    model.set_grad_checkpointing(checkpointing)
    before = {k: v.detach().clone() for k, v in model.state_dict().items()}
    head = {f"backbone.{key}" for key in head_keys(model.backbone)}
    learning = {name for name, p in model.named_parameters() if p.requires_grad}
    tuned = {f"backbone.{key}" for key in tuned_keys(model.backbone, model.tuner)}
    require(tuned or model.tuner is None, "the tuner names nothing that it trains")
    ours = {
        name
        for path, part in model.named_modules()
        if isinstance(part, (Site, TokenReduction))
        for name, _ in part.named_parameters(prefix=path)
    }
    behind = {f"head.{name}" for name, _ in model.head.named_parameters()}
    listed = {id(p) for p in trainable(model)}
    saved = {name for name, p in model.named_parameters() if id(p) in listed}
    expected = ours | head | behind | tuned | saved
    require(learning == expected, f"trainable, or not, against the plan: {sorted(learning ^ expected)}")
    step = TuningStep(model).train()
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.5)
    for _ in range(steps):
        with case.precision():
            loss, parts = step(case.images(), case.labels(), 0.5)
        require(torch.isfinite(loss), f"the loss is {loss.item()}")
        require(torch.equal(loss, parts["total"]), "the loss is not the total of its parts")
        optimizer.zero_grad()
        loss.backward()
        without = [k for k, p in model.named_parameters() if p.requires_grad and p.grad is None]
        require(not without, f"trainable, but not reached by the gradient: {without}")
        frozen = [k for k, p in model.named_parameters() if not p.requires_grad and p.grad is not None]
        require(not frozen, f"frozen, but with a gradient: {frozen}")
        optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    counted = {f"head.{name}" for name, _ in model.head.named_buffers()}  # statistics of batch norms
    frozen = sorted(changed - learning - counted)
    require(not frozen, f"changed in training, though frozen: {frozen}")
    require(head <= changed, f"not changed in training: {sorted(head - changed)}")
    require(not behind or behind & changed, "nothing of the head has changed in training")
    require(not tuned or tuned & changed, "nothing that the tuner trains has changed in training")
    require(not saved or saved & changed, "nothing of modules_to_save has changed in training")
    plain = plain_state(backbone, model.tuner)
    require(set(plain) == set(given), f"other keys than the plain backbone's: {sorted(set(plain) ^ set(given))}")
    trained = aside(backbone, model.tuner, model.spec.modules_to_save)
    other = [key for key, value in plain.items() if key not in trained and not torch.equal(value, given[key])]
    require(not other, f"not what the plain backbone had, though frozen: {sorted(other)}")


def images_do_not_meet(case: Sample, chosen: Chosen, executor: str) -> None:
    """Law 4: an image's routes and logits do not depend on the other images of its batch.

    Of images that no tie decides: other summation orders may tip one.
    """
    model = shaken(built(case, chosen), 0.3)
    with torch.no_grad(), execution(model, executor):
        x = steady_images(case, model)
        with record(model) as together:
            logits = model(x)
        for i in range(case.batch):
            with record(model) as alone:
                own = model(x[i : i + 1])
            for route, single in zip(together, alone, strict=True):
                same = torch.equal(route.active[i], single.active[0])
                require(same, f"{route.site}: image {i} alone is routed otherwise than in its batch")
            case.close(own[0], logits[i])


def prefix_is_active(case: Sample, chosen: Chosen, training: bool) -> None:
    """Law 5: prefix tokens are always active and never counted in the rate; a gate equals its decision."""
    model = shaken(built(case, chosen), 1.0).train(training)
    prompts = 0 if model.tuner is None else model.tuner.prompts
    with case.precision(), record(model) as routes:
        model(case.images())
    for route in routes:
        known = route.prefix if case.prefix is None else case.prefix + prompts
        require(route.prefix == known, f"{route.site} has {route.prefix} prefix tokens, not {known}")
        require(route.active[:, : route.prefix].all(), f"{route.site}: a prefix token is not active")
        require(not route.active.shape[1] < route.prefix, f"{route.site} has fewer tokens than prefix tokens")
        if route.padding is not None:
            require(not (route.active & route.padding).any(), f"{route.site}: a padding token is active")
        if route.gate is not None:
            require(torch.equal(route.gate.bool(), route.active), f"{route.site}: gate and decision differ")
    active, total = activation_rate(routes)
    patches = [r.active[:, r.prefix :] for r in routes]
    hidden = sum(0 if r.padding is None else int(r.padding[:, r.prefix :].sum()) for r in routes)
    require(active.item() == sum(int(p.sum()) for p in patches), "the rate counts something beside active patches")
    require(total.item() == sum(p.numel() for p in patches) - hidden, "the rate is not the share of the patch tokens")


def spec_survives(plain: Mapping[str, Any]) -> None:
    """Law 6: a spec survives JSON and YAML unchanged; plain data that it was made from is left alone."""
    kept = copy.deepcopy(plain)
    spec = parse(DyTSpec, plain)
    require(plain == kept, "validating a spec changes the data that it is made from")
    dumped = spec.model_dump(mode="json")
    require(parse(DyTSpec, dumped) == spec, f"not the same spec again from {dumped}")
    require(DyTSpec.model_validate_json(spec.model_dump_json()) == spec, "not the same spec again from its JSON")
    require(parse_yaml(dump_yaml(dumped)) == dumped, f"not the same data again from YAML of {dumped}")
    require(json.loads(json.dumps(dumped, allow_nan=False)) == dumped, f"not the same data again from JSON of {dumped}")
    for slot in ("variant", "dispatcher", "adapter", "stand_in", "tuner", "reducer", "head"):
        same = type(getattr(parse(DyTSpec, dumped), slot)) is type(getattr(spec, slot))
        require(same, f"the {slot}'s spec comes back as another class")


def file_loads_equal(
    case: Sample, chosen: Chosen, other_head: int | None = None, thawed: Sequence[str] = (), whole: bool | None = None
) -> None:
    """Law 7: a saved file loads into an equal model.

    `other_head`: classes of the given backbone's head before. `thawed`: modules of the backbone that are trained though
    the spec does not say so. `whole`: as for `dyt.save`.
    """
    plain = case.backbone()
    model = built(case, chosen, copy.deepcopy(plain))
    for name in thawed:
        model.backbone.get_submodule(name).requires_grad_(True)
    shaken(model)
    for i, site in enumerate(model.sites):
        site.threshold.fill_(0.1 * i)
    if other_head is not None:
        plain.reset_classifier(other_head)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save(model, path, whole=whole)
        require([file.name for file in path.parent.iterdir()] == [path.name], "save leaves more than its file")
        again = load(path, backbone=plain)
    require(not again.training, "a loaded model is in eval mode")
    require(again.spec == model.spec, f"loaded {again.spec} in place of {model.spec}")
    require(again.backbone is plain, "the given backbone was not used")
    ours, theirs = model.state_dict(), again.state_dict()
    require(list(ours) == list(theirs), f"other tensors: {sorted(set(ours) ^ set(theirs))}")
    other = [k for k, v in ours.items() if not torch.equal(theirs[k], v) or theirs[k].dtype != v.dtype]
    require(not other, f"tensors that are not what was saved: {other}")
    grads = [[p.requires_grad for p in m.parameters()] for m in (model, again)]
    require(thawed or grads[0] == grads[1], "other parameters are trainable than before")
    answers = []
    with torch.no_grad(), case.precision():
        for each in (model, again):
            torch.manual_seed(1)
            answers.append(dict(leaves(each(case.images()))))
    first, second = answers
    same = list(first) == list(second) and all(torch.equal(first[where], second[where]) for where in first)
    require(first and same, "the loaded model answers otherwise than the saved one")


def macs_are_what_sparse_executes(case: Sample, chosen: Chosen, policy: str, kinds: Sequence[str]) -> None:
    """Law 8: `count_macs` equals what a FLOP counter sees, whichever operator torch chooses for attention.

    `policy` is forced, routed or complete. What is routed is so in float32, of images that no tie decides: two forwards
    are to decide alike.
    """
    if policy == "routed" and case.dtype != "float32":
        case = replace(case, dtype="float32")  # type: ignore[type-var]
    model, x = shaken(built(case, chosen), 0.3), case.images()
    given_masks = masks(model, x, kinds, case.seed)
    ways: dict[str, AbstractContextManager[None]] = {
        "forced": forced(model, given_masks), "routed": nullcontext(), "complete": execution(model, "complete")
    }  # fmt: skip
    with case.precision():
        with ways[policy]:
            if policy == "routed" or model.reductions:
                x = steady_images(case, model)
            counted = count_macs(model, x)
            if policy == "forced":
                with sdpa_kernel(SDPBackend.MATH):
                    by_hand = count_macs(model, x)
                require(
                    torch.equal(counted, by_hand),
                    f"by torch's choice of attention {counted.tolist()}, of plain products {by_hand.tolist()}",
                )
        name = "complete" if policy == "complete" else "sparse"
        own = [[mask[i : i + 1] for mask in given_masks] if policy == "forced" else None for i in range(len(x))]
        seen = [executed(model, x[i : i + 1], name, masks_) for i, masks_ in enumerate(own)]
    require(counted.dtype == torch.int64 and counted.shape == (case.batch,), f"{counted.dtype} {counted.shape}")
    # Each image's share is rounded to a whole number.
    near = all(abs(a - b) <= 1 for a, b in zip(counted.tolist(), seen, strict=True))
    require(near, f"{policy}: count_macs says {counted.tolist()}, a FLOP counter sees {seen}")


def executed(model: DynamicModel, images: Any, name: str = "sparse", masks: Sequence[Tensor] | None = None) -> int:
    """Multiply-accumulates of one forward under an execution, as a counter of its operators sees them.

    `sparse` without rows beside the tokens'. One image at a time is an image's own cost: in a batch, mixing branches
    are padded to the longest image.
    """
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(execution(model, name))
        if name == "sparse":
            stack.enter_context(changed(model.key, executor=tokens_alone()))
        if masks is not None:
            stack.enter_context(forced(model, masks))
        counter = stack.enter_context(MacCounter())
        model.head.counted(model.backbone, images)
    return counter.total
