"""A saved model as a folder, or as a repository of the Hugging Face hub: one safetensors file and a model card.

huggingface_hub's `ModelHubMixin` is not used. Its `__new__` takes the arguments of the constructor for a config of its
own, and its `from_pretrained` hands such a config.json back to it; here the spec in the file is the only word.
"""

from __future__ import annotations

import os
import tempfile
from json import JSONDecodeError
from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError: of the httpx that it speaks with
    EntryNotFoundError,
    GatedRepoError,
    HFValidationError,
    HTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from torch import nn

from dyt.assembly import hub
from dyt.errors import CheckpointError, WeightsError, quoted, shortened
from dyt.io.card import card
from dyt.io.checkpoint import save
from dyt.io.foreign import Trust
from dyt.io.loading import load
from dyt.model import sharing
from dyt.model.dynamic import DynamicModel, dynamic_of
from dyt.writing import write_text

FILE = "model.safetensors"
CARD = "README.md"


def save_pretrained(
    model: nn.Module, folder: str | Path, *, whole: bool | None = None, license: str | None = None
) -> None:
    """Writes a folder that can be shared: `model.safetensors`, as `dyt.save` writes it, and a model card, README.md.

    A README.md that is there already is left as it is. The folder is made where there is none.

    Args:
        model: the dynamic model, or what wraps it.
        folder: the folder.
        whole: store the whole backbone, as for `dyt.save`.
        license: for the card, as the hub writes it: `apache-2.0`. Without it the card tells none.

    Raises:
        CheckpointError: a folder that cannot be made or written to, or what `dyt.save` refuses.
        DyTError, UnsupportedError: as for `dyt.save`.
    """
    _save(model, Path(folder), whole, license, None)


def _save(model: nn.Module, folder: Path, whole: bool | None, license: str | None, repo_id: str | None) -> None:
    inside = dynamic_of(model)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise CheckpointError(f"'{folder}' is a file; save_pretrained writes a folder, dyt.save a file") from error
    except (OSError, ValueError) as error:  # a ValueError: a name with a null character
        raise CheckpointError(f"no folder '{folder}' can be made: {shortened(error)}; give another path") from error
    save(model, folder / FILE, whole=whole)
    if not (folder / CARD).exists():
        write_text(folder / CARD, card(inside, folder / FILE, repo_id, license), CheckpointError)


def from_pretrained(
    folder_or_repo_id: str | Path,
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
    backbone: nn.Module | None = None,
    weights: str | Path | None = None,
    trust_paths: Trust = False,
    allow_nonfinite: bool = False,
) -> DynamicModel:
    """Loads a model from a folder of `dyt.save_pretrained`, or from a repository of the Hugging Face hub.

    Of a repository one file is fetched, `model.safetensors`. It is loaded as `dyt.load` loads a file from a stranger:
    no code is run, and nothing but timm's own weights is fetched on its word.

    Args:
        folder_or_repo_id: a folder that there is, or else `owner/name` of a repository.
        revision: a branch, a tag or a commit of the repository; None for its main branch.
        token: of the hub; None takes the one that is stored on this machine, False none.
        cache_dir: where fetched files are kept; None for huggingface_hub's own place.
        local_files_only: take what is in the cache, without a request. So it is, too, where the hub does not answer.
        backbone: as for `dyt.load`.
        weights: as for `dyt.load`.
        trust_paths: as for `dyt.load`.
        allow_nonfinite: as for `dyt.load`.

    Returns:
        A model equal to the saved one, in eval mode.

    Raises:
        CheckpointError: no such folder, no such file in it or in the repository, or a file that `dyt.load` refuses.
        WeightsError: a repository or revision that is not there, or a hub that is out of reach; as for `dyt.load`.
    """
    if not isinstance(folder_or_repo_id, (str, os.PathLike)):
        raise CheckpointError(f"from_pretrained takes a folder or 'owner/name', not {quoted(folder_or_repo_id)}")
    path = _in_folder(folder_or_repo_id)
    if path is None:
        fetching = revision, token, cache_dir, local_files_only
        path = _fetched(str(folder_or_repo_id), *fetching)
    elif revision is not None:
        raise CheckpointError(f"'{folder_or_repo_id}' is a folder, which has no revisions; leave revision= out")
    return load(path, backbone, weights, trust_paths=trust_paths, allow_nonfinite=allow_nonfinite)


def _in_folder(given: str | os.PathLike[str]) -> Path | None:
    """The file in a folder; None where what is given is no folder, and can be the name of a repository.

    Raises:
        CheckpointError: neither the one nor the other, or a folder without the file.
    """
    folder = Path(given)
    if os.path.isdir(folder):
        if not (folder / FILE).is_file():
            raise CheckpointError(f"no file '{FILE}' in folder '{folder}'; dyt.save_pretrained writes one")
        return folder / FILE
    if os.path.isfile(folder):
        raise CheckpointError(f"'{folder}' is a file; load it with dyt.load, or give its folder")
    if not isinstance(given, str):
        raise CheckpointError(f"no folder '{folder}'; for a repository of the hub give 'owner/name' as a string")
    _check_repo_id(given, f"no folder {quoted(given, 200)}, and no repository's name either")
    return None


