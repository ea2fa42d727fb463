# Tests: autoround/model/files/hub_headers.py
from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file

from autoround.errors import ModelError
from autoround.model.files.hub import HubModel, HubName, fetch_side_files
from autoround.model.files.hub_source import HubSource
from autoround.model.files.source import CheckpointSource
from autoround.model.files.stored import INDEX, SINGLE

from ....hub import SHARDS, Hub, hub, online, write_repo

__all__ = ["hub", "online"]

REPO = "owner/name"
#: Bytes of a file that the hub's client asks for, to have its header in one request.
FIRST = 100_001


@pytest.fixture
def repo(online: Hub, tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """Serve a tiny model as owner/name; its folder may be changed."""
    folder = write_repo(checkpoint("llama"), tmp_path / "repo")
    assert all((folder / shard).stat().st_size > FIRST for shard in SHARDS)
    online.repos[REPO] = {"main": folder}
    return folder


def open_source() -> HubSource:
    return HubSource(fetch_side_files(HubName(REPO, None)))


def test_headers_take_the_first_bytes_only(repo: Path, online: Hub) -> None:
    source = open_source()
    assert source.headers() == CheckpointSource(repo).headers()
    asked = [request for shard in SHARDS for request in online.sent(shard)]
    assert [request.sent for request in asked] == [FIRST, FIRST]
    assert all(request.ranged for request in asked)
    source.headers()
    assert len([request for shard in SHARDS for request in online.sent(shard)]) == 2


def test_files_in_the_cache_are_read_there(repo: Path, online: Hub) -> None:
    model = fetch_side_files(HubName(REPO, None))
    (model.folder / SHARDS[0]).write_bytes((repo / SHARDS[0]).read_bytes())
    assert HubSource(model).headers() == CheckpointSource(repo).headers()
    assert not online.sent(SHARDS[0])
    assert len(online.sent(SHARDS[1])) == 1


def test_what_the_index_does_not_name_is_not_there(repo: Path) -> None:
    index = json.loads((repo / INDEX).read_text())
    file = index["weight_map"].pop("model.norm.weight")
    (repo / INDEX).write_text(json.dumps(index))
    source = open_source()
    assert list(source.headers().items()) == list(CheckpointSource(repo).headers().items())
    source.read(["model.embed_tokens.weight"])
    index["weight_map"]["another"] = file
    (repo / INDEX).write_text(json.dumps(index))
    with pytest.raises(ModelError, match=f"{file} lacks the tensor 'another' that the index"):
        HubSource(HubModel(HubName(REPO, None), "0", repo)).headers()


def test_weights_come_with_the_first_tensor(
    repo: Path, online: Hub, checkpoint: Callable[[str], Path]
) -> None:
    source = open_source()
    names = ["model.norm.weight", "model.embed_tokens.weight"]
    read = source.read(names)
    expected = load_file(checkpoint("llama") / SINGLE)
    assert all(torch.equal(read[name], expected[name]) for name in names)
    online.log.clear()
    source.read(["model.layers.0.mlp.up_proj.weight"])
    assert not online.log


def test_without_a_network_headers_are_refused(repo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids fetching"):
        source.headers()


def test_a_shard_that_is_not_there_is_named(repo: Path) -> None:
    (repo / SHARDS[1]).unlink()
    with pytest.raises(ModelError, match=f"{INDEX} names {SHARDS[1]}, which the hub does not have"):
        open_source().headers()


@pytest.mark.parametrize(
    ("info", "message"),
    [
        ({"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 12]}, "does not fill its place"),
        ({"dtype": "F32", "shape": [-2, -2], "data_offsets": [0, 16]}, "has no shape or place"),
        ({"dtype": "F32", "shape": [2.0, 2], "data_offsets": [0, 16]}, "has no shape or place"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16, 16]}, "has no shape or place"),
        ({"dtype": "F32", "shape": 4, "data_offsets": [0, 16]}, "is damaged"),
        ({"dtype": "F32", "shape": ["4"], "data_offsets": [0, 16]}, "is damaged"),
        ({"dtype": "F32", "data_offsets": [0, 16]}, "is damaged: .*header format not recognized"),
        ({"dtype": "X9", "shape": [4], "data_offsets": [0, 16]}, "has dtype X9, which cannot be"),
        ([], "is damaged"),
    ],
)
def test_a_header_that_cannot_be_true(repo: Path, info: Any, message: str) -> None:
    header = json.dumps({"a": info}).encode()
    write_single(repo, struct.pack("<Q", len(header)) + header + bytes(16))
    with pytest.raises(ModelError, match=f"^owner/name: {SINGLE}.* {message}") as caught:
        open_source().headers()
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"\0" * 7, struct.pack("<Q", 1 << 60), b"\4" + b"\0" * 9])
def test_what_is_no_header(repo: Path, content: bytes) -> None:
    write_single(repo, content)
    with pytest.raises(ModelError, match=f"^owner/name: {SINGLE} is damaged"):
        open_source().headers()


def write_single(repo: Path, content: bytes) -> None:
    """Replace the weights of a repository by one file."""
    (repo / INDEX).unlink()
    (repo / SINGLE).write_bytes(content)
