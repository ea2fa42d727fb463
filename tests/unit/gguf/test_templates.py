"""Chat templates in a header, against the names that the gguf package gives them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from autoround.gguf.templates import template_fields
from autoround.model.files.tokenizer import load_tokenizer

SEVERAL = {"default": "A", "tool_use": "B", "re-rank": "C"}


def theirs(templates: Any, path: Path) -> dict[str, Any]:
    """Write templates by the package itself, and read the header."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_chat_template(templates)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    fields = gguf.GGUFReader(path).fields
    return {key: fields[key].contents() for key in fields if "chat_template" in key}


@pytest.mark.parametrize(
    ("ours", "listed"),
    [
        ("A", "A"),
        ({"default": "A"}, [{"name": "default", "template": "A"}]),
        (SEVERAL, [{"name": key, "template": text} for key, text in SEVERAL.items()]),
        ({"tool_use": "B"}, [{"name": "tool_use", "template": "B"}]),
    ],
)
def test_entries_are_those_of_the_package(ours: Any, listed: Any, tmp_path: Path) -> None:
    made = {field.key: field.value for field in template_fields(ours)}
    expected = theirs(listed, tmp_path / "a.gguf")
    assert {key: sorted(v) if isinstance(v, list) else v for key, v in made.items()} == {
        key: sorted(v) if isinstance(v, list) else v for key, v in expected.items()
    }
    assert template_fields(listed) == template_fields(ours)


def test_templates_in_files_of_their_own_come_with_the_tokenizer(tmp_path: Path) -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text("A")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("B")
    loaded = load_tokenizer(tmp_path)
    assert [(f.key, f.value) for f in template_fields(loaded.chat_template)] == [
        ("tokenizer.chat_template", "A"),
        ("tokenizer.chat_template.tool_use", "B"),
        ("tokenizer.chat_templates", ["tool_use"]),
    ]


def test_no_template_is_no_entry() -> None:
    assert template_fields(None) == []
