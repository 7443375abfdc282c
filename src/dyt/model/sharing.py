"""`save_pretrained`, `from_pretrained` and `push_to_hub` as methods of the model, which itself knows nothing of files.

This room has the place; `io/sharing.py`, which imports this one, puts its functions there when `dyt` is imported.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from dyt.errors import UnsupportedError


@dataclass(frozen=True)
class Functions:
    """What the methods call: `dyt.save_pretrained`, `dyt.from_pretrained` and `dyt.push_to_hub`."""

    save_pretrained: Callable[..., None]
    from_pretrained: Callable[..., Any]
    push_to_hub: Callable[..., str]
    loads: type[nn.Module]
    """The class of what `from_pretrained` returns."""


class Shareable(nn.Module):
    """The part of `DynamicModel` that is shared: as a folder, or as a repository of the Hugging Face hub."""

    _sharing: ClassVar[Functions]

    def save_pretrained(self, folder: str | Path, *, whole: bool | None = None, license: str | None = None) -> None:
        """Writes a folder that can be shared, with `model.safetensors` and a model card: `dyt.save_pretrained` of this.

        Args:
            folder: the folder, made where there is none. A README.md in it is left as it is.
            whole: store the whole backbone, as for `dyt.save`.
            license: for the card, as the hub writes it: `apache-2.0`.

        Raises:
            CheckpointError: a folder that cannot be made or written to, or what `dyt.save` refuses.
            DyTError, UnsupportedError: as for `dyt.save`.
        """
        self._sharing.save_pretrained(self, folder, whole=whole, license=license)

    @classmethod
    def from_pretrained(
        cls,
        folder_or_repo_id: str | Path,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        backbone: nn.Module | None = None,
        weights: str | Path | None = None,
        trust_paths: bool | Collection[str | Path] = False,
        allow_nonfinite: bool = False,
    ) -> Self:
        """Loads a model from a folder or from a repository of the Hugging Face hub: `dyt.from_pretrained`.

        Args:
            folder_or_repo_id: a folder that there is, or else `owner/name` of a repository.
            revision: a branch, a tag or a commit of the repository; None for its main branch.
            token: of the hub; None takes the one that is stored on this machine, False none.
            cache_dir: where fetched files are kept; None for huggingface_hub's own place.
            local_files_only: take what is in the cache, without a request.
            backbone: as for `dyt.load`.
            weights: as for `dyt.load`.
            trust_paths: as for `dyt.load`.
            allow_nonfinite: as for `dyt.load`.

        Returns:
            A model equal to the saved one, in eval mode.

        Raises:
            UnsupportedError: called on a subclass of yours, which no file is of.
            CheckpointError, WeightsError: as for `dyt.from_pretrained`.
        """
        if not issubclass(cls._sharing.loads, cls):
            raise UnsupportedError(
                f"{cls.__name__}.from_pretrained: a file is loaded as a {cls._sharing.loads.__name__}, not as its "
                f"subclass; call {cls._sharing.loads.__name__}.from_pretrained or dyt.from_pretrained"
            )
        model: Self = cls._sharing.from_pretrained(
            folder_or_repo_id,
            revision,
            token,
            cache_dir,
            local_files_only,
            backbone,
            weights,
            trust_paths=trust_paths,
            allow_nonfinite=allow_nonfinite,
        )
        return model

    def push_to_hub(
        self,
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
        """Uploads what `save_pretrained` writes to a repository of the Hugging Face hub: `dyt.push_to_hub` of this.

        Args:
            repo_id: `owner/name`; made where there is none.
            revision: the branch; None for the main one.
            private: whether a repository that is made is private; None for the owner's default.
            token: of the hub, one that may write; None takes the one that is stored on this machine.
            commit_message: first line of the commit.
            create_pr: propose the commit as a pull request.
            whole: store the whole backbone, as for `dyt.save`.
            license: as for `save_pretrained`.

        Returns:
            The address of the commit.

        Raises:
            CheckpointError: a name that no repository has, a model that cannot be saved, or a hub that refuses it.
            DyTError, UnsupportedError: as for `dyt.save`.
        """
        return self._sharing.push_to_hub(
            self,
            repo_id,
            revision=revision,
            private=private,
            token=token,
            commit_message=commit_message,
            create_pr=create_pr,
            whole=whole,
            license=license,
        )


def provide(functions: Functions) -> None:
    """Sets what the methods call; done once, by the room that saves and loads."""
    Shareable._sharing = functions
