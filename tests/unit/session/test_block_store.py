"""The journal keeps finished blocks as the run expects a store to."""

from __future__ import annotations

import inspect
from pathlib import Path

from autoround.resume.journal import PassJournal
from autoround.session.block_store import BlockStore

METHODS = [name for name in vars(BlockStore) if not name.startswith("_") and name != "done"]


def test_the_journal_takes_what_the_run_gives_it(tmp_path: Path) -> None:
    assert METHODS
    for name in METHODS:
        wanted, found = (
            inspect.signature(getattr(kind, name)) for kind in (BlockStore, PassJournal)
        )
        assert found == wanted, name
    store: BlockStore = PassJournal(tmp_path / "pass-1", tmp_path / "streams")
    assert store.done == 0
    assert store.load_state("anything") is None
