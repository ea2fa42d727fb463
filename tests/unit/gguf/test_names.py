"""Names of models, from wherever their publisher stated them."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoround.gguf.names import name_for_stripping, published_name


def test_a_folder_of_the_hub_is_named_by_its_model(tmp_path: Path) -> None:
    folder = tmp_path / "models--org--Some-Model-1B" / "snapshots" / "0123abc"
    folder.mkdir(parents=True)
    assert published_name({}, folder=folder, called=str(folder)) == "Some-Model-1B"


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        ("org/Some-Model", "Some-Model"),
        ("Some-Model", "Some-Model"),
        ("/home/me/train/out", "folder"),
        ("./out", "folder"),
        ("~/models/x", "folder"),
        ("a/b/c", "folder"),
        ("C:\\models\\x", "folder"),
        ("", "folder"),
    ],
)
def test_a_config_states_a_name_where_it_is_no_path(stated: str, name: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    assert published_name({"_name_or_path": stated}, folder=folder, called="x") == name


def test_a_model_card_states_a_name(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("---\nlicense: mit\nmodel_name: 'My Model'\n---\n# Title\n")
    config = {"_name_or_path": "org/base"}
    assert published_name(config, folder=tmp_path, called="x") == "My Model"
    card.write_text("# Title\nmodel_name: not in the front matter\n")
    assert published_name(config, folder=tmp_path, called="x") == "base"


def test_a_model_in_memory_is_called_as_the_user_does() -> None:
    assert published_name({}, folder=None, called="org/Some-Model") == "Some-Model"
    assert published_name({"_name_or_path": "org/b"}, folder=None, called="LlamaForCausalLM") == "b"


def test_a_name_tells_whether_special_tokens_swallow_spaces() -> None:
    assert name_for_stripping("Phi-3-mini", True) == "Phi-3-mini"
    assert name_for_stripping("my-tune", True) == "my-tune (phi-3)"
    assert name_for_stripping("my-tune", False) == "my-tune"
    assert name_for_stripping("Phi-3-small", False) == "Phi 3-small"
