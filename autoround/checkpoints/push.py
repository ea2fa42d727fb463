"""A model folder put on the hub: what would be uploaded, what is refused, and the upload."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from autoround.errors import AutoRoundError, ModelError, UploadError, UsageError, one_line
from autoround.model.files.gate_mark import MARK, gate_failure
from autoround.model.files.locate import find_model, gguf_file, read_config
from autoround.model.files.origin import CARD_FILE
from autoround.model.files.stored import shard_names

#: Files and folders whose names say that they are nobody else's business.
_SECRET_NAMES = re.compile(
    r"(^|/)(\.env.*|\.netrc|\.git-credentials|\.ssh|\.aws|id_(rsa|dsa|ecdsa|ed25519).*"
    r"|.*\.(pem|key|p12|pfx|kdbx|keystore)|(.*[._-])?(secrets?|credentials?|passwords?)([._-].*)?"
    r"|(hf|api|access|auth)[._-]?(token|key)s?(\..*)?|token|token\.txt)$",
    re.IGNORECASE,
)
#: Tokens and keys as their makers write them.
_SECRET_TEXTS = re.compile(
    rb"\bhf_[A-Za-z0-9]{30,}|\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}|\bsk-[A-Za-z0-9]{32,}"
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----"
)
#: Larger files are weights and vocabularies, and not looked into.
_LOOKED_INTO = 64 << 20
_WEIGHTS = (".safetensors", ".gguf", ".bin", ".pt", ".pth")
_REPO = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")


@dataclass(frozen=True, slots=True)
class Upload:
    """What would be uploaded.

    folder: of the model. files: their names in it and their bytes. left: names that stay here.
    notes: a sentence each, of what a reader may want to know first.
    """

    folder: Path
    files: tuple[tuple[str, int], ...]
    left: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def bytes(self) -> int:
        """Of all files."""
        return sum(size for _, size in self.files)


def plan_upload(folder: Path, *, failed_gate: bool = False) -> Upload:
    """Say what of a model folder would be uploaded.

    Args:
        folder: Of one format.
        failed_gate: Whether one that missed the gate of its run may go all the same.

    Raises:
        ModelError: It is no whole model, holds links or what looks like a secret, or missed its
            gate.
        UsageError: It holds several formats.
    """
    _check_model(folder)
    failure = gate_failure(folder)
    if failure and not failed_gate:
        raise ModelError(f"{failure}; quantize again, or upload it so with --although-gate-failed")
    files, left = [], []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise ModelError(
                f"{path} is a link: only files of the folder itself are uploaded; put a copy there"
            )
        if not path.is_file():
            continue
        _refuse_secret(path, name)
        if any(part.startswith(".") for part in name.split("/")):
            left.append(name)
        else:
            files.append((name, path.stat().st_size))
    return Upload(folder, tuple(files), tuple(left), tuple(_notes(folder, failure)))


def _check_model(folder: Path) -> None:
    """Refuse what is no whole model of one format."""
    if not folder.is_dir():
        raise ModelError(f"{folder} is no folder; name one that 'autoround quantize' wrote")
    if folder.name.endswith(".partial"):
        raise ModelError(f"{folder} is an unfinished output; finish the run with --resume")
    inside = sorted(path.parent.name for path in folder.glob("*/plan.json"))
    if inside and not (folder / "plan.json").is_file():
        raise UsageError(
            f"{folder} holds several formats: name one of them: {', '.join(inside)}, each in a "
            "repository of its own"
        )
    find_model(folder)  # an output that was cut off is marked
    if gguf_file(folder) is not None:
        return
    read_config(folder)
    for name in shard_names(folder):
        if not (folder / name).is_file():
            raise ModelError(f"{folder} is not whole: its index names {name}, which is not there")


def _refuse_secret(path: Path, name: str) -> None:
    """Refuse a file that looks like a key or a password, by its name or its text."""
    why = "its name says so" if _SECRET_NAMES.search(name) else ""
    if not why and path.suffix not in _WEIGHTS and path.stat().st_size <= _LOOKED_INTO:
        try:
            if _SECRET_TEXTS.search(path.read_bytes()):
                why = "there is one in it"
        except OSError as error:
            raise ModelError(f"{path} cannot be read: {error.strerror or error}") from error
    if why:
        raise ModelError(
            f"{path} looks like a secret, a key or a token ({why}): move it out of the folder"
        )


def _notes(folder: Path, failure: str) -> Iterator[str]:
    if failure:
        yield f"it missed the gate of its run, and {MARK} goes with it"
    if not (folder / CARD_FILE).is_file():
        yield f"there is no {CARD_FILE}; 'autoround report {folder}' writes one for our outputs"
    home = os.path.expanduser("~")
    named = [
        name
        for name in ("plan.json", "run.json", "report.html", "evaluation.json", "recipe.yaml")
        if (folder / name).is_file() and home.encode() in (folder / name).read_bytes()
    ]
    if named and len(home) > 1:
        yield f"paths of this machine ({home}) stand in {', '.join(named)}"


def check_repo(repo: str, revision: str | None) -> None:
    """Refuse names that cannot be those of a repository and a branch.

    Args:
        repo: ``owner/name``.
        revision: A branch; None for the main one.

    Raises:
        UsageError: One of them cannot be.
    """
    if not _REPO.fullmatch(repo):
        raise UsageError(f"{repo!r} is no repository of the hub: name it as owner/name")
    if revision is not None and not re.fullmatch(r"(?!.*\.\.)\w[\w./-]{0,200}", revision):
        raise UsageError(f"--revision {revision!r} cannot be the name of a branch")


def push(upload: Upload, repo: str, *, private: bool = False, revision: str | None = None) -> str:
    """Upload files into a repository of the hub, which is made where there is none.

    The token is that of the hub's own tools: ``HF_TOKEN``, or the one of ``hf auth login``.

    Args:
        upload: As plan_upload returns it.
        repo: ``owner/name``.
        private: Whether only its owner may see it.
        revision: A branch, made where there is none; None for the main one.

    Returns:
        The address of the commit.

    Raises:
        UploadError: The hub cannot be reached, or does not take them.
        UsageError: The repository is public, and private is asked for; or a name cannot be.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    check_repo(repo, revision)
    api = HfApi()
    with _explain_errors(repo):
        api.create_repo(repo, private=private or None, exist_ok=True)
        if private and not api.repo_info(repo).private:
            raise UsageError(
                f"{repo} is there already and public: nothing is uploaded; make it private on the "
                "hub, or leave --private out"
            )
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        added = [CommitOperationAdd(name, upload.folder / name) for name, _ in upload.files]
        commit = api.create_commit(
            repo,
            added,
            commit_message="Upload a quantized model with autoround",
            revision=revision,
        )
    return str(commit.commit_url)


@contextmanager
def _explain_errors(repo: str) -> Iterator[None]:
    """Turn errors of the hub's client into one sentence that says what to do."""
    from huggingface_hub import errors

    try:
        yield
    except AutoRoundError:
        raise
    except errors.LocalTokenNotFoundError as error:
        raise UploadError(f"{repo}: no token of the hub; log in with: hf auth login") from error
    except errors.OfflineModeIsEnabled as error:
        raise UploadError(
            f"{repo}: the hub's client is offline (HF_HUB_OFFLINE); unset that to upload"
        ) from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        hint = {
            401: "log in with: hf auth login",
            403: "the token may not write there: use one that may, or another owner",
            404: "there is no such owner, or the token may not see it",
        }.get(status, "try again")
        raise UploadError(f"{repo}: the hub says {one_line(error)}; {hint}") from error
    except Exception as error:  # releases of the client come with HTTP libraries of their own
        raise UploadError(
            f"{repo}: the upload failed ({one_line(error)}); try again: what has arrived is not "
            "sent again"
        ) from error
