"""The recorded runs of the released code (tests/golden), reproduced."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import dyt
from dyt.io.official import _ours
from laws.strategies import names

GOLDEN = sorted((Path(__file__).parents[1] / "golden").glob("*.safetensors"))
each = pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
close = torch.testing.assert_close


def test_the_recordings_are_there() -> None:
    assert len(GOLDEN) == 2


def recorded(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["config"]), {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118


def state(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {k.removeprefix("state."): v for k, v in tensors.items() if k.startswith("state.")}


def sizes(config: dict[str, Any]) -> dict[str, Any]:
    return {k: config[k] for k in ("img_size", "patch_size", "embed_dim", "depth", "num_heads")}


def official(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor], dyt.DynamicModel]:
    config, t = recorded(path)
    return config, t, dyt.from_official(state(t), **sizes(config))


@each
@pytest.mark.parametrize("executor", names("executors"))
def test_inference(path: Path, executor: str) -> None:
    _, t, model = official(path)
    assert not model.training
    with torch.no_grad(), dyt.execution(model, executor), dyt.record(model) as routes:
        logits = model(t["x"])
    assert torch.equal(torch.stack([r.active[:, 1:] for r in routes], 1), t["eval_mask"].bool())
    scored = [r.logits for r in routes if r.logits is not None]
    close(torch.stack(scored, 1), t["eval_router_logits"], atol=1e-5, rtol=1e-5)
    close(logits, t["eval_logits"], atol=1e-5, rtol=1e-5)
    with torch.no_grad(), dyt.execution(model, "complete"):
        close(model(t["x"]), t["eval_complete_logits"], atol=1e-5, rtol=1e-5)


@each
def test_inference_under_the_recorded_masks(path: Path) -> None:
    _, t, model = official(path)
    prefix = torch.ones(len(t["x"]), 1, dtype=torch.bool)
    masks = [torch.cat([prefix, mask.bool()], 1) for mask in t["eval_mask"].unbind(1)]
    with torch.no_grad(), dyt.forced(model, masks):
        close(model(t["x"]), t["eval_logits"], atol=1e-5, rtol=1e-5)


@each
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_training_step(path: Path, checkpointing: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    config, t, model = official(path)
    model.set_grad_checkpointing(checkpointing)
    for site in model.sites:
        site.adapter.dropout.p = 0.0
    noise = list(t["train_noise"].unbind(1))
    monkeypatch.setattr(dyt.dispatchers.sampling, "gumbel_difference", lambda like: noise.pop(0).reshape(like.shape))
    step = dyt.TuningStep(model, {"rate": config["target_rate"], "rate_weight": config["alpha"]}).train()
    with dyt.record(model) as routes:
        loss, parts = step(t["x"], t["y"])
    loss.backward()
    assert noise == []
    dynamic, complete = routes[: config["depth"]], routes[config["depth"] :]
    assert torch.equal(torch.stack([r.active[:, 1:] for r in dynamic], 1), t["train_mask"].bool())
    assert all(bool(r.active.all()) for r in complete)
    for name in ("cls", "complete", "distill", "total"):
        close(parts[name].detach(), t[f"loss_{name}"], atol=1e-5, rtol=1e-5)
    close(config["alpha"] * parts["rate"].detach(), t["loss_rate_weighted"], atol=1e-6, rtol=1e-5)
    close(parts["active_rate"], t["train_mask"].float().mean())
    ours = {f"sites.{s.name}.{n}": p.grad for s in model.sites for n, p in s.named_parameters()}
    ours |= {f"backbone.head.{n}": p.grad for n, p in model.get_classifier().named_parameters()}
    theirs = {_ours(k.removeprefix("grad.")): v for k, v in t.items() if k.startswith("grad.")}
    assert ours.keys() == theirs.keys()
    for name, grad in theirs.items():
        close(ours[name], grad, atol=1e-6 + 1e-4 * grad.abs().max().item(), rtol=1e-4)


@each
@pytest.mark.parametrize("wrapped", [False, True])
def test_from_a_file(path: Path, wrapped: bool, tmp_path: Path) -> None:
    config, t, model = official(path)
    if wrapped:
        file = tmp_path / "a.pth"
        torch.save({"model": {f"module.{k}": v for k, v in state(t).items()}, "epoch": 3}, file)
    else:
        file = tmp_path / "a.safetensors"
        save_file(state(t), file)
    again = dyt.from_official(file, **sizes(config))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert again.spec == model.spec


def test_what_does_not_fit_is_refused_by_name(tmp_path: Path) -> None:
    config, t = recorded(GOLDEN[0])
    good, args = state(t), sizes(config)
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (
            {k: v for k, v in good.items() if "adaptmlp" not in k},
            args,
            "no tensor 'blocks.0.adaptmlp.down_proj.weight'",
        ),
        ({k: v for k, v in good.items() if k != "norm.bias"}, args, "1 missing (backbone.norm.bias)"),
        (good | {"blocks.0.extra": torch.zeros(1)}, args, "1 unknown (backbone.blocks.0.extra)"),
        (good, args | {"depth": config["depth"] + 1}, "missing"),
        (good, args | {"embed_dim": 2 * config["embed_dim"]}, "of another shape"),
        (good, args | {"foo": 1}, "timm refused"),
        (tmp_path / "absent.pth", args, "no file"),
    ]
    for source, sized, words in cases:
        with pytest.raises(dyt.DyTError) as caught:
            dyt.from_official(source, **sized)
        assert words in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(dyt.SpecError, match="no model 'vit_tny_patch16_224'; did you mean 'vit_tiny_patch16_224'"):
        dyt.from_official(good, backbone="vit_tny_patch16_224")


def test_code_in_a_file_is_never_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "sprung",))

    torch.save({"model": Trap()}, tmp_path / "a.pth")
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    for name in ("a.pth", "junk.safetensors"):
        with pytest.raises(dyt.CheckpointError, match="is not a readable weights file"):
            dyt.from_official(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"blocks.0.adaptmlp.down_proj.weight": torch.zeros(1).expand(10**12, 192)},
            "with all of its values: blocks.0",
        ),
        ({"blocks.0.adaptmlp.down_proj.weight": torch.zeros(())}, "its down projection is a number"),
        ({"head.weight": 5}, "something else than a plain tensor with all of its values: head.weight"),
    ],
)
def test_a_hostile_checkpoint_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    """A tensor of one number that claims terabytes is no reason to make an adapter of them."""
    path = tmp_path / "a.pth"
    torch.save(
        {"blocks.0.adaptmlp.down_proj.weight": torch.zeros(4, 192), "head.weight": torch.zeros(2, 192)} | changes, path
    )
    with pytest.raises(dyt.CheckpointError, match=words):
        dyt.from_official(path, "vit_tiny_patch16_224")
