from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoround.data.holdout import check_text, embedded_split, text_tokens
from autoround.errors import DataError

torch = pytest.importorskip("torch")


def test_the_embedded_text_is_split_by_topics() -> None:
    from pydoc_data.topics import topics

    calibration, held_back = embedded_split()
    total = len(calibration) + len(held_back)
    assert 0.78 < len(calibration) / total < 0.95
    assert len(held_back) > 20_000
    # Each topic is whole, in one of the two parts.
    for text in topics.values():
        assert (text.strip() + "\n\n" in calibration) != (text.strip() + "\n\n" in held_back)
    assert embedded_split() == (calibration, held_back)


def test_text_and_file_give_the_same_ids(tmp_path: Path, tokenizer: Any) -> None:
    text = "A text.\nOf two lines é.\n"
    expected = [0, *tokenizer.encode(text, add_special_tokens=False)]
    path = tmp_path / "a.txt"
    path.write_text(text, encoding="utf-8")
    for given in (text, path):
        ids = text_tokens(given, tokenizer)
        assert ids.dtype == torch.int64
        assert ids.tolist() == expected
        assert text_tokens(given, tokenizer, max_tokens=5).tolist() == expected[:5]


def test_records_of_a_file_are_joined(tmp_path: Path, plain_tokenizer: Any, tokenizer: Any) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"text": "one "}, {"text": "two "}, {"text": "three"}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    ids = text_tokens(path, plain_tokenizer)
    assert ids.tolist() == plain_tokenizer.encode("one two three")
    assert text_tokens(path, tokenizer, max_tokens=7).tolist() == [0, *ids[:6].tolist()]
    path.write_text('{"messages": [{"role": "user", "content": "x"}]}', encoding="utf-8")
    for read in (check_text, lambda path: text_tokens(path, tokenizer)):
        with pytest.raises(DataError, match=r"a\.jsonl:1: a conversation is not a text"):
            read(path)
    path.write_text('{"text": null}', encoding="utf-8")
    for read in (check_text, lambda path: text_tokens(path, tokenizer)):
        with pytest.raises(DataError, match=r"a\.jsonl:1: 'text' is null"):
            read(path)


def test_nothing_to_evaluate_on(tmp_path: Path, tokenizer: Any) -> None:
    (tmp_path / "a.txt").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="holds no text to evaluate on"):
        text_tokens(tmp_path / "a.txt", tokenizer)
    with pytest.raises(DataError, match="the evaluation text holds no text"):
        text_tokens("", tokenizer)
    with pytest.raises(DataError, match="there is no such file"):
        text_tokens(tmp_path / "b.txt", tokenizer)
    with pytest.raises(DataError, match=r"files of kind \.csv cannot be read"):
        text_tokens(tmp_path / "b.csv", tokenizer)
    with pytest.raises(DataError, match="max_tokens=1 leaves no room"):
        text_tokens("x", tokenizer, max_tokens=1)


def test_importing_the_package_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "import autoround.data.calibration, autoround.data.from_python, autoround.data.holdout\n"
        "import autoround.data.resolve\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'huggingface_hub'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
