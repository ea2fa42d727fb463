"""Triton's kernels, kept for the next process and believed only when whole.

Triton names what it keeps by the source and everything that decides what is made of it, and
renames files into place; but it does not sync them, and believes whatever has the name. Here a
digest stands beside each file, in a folder of this user's that nobody else may write.
"""

from __future__ import annotations

import json
import os
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from autoround_backends._kernel_cache import is_whole, keep, open_cache


class Kept(NamedTuple):
    """Where kernels are kept, and why not for the next process; empty where they are."""

    folder: Path
    reason: str
    #: Of the folder, where it is for this process alone; gone with this value.
    scratch: tempfile.TemporaryDirectory[str] | None = None


def default_cache() -> Path:
    """Return where kernels are kept."""
    return Path.home() / ".cache" / "autoround" / "triton"


def open_folder(wanted: Path | None = None) -> Kept:
    """Return a folder for kernels: the user's, or one for this process alone.

    Args:
        wanted: the folder; None for the user's.
    """
    try:
        folder = wanted or default_cache()
        reason = open_cache(folder)
    except RuntimeError as error:
        reason = f"no home folder to keep kernels in: {error}"
    if not reason:
        return Kept(folder, "")
    scratch = tempfile.TemporaryDirectory(prefix="autoround-triton-", ignore_cleanup_errors=True)
    return Kept(Path(scratch.name), reason, scratch)


def checking_manager() -> Any:
    """Return a class of Triton's for its cache that believes digests alone."""
    from triton.runtime.cache import FileCacheManager

    class CheckingManager(FileCacheManager):  # type: ignore[misc, unused-ignore]
        """Keeps files with their digests; what does not match is not there."""

        def get_file(self, filename: str) -> str | None:
            path: str | None = super().get_file(filename)
            return path if path is not None and is_whole(Path(path)) else None

        def get_group(self, filename: str) -> dict[str, str] | None:
            if self.get_file(f"__grp__{filename}") is None:
                return None
            group: dict[str, str] | None = super().get_group(filename)
            if group is None or group.keys() != _group_files(Path(self.cache_dir), filename):
                return None  # Triton before 3.5 leaves out what is missing
            paths = list(map(Path, group.values()))
            inside = all(path.parent == Path(self.cache_dir) for path in paths)
            return group if inside and all(map(is_whole, paths)) else None

        def put(self, data: Any, filename: str, binary: bool = True) -> str:
            raw = data if isinstance(data, bytes) else str(data).encode()
            with tempfile.TemporaryDirectory(dir=self.cache_dir, prefix="tmp.") as scratch:
                written = Path(scratch) / filename
                written.write_bytes(raw)
                keep(written, Path(self.cache_dir) / filename)
            return os.path.join(self.cache_dir, filename)

    return CheckingManager


def _group_files(folder: Path, filename: str) -> set[str]:
    """Return the files that the list of a group names; its own digest was checked."""
    listed = json.loads((folder / f"__grp__{filename}").read_text(encoding="utf-8"))
    return set(listed.get("child_paths") or ())


@lru_cache(maxsize=1)
def keep_kernels() -> str:
    """Have Triton keep kernels in a folder of ours and check what it finds there.

    Returns:
        Why they are not kept for the next process; empty where they are.
    """
    try:
        from triton import knobs
    except ImportError:
        return "this release of Triton has a cache of its own, whose files are not checked"
    kept = _folder()
    before = knobs.propagate_env
    # A setting of this process, and not of those that it starts.
    knobs.propagate_env = False
    try:
        knobs.cache.dir = str(kept.folder)
        knobs.cache.manager_class = checking_manager()
    finally:
        knobs.propagate_env = before
    return kept.reason


@lru_cache(maxsize=1)
def _folder() -> Kept:
    return open_folder()
