"""What the fuzzer feeds is right before it is changed, and what it looks for is found."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "fuzz.py"


@pytest.fixture(scope="module")
def fuzz() -> ModuleType:
    spec = importlib.util.spec_from_file_location("fuzz", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Its named tuples look their module up.
    sys.modules["fuzz"] = module
    spec.loader.exec_module(module)
    return module


def test_seeds_are_read(fuzz: ModuleType, tmp_path: Path) -> None:
    for name, target in fuzz.targets().items():
        assert target.seeds, name
        for seed in target.seeds:
            folder = tmp_path / name
            folder.mkdir(exist_ok=True)
            # Raises for a seed that is not right: nothing behind its first lines would be tried.
            target.read(folder, seed)


def test_changes_are_drawn_by_the_seed(fuzz: ModuleType) -> None:
    data = json.dumps({"a": [1, {"b": "text"}], "c": None}).encode()
    for change in (fuzz.mutate, fuzz.mutate_json):
        one, other = ([change(data, random.Random(seed)) for seed in range(50)] for _ in range(2))
        assert one == other
        assert len(set(one)) > 25


@pytest.mark.parametrize(
    ("error", "said"),
    [(ZeroDivisionError("no"), "ZeroDivisionError: no"), (RecursionError("deep"), "Recursion")],
)
def test_other_errors_are_findings(
    error: Exception, said: str, fuzz: ModuleType, tmp_path: Path
) -> None:
    def read(folder: Path, data: bytes) -> None:
        (folder / "x").write_bytes(data)
        raise error

    assert said in fuzz.try_one(fuzz.Target((b"",), read), tmp_path, b"data")
    assert list(tmp_path.iterdir()) == []


def test_errors_of_the_package_are_none(fuzz: ModuleType, tmp_path: Path) -> None:
    def read(folder: Path, data: bytes) -> None:
        raise fuzz.AutoRoundError(data.decode())

    assert fuzz.try_one(fuzz.Target((b"",), read), tmp_path, b"a sentence") == ""
    assert fuzz.try_one(fuzz.Target((b"",), read), tmp_path, b"") == "an error without words"


def test_what_does_not_end_is_a_finding(
    fuzz: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import signal

    def ring(number: int, frame: object) -> None:
        raise fuzz.TooLongError

    before = signal.signal(signal.SIGALRM, ring)
    monkeypatch.setattr(fuzz, "SECONDS", 1)
    try:
        target = fuzz.Target((b"",), lambda folder, data: time.sleep(5))
        assert "TooLongError" in fuzz.try_one(target, tmp_path, b"")
    finally:
        signal.signal(signal.SIGALRM, before)
