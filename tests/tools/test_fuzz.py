"""What the fuzzer feeds is right before it is changed, and what it looks for is found."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from autoround.errors import AutoRoundError
from tools import fuzz, fuzz_targets

#: Bytes of all files of the corpus at most.
MOST = 300_000
CASES = [(name, path) for name in fuzz_targets.targets() for path in fuzz_targets.corpus(name)]


def test_seeds_are_read(tmp_path: Path) -> None:
    for name, target in fuzz_targets.targets().items():
        assert target.seeds, name
        for seed in target.seeds:
            folder = tmp_path / name / "x"
            folder.mkdir(parents=True, exist_ok=True)
            # Raises for a seed that is not right: nothing behind its first lines would be tried.
            target.read(folder, seed)


@pytest.mark.parametrize(("name", "path"), CASES, ids=[f"{n}/{p.name}" for n, p in CASES])
def test_the_corpus_is_read_or_refused(name: str, path: Path, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    assert fuzz.try_one(fuzz_targets.targets()[name], tmp_path / "x", path.read_bytes()) == ""


def test_the_corpus_is_small_and_has_files_for_all() -> None:
    assert {name for name, _ in CASES} == fuzz_targets.targets().keys()
    assert sum(path.stat().st_size for _, path in CASES) < MOST


def test_changes_are_drawn_by_the_seed() -> None:
    data = json.dumps({"a": [1, {"b": "text"}], "c": None}).encode()
    for change in (fuzz.mutate, fuzz.mutate_json):
        one, other = ([change(data, random.Random(seed)) for seed in range(50)] for _ in range(2))
        assert one == other
        assert len(set(one)) > 25


@pytest.mark.parametrize(
    ("error", "said"),
    [(ZeroDivisionError("no"), "ZeroDivisionError: no"), (RecursionError("deep"), "Recursion")],
)
def test_other_errors_are_findings(error: Exception, said: str, tmp_path: Path) -> None:
    def read(folder: Path, data: bytes) -> None:
        (folder / "x").write_bytes(data)
        raise error

    assert said in fuzz.try_one(fuzz_targets.Target((b"",), read), tmp_path, b"data")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_package_are_none(tmp_path: Path) -> None:
    def read(folder: Path, data: bytes) -> None:
        raise AutoRoundError(data.decode())

    assert fuzz.try_one(fuzz_targets.Target((b"",), read), tmp_path, b"a sentence") == ""
    assert (
        fuzz.try_one(fuzz_targets.Target((b"",), read), tmp_path, b"") == "an error without words"
    )


def use_processor() -> None:
    while True:
        pass


def test_what_does_not_end_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import signal

    def ring(number: int, frame: object) -> None:
        raise fuzz.TooLongError

    before = signal.signal(signal.SIGPROF, ring)
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    try:
        target = fuzz_targets.Target((b"",), lambda folder, data: use_processor())
        assert "TooLongError" in fuzz.try_one(target, tmp_path, b"")
    finally:
        signal.signal(signal.SIGPROF, before)
