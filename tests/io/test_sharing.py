"""Folders and repositories that are shared: what is written, fetched, sent, and refused."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hub_server import COMMIT, Hub
from huggingface_hub import ModelCard, constants

import dyt
from dyt.assembly import hub as ours
from dyt.model.origin import fingerprint
from laws.models import tiny

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
REPO = "someone/flowers"


def same(a: dyt.DynamicModel, b: dyt.DynamicModel) -> bool:
    with torch.no_grad():
        return torch.equal(a(X), b(X))


def saved(folder: Path, whole: bool = True) -> dyt.DynamicModel:
    model = tiny()
    dyt.save_pretrained(model, folder, whole=whole)
    return model


def test_a_folder_has_the_file_and_a_card(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "flowers"
    model = saved(folder)
    assert sorted(file.name for file in folder.iterdir()) == ["README.md", "model.safetensors"]
    dyt.save(model, tmp_path / "same.safetensors", whole=True)
    assert (folder / "model.safetensors").read_bytes() == (tmp_path / "same.safetensors").read_bytes()
    assert same(dyt.from_pretrained(folder), model)
    assert same(dyt.from_pretrained(str(folder)), model)


def test_a_folder_without_the_backbone_takes_one(tmp_path: Path) -> None:
    model = tiny()
    plain = dyt.unwrap(copy.deepcopy(model))
    dyt.save_pretrained(model, tmp_path)
    assert same(dyt.from_pretrained(tmp_path, backbone=plain), model)
    with pytest.raises(dyt.CheckpointError, match="backbone"):
        dyt.from_pretrained(tmp_path)


def test_the_card_says_what_the_file_says(tmp_path: Path) -> None:
    model = tiny()
    dyt.save_pretrained(model, tmp_path, license="apache-2.0")
    card = ModelCard((tmp_path / "README.md").read_text("utf-8"))
    assert (card.data.library_name, card.data.license) == ("dyt", "apache-2.0")
    assert card.data.pipeline_tag == "image-classification"
    assert "dyt" in card.data.tags
    assert card.data.base_model is None  # random weights are nobody's
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with_hash = re.search(r"\| Hash of the frozen backbone \| `([0-9a-f]{64})` \|", card.text)
    assert with_hash
    assert with_hash[1] == fingerprint(model.backbone)
    for said in ("`vit_tiny_patch16_224`", "| learned |", "| mlp |", "bottleneck (dim 16)", f"{trained:,d} of"):
        assert said in card.text
    assert "backbone=backbone" in card.text


@pytest.mark.parametrize(
    ("backbone", "base", "loading"),
    [
        (
            {"name": "vit_base_patch16_224.augreg_in21k", "weights": "pretrained"},
            "timm/vit_base_patch16_224.augreg_in21k",
            '.from_pretrained("OWNER/NAME")',
        ),
        ({"weights": "/home/me/secret.safetensors"}, None, "weights=weights"),
        ({"weights": "given", "name": "Mine"}, None, "backbone=backbone"),
    ],
)
def test_the_card_tells_how_each_kind_of_weights_is_had(
    backbone: dict[str, Any], base: str | None, loading: str, tmp_path: Path
) -> None:
    model = tiny()
    model.spec = model.spec.model_copy(update={"backbone": model.spec.backbone.model_copy(update=backbone)})
    dyt.save_pretrained(model, tmp_path)
    card = ModelCard((tmp_path / "README.md").read_text("utf-8"))
    assert card.data.base_model == base
    assert card.data.license is None
    assert loading in card.text
    assert "secret" not in card.content


def test_a_card_of_the_users_own_stays(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    saved(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_what_is_no_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "reachable", lambda: pytest.fail("the hub was asked"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for given, said in {
        "empty": "no file 'model.safetensors' in folder",
        "file": "is a file; load it with dyt.load",
        "nowhere": "no folder 'nowhere', and no repository's name either",
        "./no/where": "no folder",
        "a/b\0": "no folder",
        tmp_path / "nowhere": "for a repository of the hub give 'owner/name' as a string",
        3: "takes a folder or 'owner/name', not 3",
    }.items():
        with pytest.raises(dyt.CheckpointError, match=re.escape(said)):
            dyt.from_pretrained(given)  # type: ignore[arg-type]
    saved(tmp_path / "empty")
    with pytest.raises(dyt.CheckpointError, match="has no revisions"):
        dyt.from_pretrained("empty", revision="main")
    for folder in ("file", "file/below", "a\0b"):
        with pytest.raises(dyt.CheckpointError, match=r"is a file|no folder .* can be made"):
            dyt.save_pretrained(tiny(), folder)


def test_one_file_of_a_repository_is_fetched_and_kept(hub: Hub, tmp_path: Path) -> None:
    model = saved(tmp_path / "local")
    file = (tmp_path / "local" / "model.safetensors").read_bytes()
    hub.repositories[REPO] = {"model.safetensors": file, "config.json": b"{}", "pytorch_model.bin": b"evil"}
    assert same(dyt.from_pretrained(REPO), model)
    asked = [each.partition(" ")[2] for each in hub.asked]
    assert {path for path in asked if "resolve" in path} == {f"/{REPO}/resolve/main/model.safetensors"}
    hub.asked.clear()
    assert same(dyt.from_pretrained(REPO, local_files_only=True), model)
    assert not hub.asked
    assert same(dyt.from_pretrained(REPO, revision=COMMIT, cache_dir=tmp_path / "other"), model)
    assert (tmp_path / "other").is_dir()


def test_a_file_that_is_none_of_ours_is_refused_as_by_load(hub: Hub) -> None:
    hub.repositories[REPO] = {"model.safetensors": b"no safetensors"}
    with pytest.raises(dyt.CheckpointError, match="is not a safetensors file"):
        dyt.from_pretrained(REPO)


def test_what_the_hub_has_not_is_told_in_a_line(hub: Hub) -> None:
    hub.repositories[REPO] = {"pytorch_model.bin": b""}
    for (repo, revision), (kind, said) in {
        ("someone/else", None): (dyt.WeightsError, "the hub has no repository 'someone/else' that you may see"),
        (REPO, "v9"): (dyt.WeightsError, f"repository '{REPO}@v9' has no such revision"),
        (REPO, None): (dyt.CheckpointError, f"repository '{REPO}' has no 'model.safetensors'"),
    }.items():
        with pytest.raises(kind, match=re.escape(said)) as caught:
            dyt.from_pretrained(repo, revision=revision)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("refused", "said"),
    [
        ((403, "GatedRepo"), f"repository '{REPO}' is gated; ask for access on its page, and give token="),
        ((401, ""), "the transfer failed: HfHubHTTPError: "),
    ],
)
def test_who_may_not_have_it_is_told(hub: Hub, refused: tuple[int, str], said: str) -> None:
    hub.refused = refused
    with pytest.raises(dyt.WeightsError, match=re.escape(said)) as caught:
        dyt.from_pretrained(REPO, token="hf_secret")
    assert "token=" in str(caught.value)
    assert "hf_secret" not in str(caught.value)


def test_a_hub_that_fails_is_told_with_the_reason(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ours, "reachable", lambda: True)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # which fails at once, where a dead hub is asked for long
    with pytest.raises(dyt.WeightsError, match=r"in the cache; the hub failed: .*; go online") as caught:
        dyt.from_pretrained(REPO)
    assert "failed: None" not in str(caught.value)


def test_a_hub_out_of_reach_is_told_at_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(dyt.WeightsError, match="the hub was not asked or is out of reach; go online"):
        dyt.from_pretrained(REPO)
    with pytest.raises(dyt.CheckpointError, match="the hub is out of reach"):
        dyt.push_to_hub(tiny(), REPO)
    assert not hub.asked


def test_what_is_pushed_is_what_comes_back(hub: Hub) -> None:
    model = tiny()
    address = dyt.push_to_hub(model, REPO, token="hf_secret", whole=True, license="mit")
    assert address == f"{hub.address}/{REPO}/commit/{COMMIT}"
    assert set(hub.repositories[REPO]) == {"model.safetensors", "README.md"}
    card = ModelCard(hub.repositories[REPO]["README.md"].decode())
    assert f'dyt.from_pretrained("{REPO}")' in card.text
    assert "# flowers" in card.text
    assert same(dyt.from_pretrained(REPO), model)
    hub.repositories[REPO]["README.md"] = b"mine"
    dyt.push_to_hub(model, REPO, token="hf_secret", whole=True)
    assert hub.repositories[REPO]["README.md"] == b"mine"


def test_a_push_that_is_refused_sends_nothing(hub: Hub) -> None:
    model = tiny()
    model.pruned = True
    with pytest.raises(dyt.CheckpointError, match="prune_intermediate_layers"):
        dyt.push_to_hub(model, REPO)
    for name in ("flowers", "a/b/c", "", 3):
        with pytest.raises(dyt.CheckpointError, match="owner/name"):
            dyt.push_to_hub(tiny(), name)  # type: ignore[arg-type]
    assert not hub.asked
    hub.writable = False
    with pytest.raises(dyt.CheckpointError, match=f"cannot push to '{REPO}': .*no write access") as caught:
        dyt.push_to_hub(tiny(), REPO, token="hf_secret")
    assert "hf_secret" not in str(caught.value)
    assert not hub.repositories
