"""Models on the hub: how they are named, and what is fetched of them when."""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from autoround.errors import ModelError
from autoround.model.files.side_files import hub_patterns
from autoround.model.files.stored import INDEX, SINGLE, shard_names

#: Folders beside those that side files are in (additional_chat_templates, 1_Pooling): the hub's
#: patterns know no exceptions.
OTHER_SUBFOLDERS = ("*/*/*", "[!a0-9]*/*", "a[!d]*/*", "[0-9][!_]*/*")
#: Repositories hold weights once more in sub-folders (original/); a checkpoint has none.
SUBFOLDERS = ("*/*",)
#: Branches, tags, commits and refs/pr/1; no way out of the cache's folder of revisions.
_REVISION = re.compile(r"(?!.*\.\.)[\w.+#-]+(/[\w.+#-]+)*")
_ELSEWHERE = "download the model where there is a network, and name its folder"


class HubName(NamedTuple):
    """A model on the hub as the user names it; revision is None for its main branch."""

    repo: str
    revision: str | None

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"


@dataclass(frozen=True)
class HubModel:
    """A model on the hub whose files beside the weights are in the cache.

    Attributes:
        name: As the user names it.
        commit: What its revision stands for now.
        folder: The cached files of that commit.
    """

    name: HubName
    commit: str
    folder: Path

    def shards(self) -> list[str]:
        """Return the names of its files of weights.

        Raises:
            ModelError: The index is damaged or points outside.
        """
        return shard_names(self.folder)

    def missing(self) -> list[str]:
        """Return those files of weights that are not in the cache."""
        return [file for file in self.shards() if not (self.folder / file).is_file()]

    def fetch_weights(self) -> None:
        """Fetch the files of weights that are not in the cache, and no other.

        Raises:
            ModelError: The hub does not have or give them.
        """
        self.fetch(self.missing())

    def fetch(self, files: Sequence[str]) -> None:
        """Fetch some files of weights into the cache.

        Raises:
            ModelError: The hub does not have or give them.
        """
        from huggingface_hub import constants, errors, snapshot_download
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        if not files:
            return
        with explain_errors(self.name):
            snapshot_download(
                self.name.repo,
                revision=self.commit,
                allow_patterns=[glob.escape(file) for file in files],
                ignore_patterns=list(SUBFOLDERS),
                # On a terminal even where bars of libraries are off: this takes minutes.
                tqdm_class=tqdm if sys.stderr.isatty() else None,
            )
        for file in files:
            if not (self.folder / file).is_file():
                # Some releases of the client give what the cache has, and say nothing.
                with explain_errors(self.name):
                    if constants.HF_HUB_OFFLINE:
                        raise errors.OfflineModeIsEnabled(file)
                raise ModelError(self.lacks(file))

    def lacks(self, file: str) -> str:
        """Return a message: a file of weights is not on the hub."""
        from huggingface_hub import HfApi

        if (self.folder / INDEX).is_file():
            return f"{self.name}: its {INDEX} names {file}, which the hub does not have"
        with explain_errors(self.name):
            files = HfApi().list_repo_files(self.name.repo, revision=self.commit)
        others = [name for name in files if name.endswith((".bin", ".gguf", ".pth"))]
        hint = f"; it has {', '.join(others[:3])}: convert to safetensors first" if others else ""
        return f"{self.name} on the hub has neither {SINGLE} nor {INDEX}{hint}"


def parse_hub_name(text: str) -> HubName | None:
    """Read ``owner/name`` or ``owner/name@revision``; None for what looks like neither.

    Raises:
        ModelError: The revision cannot be one.
    """
    repo, at, revision = text.partition("@")
    if repo.count("/") != 1 or repo.startswith((".", "/", "~")):
        return None
    if at and not _REVISION.fullmatch(revision):
        raise ModelError(
            f"model {text!r}: {revision!r} cannot be a revision; name a branch, tag or commit "
            "after the @"
        )
    return HubName(repo, revision if at else None)


def fetch_side_files(name: HubName) -> HubModel:
    """Fetch everything of a model but its weights: config, tokenizer, index, licence.

    Raises:
        ModelError: The hub does not have the model, or does not give it.
    """
    from huggingface_hub import snapshot_download

    with explain_errors(name):
        folder = snapshot_download(
            name.repo,
            revision=name.revision,
            allow_patterns=hub_patterns(),
            ignore_patterns=list(OTHER_SUBFOLDERS),
        )
    return HubModel(name, Path(folder).name, Path(folder))


@contextmanager
def explain_errors(name: HubName) -> Iterator[None]:
    """Turn errors of the hub's client into one sentence that says what to do.

    Raises:
        ModelError: In place of any other error.
    """
    try:
        yield
    except ModelError:
        raise
    except Exception as error:  # the client raises many unrelated types
        raise ModelError(
            f"model {str(name)!r} is not a local folder, and {_reason(error, name)}"
        ) from error


def _reason(error: Exception, name: HubName) -> str:
    from huggingface_hub import constants, errors

    chain: list[BaseException] = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    if any(isinstance(each, errors.OfflineModeIsEnabled) for each in chain):
        return (
            "HF_HUB_OFFLINE forbids fetching what the cache of the hub lacks; unset it, or "
            + _ELSEWHERE
        )
    if isinstance(error, errors.HFValidationError):
        return f"{name.repo!r} is no hub id; name an existing folder, or owner/name"
    log_in = "log in with 'hf auth login' or set HF_TOKEN"
    for each in chain:
        status = getattr(getattr(each, "response", None), "status_code", None)
        if isinstance(each, errors.RevisionNotFoundError):
            return f"{name.repo} has no revision {name.revision!r} on the hub; check its name"
        if isinstance(each, errors.RepositoryNotFoundError) and not isinstance(
            each, errors.GatedRepoError
        ):
            return f"the hub has none of that name, or it is private; check the name, or {log_in}"
        if isinstance(each, errors.GatedRepoError) or status in (401, 403):
            page = f"{constants.ENDPOINT}/{name.repo}"
            return f"the hub does not give it to you; accept its terms at {page}, and {log_in}"
    last = chain[-1]
    words = (str(last).splitlines() or [""])[0].rstrip(".") or type(last).__name__
    return f"the hub did not give it: {words}; try again, or {_ELSEWHERE}"
