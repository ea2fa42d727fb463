from __future__ import annotations

from pathlib import Path

import pytest

from autoround.report import memory
from autoround.report.memory import resident_bytes


def test_memory_that_is_taken_counts() -> None:
    before = resident_bytes()
    assert before > 1_000_000
    taken = bytearray(64 << 20)
    taken[:: 1 << 12] = b"x" * len(taken[:: 1 << 12])
    assert resident_bytes() - before > 32 << 20


def test_a_system_that_does_not_say_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "_STATM", tmp_path / "statm")
    assert resident_bytes() == 0
