# Tests: autoround/model/files/weights.py
from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import ModelError
from autoround.model.files import locate
from autoround.model.files.hub_source import HubSource
from autoround.model.files.locate import (
    find_model,
    locate_model,
    read_config,
    refuse_unquantizable,
)
from autoround.model.files.source import CheckpointSource
from autoround.model.files.weights import open_weights

from ....hub import Hub, hub, online, write_repo

__all__ = ["hub", "online"]


def write_config(folder: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "config.json").write_text(text, encoding="utf-8")


def test_a_folder_is_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locate_model(tmp_path) == tmp_path
    assert locate_model(str(tmp_path)) == tmp_path
    (tmp_path / "owner" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    # A folder comes before a hub id of the same look.
    assert locate_model("owner/name") == Path("owner/name")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate_model("~/owner") == tmp_path / "owner"


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(ModelError, match="is a file; name the folder"):
        locate_model(tmp_path / "model.safetensors")


@pytest.mark.parametrize("name", ["nowhere", "./a/b", "../b", "/a/b", "~/b", "a/b/c", ""])
def test_what_is_no_hub_id_must_exist(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    if name == "":
        # The empty path is the current folder, as everywhere.
        assert locate_model(name) == Path()
        return
    with pytest.raises(ModelError, match="does not exist; name a folder"):
        locate_model(name)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("owner/name", "HF_HUB_OFFLINE forbids fetching .*; unset it, or download the model"),
        ("owner/spaced name", "'owner/spaced name' is no hub id; name an existing folder, or"),
        ("owner/", "'owner/' is no hub id; name an existing folder, or owner/name"),
        ("owner/name@a b", "'a b' cannot be a revision; name a branch"),
    ],
)
def test_a_hub_id_that_cannot_be_fetched_says_what_to_do(
    name: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=what) as caught:
        locate_model(name)
    assert len(str(caught.value).splitlines()) == 1


def test_of_a_hub_model_weights_are_fetched_when_all_of_it_is_asked_for(
    online: Hub, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    online.repos["owner/name"] = {"v1": write_repo(checkpoint("llama"), tmp_path / "repo")}
    located = find_model("owner/name@v1")
    assert isinstance(open_weights(located), HubSource)
    assert not [name for name in online.downloads() if name.endswith(".safetensors")]
    assert locate_model("owner/name@v1") == located.folder
    assert isinstance(open_weights(located), CheckpointSource)


def test_config_is_read(tmp_path: Path) -> None:
    write_config(tmp_path, {"model_type": "llama"})
    assert read_config(tmp_path) == {"model_type": "llama"}


def test_config_may_not_be_missing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty is not a model: it has no config.json"):
        read_config(tmp_path / "empty")


@pytest.mark.parametrize(
    "content", ["", "{", "\x00", "{'a': 1}", "[" * 100_000, '{"a": ' + "1" * 5000 + "}"]
)
def test_config_must_be_json(tmp_path: Path, content: str) -> None:
    write_config(tmp_path, content)
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        read_config(tmp_path)


def test_config_must_be_utf8(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ModelError, match=r"config.json is not valid JSON"):
        read_config(tmp_path)


@pytest.mark.parametrize(("content", "kind"), [("[]", "list"), ('"a"', "str"), ("1", "int")])
def test_config_must_be_an_object(tmp_path: Path, content: str, kind: str) -> None:
    write_config(tmp_path, content)
    with pytest.raises(ModelError, match=f"holds a {kind}, not an object"):
        read_config(tmp_path)


def test_a_huge_config_is_refused_unread(tmp_path: Path) -> None:
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(locate.MAX_BYTES + 1)
    with pytest.raises(ModelError, match="larger than 16 MiB: not a model config"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "gptq"}},
            r"already quantized \(quant_method 'gptq'\)",
        ),
        ({"model_type": "llama", "quantization_config": {"bits": 4}}, "already quantized"),
        ({"model_type": "llama", "quantization_config": [1]}, "already quantized"),
        ({"model_type": "t5", "is_encoder_decoder": True}, r"an encoder-decoder model \('t5'\)"),
        ({"dim": 4}, "is not a transformers model: its config has no model_type"),
    ],
)
def test_what_cannot_be_quantized_is_refused(config: dict[str, Any], message: str) -> None:
    with pytest.raises(
        ModelError, match=f"^here is {message}" if "has no" not in message else message
    ):
        refuse_unquantizable(config, where="here")


def test_plain_models_are_not_refused() -> None:
    refuse_unquantizable({"model_type": "llama", "quantization_config": None}, where="here")
    refuse_unquantizable({"model_type": "llama", "is_encoder_decoder": False}, where="here")


@pytest.mark.parametrize(
    "name", ["~nosuchuser", "~nosuchuser/model", "a" * 5000, "a/" * 3000, "a\0b"]
)
def test_any_text_may_be_given_for_a_model(name: str) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        find_model(name)
