from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from autoround.data import hub, resolve
from autoround.data.chats import Chat, Message
from autoround.data.hub import hub_records, is_cached, is_reachable
from autoround.data.records import Text, Unusable
from autoround.data.resolve import resolve_dataset
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError

datasets = pytest.importorskip("datasets")
huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any]]]:
    """Record what the loader is asked for, and answer with two rows."""
    calls: list[tuple[str, dict[str, Any]]] = []

    def load_dataset(name: str, **options: Any) -> list[dict[str, str]]:
        calls.append((name, options))
        return [{"text": f"{options['split']} {n}"} for n in range(2)]

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(hub, "is_cached", lambda name: False)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    return calls


def test_splits_are_read_one_after_another(asked: list[Any]) -> None:
    records = list(hub_records(DatasetSpec("o/n", splits=("a", "b"))))
    assert records[0] == Text("a 0", "o/n (a) record 0")
    assert [r.text for r in records if isinstance(r, Text)] == ["a 0", "a 1", "b 0", "b 1"]
    assert asked == [
        ("o/n", {"split": "a", "streaming": True}),
        ("o/n", {"split": "b", "streaming": True}),
    ]


def test_rows_of_the_hub_may_be_conversations(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"conversations": [{"from": "human", "value": "hi"}]}, {"conversations": []}]
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    where = "o/n (train) record"
    assert list(hub_records(DatasetSpec("o/n"))) == [
        Chat((Message("user", "hi"),), f"{where} 0"),
        Unusable(f"{where} 1: 'conversations' is an empty list", f"{where} 1"),
    ]


@pytest.mark.parametrize("state", ["is_cached", "is_offline"])
def test_a_local_copy_is_not_streamed(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    monkeypatch.setattr(hub, state, lambda *_: True)
    list(hub_records(DatasetSpec("o/n")))
    assert asked == [("o/n", {"split": "train", "streaming": False})]


def test_offline_says_what_to_do_instead() -> None:
    with pytest.raises(DataError) as caught:
        list(hub_records(DatasetSpec("NeelNanda/no-such-dataset")))
    message = str(caught.value)
    assert "dataset NeelNanda/no-such-dataset (split train) cannot be loaded" in message
    assert "offline mode is on" in message
    assert "'--dataset embedded'" in message


def test_a_failure_in_the_middle_is_an_error_too(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows() -> Iterator[dict[str, str]]:
        yield {"text": "first"}
        raise TimeoutError("gone\nmore")

    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows())
    records = hub_records(DatasetSpec("o/n"))
    assert next(records) == Text("first", "o/n (train) record 0")
    with pytest.raises(DataError, match=r"could not be reached.*\(TimeoutError: gone\)"):
        next(records)


def test_cache_is_recognized_by_the_loader_s_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    assert not is_cached("Owner/MyData")
    (tmp_path / "Owner___my_data" / "default" / "0.0.0").mkdir(parents=True)
    assert not is_cached("Owner/MyData")
    (tmp_path / "Owner___my_data" / "default" / "0.0.0" / "abc").mkdir()
    assert is_cached("Owner/MyData")


def test_the_library_is_not_imported_for_what_nobody_cached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    (tmp_path / "other___data").mkdir()

    def refuse(name: str) -> object:
        raise AssertionError(f"{name} is imported")

    monkeypatch.setattr(hub.importlib, "import_module", refuse)
    assert not is_cached("Owner/MyData")


def test_the_hub_is_never_asked_when_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode() -> None:
        raise AssertionError("asked")

    monkeypatch.setattr(huggingface_hub, "HfApi", explode)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert not is_reachable("o/n")


def test_asking_the_hub_takes_a_bounded_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Api:
        def dataset_info(self, name: str, *, timeout: float) -> None:
            if name == "o/slow":
                time.sleep(2)
            if name == "o/bad":
                raise ConnectionError(name)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "REACH_SECONDS", 0.2)
    assert is_reachable("o/good")
    assert not is_reachable("o/bad")
    started = time.monotonic()
    assert not is_reachable("o/slow")
    assert time.monotonic() - started < 1.5


def test_a_default_out_of_reach_becomes_the_embedded_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolve, "is_cached", lambda name: False)
    monkeypatch.setattr(resolve, "is_offline", lambda: True)
    monkeypatch.setattr(resolve, "is_reachable", lambda name: pytest.fail("asked the network"))
    name = "NeelNanda/pile-10k"
    assert resolve_dataset(name, explicit=False) == (
        "embedded",
        "calibration uses the embedded text pydoc_data.topics, "
        "because NeelNanda/pile-10k cannot be reached",
    )
    assert resolve_dataset(name, explicit=True) == (name, None)
    assert resolve_dataset("embedded", explicit=False) == ("embedded", None)
    assert resolve_dataset(["a.txt", "b.jsonl"], explicit=False) == (["a.txt", "b.jsonl"], None)


@pytest.mark.parametrize(
    ("cached", "reachable", "kept"),
    [(True, False, True), (False, True, True), (False, False, False)],
)
def test_a_default_that_can_be_had_is_kept(
    monkeypatch: pytest.MonkeyPatch, cached: bool, reachable: bool, kept: bool
) -> None:
    monkeypatch.setattr(resolve, "is_cached", lambda name: cached)
    monkeypatch.setattr(resolve, "is_offline", lambda: False)
    monkeypatch.setattr(resolve, "is_reachable", lambda name: reachable)
    spec, note = resolve_dataset("o/n:num=5", explicit=False)
    assert (spec == "o/n:num=5", note is None) == (kept, kept)


def test_the_library_is_not_imported_where_it_has_no_cache(tmp_path: Path) -> None:
    code = (
        "import sys; from autoround.data.hub import is_cached; "
        "assert not is_cached('o/n'); print('datasets' in sys.modules)"
    )
    environment = {**os.environ, "HF_HOME": str(tmp_path), "HF_DATASETS_CACHE": ""}
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    (tmp_path / "elsewhere" / "o___n" / "default" / "0.0.0" / "abc").mkdir(parents=True)
    environment["HF_DATASETS_CACHE"] = str(tmp_path / "elsewhere")
    code = "from autoround.data.hub import is_cached; print(is_cached('o/n'))"
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"
