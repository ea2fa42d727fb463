"""The tokenizer of a model folder, or why there is none."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround.errors import DataError
from autoround.model.files.tokenizer import load_tokenizer

from ....tiny import make_tokenizer, write_checkpoint


def test_it_splits_text_as_the_saved_one_does(checkpoint: Callable[[str], Path]) -> None:
    text = "the quick brown fox"
    found = load_tokenizer(checkpoint("llama"))
    assert found(text)["input_ids"] == make_tokenizer()(text)["input_ids"]
    assert found.chat_template == make_tokenizer().chat_template


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
