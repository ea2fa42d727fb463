"""The tokenizer of a model folder, or why there is none."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autoround import confined
from autoround.confined import ConfinedError
from autoround.errors import DataError
from autoround.model.files.tokenizer import load_tokenizer

from ....hostile import LONG, TEMPLATES, TOKENIZERS
from ....tiny import make_tokenizer, write_checkpoint


def test_it_splits_text_as_the_saved_one_does(checkpoint: Callable[[str], Path]) -> None:
    text = "the quick brown fox"
    found = load_tokenizer(checkpoint("llama"))
    own = make_tokenizer()
    for special in (True, False):
        ids = own.encode(text, add_special_tokens=special)
        assert found.encode(text, add_special_tokens=special) == ids
    assert found.decode(ids) == found.decode(torch.tensor(ids)) == own.decode(ids)
    assert found.decode(ids[-1]) == own.decode(ids[-1:])
    turns = [{"role": "user", "content": "hi"}]
    for answering in (True, False):
        rendered = own.apply_chat_template(turns, tokenize=False, add_generation_prompt=answering)
        assert found.apply_chat_template(turns, add_generation_prompt=answering) == rendered
    for name in ("chat_template", "pad_token_id", "eos_token_id", "bos_token_id", "unk_token_id"):
        assert getattr(found, name) == getattr(own, name)
    assert found.backend_tokenizer is not None
    assert json.loads(found.backend_tokenizer.to_str()) == json.loads(
        own.backend_tokenizer.to_str()
    )


def test_a_folder_without_one_says_what_needs_it(tmp_path: Path) -> None:
    folder = write_checkpoint("llama", tmp_path / "model")
    with pytest.raises(DataError, match="has no tokenizer that can be loaded") as raised:
        load_tokenizer(folder)
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "token ids do not" in str(raised.value)


@pytest.mark.parametrize("content", ["", "{", "[]", '{"model": 7}', "null"])
def test_a_damaged_one_is_an_error_of_the_data(content: str, tmp_path: Path) -> None:
    folder = write_checkpoint("llama", tmp_path / "model", tokenizer=True)
    (folder / "tokenizer.json").write_text(content)
    with pytest.raises(DataError, match="no tokenizer that can be loaded"):
        load_tokenizer(folder)


def test_code_beside_it_is_not_run(tmp_path: Path) -> None:
    folder = write_checkpoint("llama", tmp_path / "model", tokenizer=True)
    config = '{"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", null]}}'
    (folder / "tokenizer_config.json").write_text(config)
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with contextlib.suppress(DataError):
        load_tokenizer(folder)
    assert not (tmp_path / "ran").exists()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(confined, "SECONDS", 1)
    monkeypatch.setattr(confined, "STARTING_SECONDS", 4)
    monkeypatch.setattr(confined, "MEMORY", 1 << 30)
    # On a busy machine a second of a processor takes long.
    monkeypatch.setattr(confined, "PATIENCE", 1000)


def slow_ones(names: Iterable[str]) -> list[Any]:
    return [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in names]


def attempt(call: Callable[[], object]) -> Exception | None:
    """Return the error that a call may end with."""
    try:
        call()
    except (DataError, ConfinedError) as error:
        return error
    return None


@pytest.mark.parametrize("name", slow_ones(TOKENIZERS))
def test_a_hostile_one_ends_in_time(name: str, impatient: None, tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    TOKENIZERS[name](tmp_path)

    def use() -> None:
        tokenizer = load_tokenizer(tmp_path)
        ids = tokenizer.encode("a" * 5000 + " some words to cut" * 10)
        assert len(ids) < 10**6
        assert tokenizer.backend_tokenizer is not None

    error = attempt(use)
    assert error is None or str(tmp_path) in str(error)
    assert error is None or "\n" not in str(error)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_hostile_template_ends_in_time(name: str, impatient: None, tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    TEMPLATES[name](tmp_path)
    tokenizer = load_tokenizer(tmp_path)

    def use() -> None:
        text = tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])
        assert len(text) < 10**6
        assert "root:" not in text
        assert "uid=" not in text

    error = attempt(use)
    where = f"{tmp_path / 'chat_template.jinja'}: the model's chat template"
    assert where in str(error) if isinstance(error, DataError) else error is None or str(error)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a text doubled forty times", "takes more than"),
        ("a text times a thousand, five times", "takes more than 1 GiB of memory"),
        ("a thousand letters for one", "makes 1002 tokens of 3 characters; legal: 64 of one"),
        ("an entry of 100,000 letters", "101 entries of up to 100000 characters"),
        ("a file of 200 MiB", "has 200 MiB, and a tokenizer's or processor's file may have 128"),
    ],
)
def test_limits_are_named(name: str, said: str, impatient: None, tmp_path: Path) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    TOKENIZERS[name](tmp_path)
    with pytest.raises(DataError, match=said):
        load_tokenizer(tmp_path).encode("a b")


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("loops inside loops", DataError, "takes more than 1 s of a processor"),
        ("a number that takes for ever", DataError, "takes more than 1 s of a processor"),
        ("a text of 10^11 letters", DataError, "takes more than 1 GiB of memory"),
        ("a text of 2^25 letters", ConfinedError, "a text of 33554432 characters; legal"),
        ("a way out by attributes", ConfinedError, "unsafe"),
        ("another file", ConfinedError, "no loader"),
    ],
)
def test_limits_of_templates_are_named(
    name: str, error: type[Exception], said: str, impatient: None, tmp_path: Path
) -> None:
    make_tokenizer().save_pretrained(tmp_path)
    TEMPLATES[name](tmp_path)
    tokenizer = load_tokenizer(tmp_path)
    with pytest.raises(error, match=said):
        tokenizer.apply_chat_template([{"role": "user", "content": "hi"}])


def test_in_the_process_itself_it_gives_the_same(
    checkpoint: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, text = checkpoint("llama"), "the quick brown fox"
    child = load_tokenizer(folder)
    monkeypatch.setattr("autoround.confined.sys", SimpleNamespace(platform="win32"))
    here = load_tokenizer(folder)
    assert here.encode(text) == child.encode(text)
    assert here.decode(here.encode(text)) == child.decode(child.encode(text))
    turns = [{"role": "user", "content": "hi"}]
    assert here.apply_chat_template(turns) == child.apply_chat_template(turns)
    assert here.backend_tokenizer == child.backend_tokenizer


@pytest.mark.skipif(sys.platform != "linux", reason="it is a process of its own there alone")
def test_one_at_rest_has_no_process_and_answers_as_before(
    checkpoint: Callable[[str], Path],
) -> None:
    others = children()
    tokenizer = load_tokenizer(checkpoint("llama"))
    before = tokenizer.encode("the quick"), tokenizer.backend_tokenizer
    assert len(children() - others) == 1
    tokenizer.rest()
    tokenizer.rest()
    assert tokenizer.backend_tokenizer == before[1]
    assert tokenizer.eos_token_id is not None
    assert not children() - others, "what is known is not asked again"
    assert tokenizer.encode("the quick") == before[0]
    assert len(children() - others) == 1


def children() -> set[str]:
    """Return the processes that this one began and that live."""
    return set(Path(f"/proc/self/task/{os.getpid()}/children").read_text().split())
