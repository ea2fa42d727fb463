"""The output folder: built beside its final place, and moved there when complete.

Until then everything is in ``<output>.partial``, which has no config.json before its last
moment, so nothing half-written can be taken for a model. The final move is one rename.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from autoround.errors import OutputError
from autoround.export.preflight import check_output
from autoround.model.files.side_files import side_files
from autoround.storage.files import (
    copy_file,
    make_folder,
    remove_file,
    remove_folder,
    remove_tree,
    replace,
    sync_path,
    write_file,
)
from autoround.storage.lock import take_lock

#: Says that a folder is a run's unfinished output, and not somebody's own.
MARKER = "INCOMPLETE"


def _is_ours(folder: Path) -> bool:
    """Tell whether a run built a folder; the mark goes just before the last rename."""
    try:
        return (
            (folder / MARKER).is_file()
            or (folder / "plan.json").is_file()
            or any(folder.glob("*/plan.json"))
            or not any(folder.iterdir())
        )
    except FileNotFoundError:  # another run has just published it
        return True


StagingT = TypeVar("StagingT", bound="Staging")


class Staging:
    """A folder that is built beside its final place, and moved there when complete.

    One process at a time works on it; an error of the system while one does becomes an OutputError.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._staging = self._folder.with_name(self._folder.name + ".partial")
        self._lock: int | None = None
        self._published = False

    def __enter__(self: StagingT) -> StagingT:
        if self._staging.exists() and not _is_ours(self._staging):
            raise OutputError(
                f"{self._staging} is in the way: the output is built there, and it is not "
                "left over from an earlier run; move it, or name another output folder"
            )
        try:
            make_folder(self._staging)
            # One that is there is left over, unless somebody is at work on it. Its lock is that of
            # the folder itself, so it is emptied rather than made anew.
            self._lock = take_lock(self._staging, self._folder)
            self._empty()
        except BaseException as error:
            self._let_go()
            if isinstance(error, OSError):
                raise OutputError(f"{self._staging} cannot be written: {error}") from error
            raise
        return self

    def _empty(self) -> None:
        """Delete what an earlier run left, and mark the folder as unfinished."""
        mark = "An unfinished output of autoround; safe to delete.\n"
        write_file(self._staging / MARKER, mark)
        for path in self._staging.iterdir():
            if path.is_dir() and not path.is_symlink():
                remove_tree(path)
            elif path.name != MARKER:
                remove_file(path)
        left = [path.name for path in self._staging.iterdir() if path.name != MARKER]
        if left:
            raise OSError(f"{left[0]}, which an earlier run left there, cannot be deleted")

    def _let_go(self) -> None:
        """Delete the folder, where this process holds it and it did not become the output."""
        if self._lock is None:
            return
        if not self._published:
            remove_tree(self._staging)
        os.close(self._lock)
        self._lock = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Whatever did not become the output is of no use without a way to continue it.
        self._let_go()
        if isinstance(error, OSError):
            # Wherever a full disk is met: side files, reports, the last rename.
            raise OutputError(f"{self._folder} cannot be written: {error}") from error

    @property
    def staging(self) -> Path:
        """Where files go until the folder is complete."""
        return self._staging

    def copy_side_files(self, source: Path) -> None:
        """Copy tokenizer, processor, generation and licence files of the original model.

        Args:
            source: the original model's folder.

        Raises:
            ModelError: one of them is a link that leads out of that folder, or too large.
        """
        for name, path in side_files(source).items():
            target = self._staging / name
            make_folder(target.parent)
            copy_file(path, target)

    def publish(self) -> int:
        """Move the finished folder into place; returns the bytes of all files.

        Raises:
            OutputError: the folder appeared meanwhile and is not empty.
        """
        check_output(self._folder)
        for path in sorted(self._staging.rglob("*")):
            # Side files and folders, too: a rename that outlives a power cut names nothing empty.
            sync_path(path)
        remove_file(self._staging / MARKER)
        sync_path(self._staging)
        total = sum(p.stat().st_size for p in self._staging.rglob("*") if p.is_file())
        if self._folder.is_dir():
            remove_folder(self._folder)
        replace(self._staging, self._folder)
        self._published = True
        sync_path(self._folder.parent)
        return total