def _check_repo_id(repo_id: str, what: str) -> None:
    refused = f"{what}; allowed: 'owner/name', of letters, digits, '-', '_' and '.'"
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise CheckpointError(refused) from error
    if "/" not in repo_id:  # which the hub would take, for itself or for whoever asks
        raise CheckpointError(refused)


def _fetched(
    repo_id: str, revision: str | None, token: str | bool | None, cache_dir: str | Path | None, local: bool
) -> Path:
    """The cached file of a repository, fetched if the hub answers and has a newer one."""
    at = f"{repo_id}@{revision}" if revision else repo_id
    local = local or not hub.reachable()
    try:
        found = hf_hub_download(
            repo_id, FILE, revision=revision, token=token, cache_dir=cache_dir, local_files_only=local
        )
    except LocalEntryNotFoundError as error:
        asked = "the hub was not asked or is out of reach" if local else f"the hub failed: {shortened(error.__cause__)}"
        raise WeightsError(
            f"no folder '{repo_id}', and no '{FILE}' of repository '{at}' in the cache; {asked}; go online without "
            f"local_files_only and HF_HUB_OFFLINE, try again later, or give the path of a folder"
        ) from error
    except EntryNotFoundError as error:
        raise CheckpointError(
            f"repository '{at}' has no '{FILE}', the one file that is fetched; dyt.push_to_hub puts it there"
        ) from error
    except (HTTPError, OSError) as error:
        raise WeightsError(f"no folder '{repo_id}', and {_reason(at, error)}") from error
    return Path(found)


def push_to_hub(
    model: nn.Module,
    repo_id: str,
    *,
    revision: str | None = None,
    private: bool | None = None,
    token: str | bool | None = None,
    commit_message: str = "Upload a dyt model",
    create_pr: bool = False,
    whole: bool | None = None,
    license: str | None = None,
) -> str:
    """Uploads what `dyt.save_pretrained` writes to a repository of the Hugging Face hub, in one commit.

    The repository is made where there is none. Its README.md is left as it is where it has one. Nothing is sent before
    the model has been saved in a temporary folder.

    Args:
        model: the dynamic model, or what wraps it.
        repo_id: `owner/name`.
        revision: the branch; None for the main one.
        private: whether a repository that is made is private; None for the owner's default.
        token: of the hub, one that may write; None takes the one that is stored on this machine.
        commit_message: first line of the commit.
        create_pr: propose the commit as a pull request.
        whole: store the whole backbone, as for `dyt.save`.
        license: as for `dyt.save_pretrained`.

    Returns:
        The address of the commit.

    Raises:
        CheckpointError: a name that no repository has, a model that cannot be saved, or a hub that does not take it.
        DyTError, UnsupportedError: as for `dyt.save`.
    """
    if not isinstance(repo_id, str):
        raise CheckpointError(f"push_to_hub takes 'owner/name', not {quoted(repo_id)}")
    _check_repo_id(repo_id, f"no repository can be called {quoted(repo_id, 200)}")
    with tempfile.TemporaryDirectory() as folder:
        _save(model, Path(folder), whole, license, repo_id)
        api = HfApi(token=token)
        try:
            if not hub.reachable():
                raise CheckpointError(f"cannot push to '{repo_id}': the hub is out of reach; go online, and try again")
            repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
            kept = [CARD] if api.file_exists(repo_id, CARD, revision=revision) else None
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message,
                revision=revision,
                create_pr=create_pr,
                ignore_patterns=kept,
            )
        except (HTTPError, OSError, JSONDecodeError) as error:  # the last where something else answers for the hub
            raise CheckpointError(f"cannot push to '{repo_id}': {_reason(repo_id, error)}") from error
    return str(commit.commit_url)


def _reason(at: str, error: Exception) -> str:
    """What went wrong at the hub, and what to do, on one line."""
    if isinstance(error, GatedRepoError):
        return f"repository '{at}' is gated; ask for access on its page, and give token="
    if isinstance(error, RevisionNotFoundError):
        return f"repository '{at}' has no such revision; give a branch, a tag or a commit that it has"
    if isinstance(error, RepositoryNotFoundError):
        return f"the hub has no repository '{at}' that you may see; check the name, or give token= for a private one"
    said = shortened(getattr(error, "server_message", None) or error)
    return f"the transfer failed: {type(error).__name__}: {said}; check token=, the network and the disk, and try again"


sharing.provide(sharing.Functions(save_pretrained, from_pretrained, push_to_hub, DynamicModel))
