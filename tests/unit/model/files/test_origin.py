from __future__ import annotations

from pathlib import Path

import pytest

from autoround.model.files.embedded import NAME
from autoround.model.files.origin import Origin, read_metadata, read_origin

CARD = """---
license: apache-2.0
language:
- en
- de
pipeline_tag: text-generation
tags: [x]
---

# A model
"""


def test_terms_and_languages_are_those_of_the_card(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(CARD)
    assert read_origin(tmp_path, "org/model@main") == Origin(
        "org/model", "apache-2.0", None, None, ("en", "de"), "text-generation"
    )


def test_a_link_to_terms_leads_to_the_original(tmp_path: Path) -> None:
    text = "---\nlicense: other\nlicense_name: llama3\nlicense_link: LICENSE.txt\n---\n"
    (tmp_path / "README.md").write_text(text)
    origin = read_origin(tmp_path, "org/model")
    assert (origin.license, origin.license_name) == ("other", "llama3")
    assert origin.license_link == "https://huggingface.co/org/model/blob/main/LICENSE.txt"


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cached = tmp_path / "models--org--a-model" / "snapshots" / "0123"
    cached.mkdir(parents=True)
    assert read_origin(cached, str(cached)).base_model == "org/a-model"
    assert read_origin(tmp_path, "/home/me/model").base_model is None
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some" / "folder").mkdir(parents=True)
    assert read_origin(tmp_path / "some" / "folder", "some/folder").base_model is None
    assert read_origin(None, "org/model").base_model == "org/model"
    assert read_origin(None, None) == Origin()
    assert read_origin(None, NAME) == Origin("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")


@pytest.mark.parametrize(
    "text",
    [
        "no front matter",
        "---\nlicense: mit\n",
        "---\nlicense: [\n---\n",
        "---\n- a\n---\n",
        "---\nlicense: !!python/object/apply:os.system ['true']\n---\n",
        "---\na: &a [x, x]\nlicense: *a\n---\n",
    ],
)
def test_cards_that_cannot_be_read_say_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    assert read_metadata(tmp_path / "README.md") == {}
    assert read_origin(tmp_path, None) == Origin()


def test_values_that_are_no_words_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("---\nlicense: {a: b}\nlanguage: '<b>'\n---\n")
    assert read_origin(tmp_path, None) == Origin()
