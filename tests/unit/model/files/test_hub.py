from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from autoround.errors import ModelError
from autoround.model.files.hub import HubName, fetch_side_files, parse_hub_name
from autoround.model.files.stored import INDEX, SINGLE

from ....hub import LEGAL, NEVER, SHARDS, Hub, hub, online, write_repo

__all__ = ["hub", "online"]

REPO = "owner/name"
NAME = HubName(REPO, None)


@pytest.fixture
def repo(online: Hub, tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """Serve a tiny model as owner/name; its folder may be changed."""
    folder = write_repo(checkpoint("llama"), tmp_path / "repo")
    online.repos[REPO] = {"main": folder}
    return folder


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("owner/name", HubName("owner/name", None)),
        ("owner/name@v1.0", HubName("owner/name", "v1.0")),
        ("owner/name@refs/pr/1", HubName("owner/name", "refs/pr/1")),
        ("name", None),
        ("./a/b", None),
        ("/a/b", None),
        ("~/b", None),
        ("a/b/c", None),
        ("a/b/c@main", None),
    ],
)
def test_names(text: str, name: HubName | None) -> None:
    assert parse_hub_name(text) == name
    if name is not None:
        assert str(name) == text


@pytest.mark.parametrize("revision", ["", "..", "a/../b", "/main", "a b", "a//b", "x/"])
def test_what_cannot_be_a_revision(revision: str) -> None:
    with pytest.raises(ModelError, match="cannot be a revision; name a branch, tag or commit"):
        parse_hub_name(f"owner/name@{revision}")


def test_side_files_come_without_weights(repo: Path, online: Hub) -> None:
    model = fetch_side_files(NAME)
    side = {"config.json", "tokenizer.json", INDEX, *LEGAL}
    assert side <= {path.name for path in model.folder.iterdir()}
    assert model.commit == online.commit(REPO)
    assert model.missing() == model.shards() == list(SHARDS)
    assert not {*SHARDS, *NEVER, "README.md"} & set(online.downloads())


def test_each_shard_is_fetched_once_and_nothing_else(repo: Path, online: Hub) -> None:
    model = fetch_side_files(NAME)
    online.log.clear()
    model.fetch_weights()
    assert online.downloads() == list(SHARDS)
    assert all((model.folder / s).read_bytes() == (repo / s).read_bytes() for s in SHARDS)
    online.log.clear()
    model.fetch_weights()
    assert not online.log


def test_one_file_of_weights_needs_no_index(
    repo: Path, online: Hub, checkpoint: Callable[[str], Path]
) -> None:
    (repo / INDEX).unlink()
    shutil.copy(checkpoint("llama") / SINGLE, repo)
    model = fetch_side_files(NAME)
    online.log.clear()
    model.fetch_weights()
    assert online.downloads() == [SINGLE]


def test_a_pattern_in_an_index_is_a_name(repo: Path, online: Hub) -> None:
    (repo / INDEX).write_text(json.dumps({"weight_map": {"a": "[cm]o*.safetensors"}}))
    model = fetch_side_files(NAME)
    with pytest.raises(ModelError, match=r"names \[cm\]o\*.safetensors, which the hub does not"):
        model.fetch_weights()
    assert not any(name.endswith(".safetensors") for name in online.downloads())


def test_an_index_may_not_point_outside(repo: Path) -> None:
    (repo / INDEX).write_text(json.dumps({"weight_map": {"a": "../a.safetensors"}}))
    with pytest.raises(ModelError, match="names the illegal file"):
        fetch_side_files(NAME).fetch_weights()


def test_without_safetensors_the_others_are_named(repo: Path) -> None:
    (repo / INDEX).unlink()
    with pytest.raises(ModelError, match=f"neither {SINGLE} nor .* pytorch_model.bin: convert"):
        fetch_side_files(NAME).fetch_weights()


def test_a_revision_is_asked_for(repo: Path, online: Hub, tmp_path: Path) -> None:
    other = shutil.copytree(repo, tmp_path / "other")
    (other / "NOTICE.md").write_text("the other notice")
    online.repos[REPO]["refs/pr/1"] = other
    model = fetch_side_files(HubName(REPO, "refs/pr/1"))
    assert model.commit == online.commit(REPO, "refs/pr/1")
    assert (model.folder / "NOTICE.md").read_text() == "the other notice"
    model.fetch_weights()
    assert online.log[0].path == f"/api/models/{REPO}/revision/refs%2Fpr%2F1"
    resolved = [x.path for x in online.log if "/resolve/" in x.path]
    assert resolved
    assert all(f"/resolve/{model.commit}/" in path for path in resolved)
    assert fetch_side_files(HubName(REPO, model.commit)).folder == model.folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (HubName("owner/nothing", None), r"none of that name, or it is private; check the name"),
        (HubName(REPO, "v9"), r"owner/name has no revision 'v9' on the hub; check its name"),
    ],
)
def test_a_wrong_name_is_told(repo: Path, name: HubName, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        fetch_side_files(name)
    assert str(caught.value).startswith(f"model '{name}' is not a local folder, and ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_gated_model_names_its_page(repo: Path, online: Hub) -> None:
    online.gated.add(REPO)
    with pytest.raises(ModelError, match=f"accept its terms at {online.endpoint}/{REPO}, and log"):
        fetch_side_files(NAME)


def test_the_cache_needs_no_network(
    repo: Path, online: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = fetch_side_files(NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    online.log.clear()
    assert fetch_side_files(NAME) == fetched
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids fetching .*; unset it, or"):
        fetched.fetch_weights()
    with pytest.raises(ModelError, match="HF_HUB_OFFLINE forbids fetching"):
        fetch_side_files(HubName("owner/other", None))
    assert not online.log


def test_a_hub_out_of_reach(repo: Path, online: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    fetched = fetch_side_files(NAME)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
    assert fetch_side_files(NAME) == fetched
    with pytest.raises(ModelError, match=r"did not give it: .*refused; try again, or download"):
        fetch_side_files(HubName("owner/other", None))
