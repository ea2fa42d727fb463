from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from autoround.checkpoints.push import check_repo, plan_upload, push
from autoround.errors import ModelError, UploadError, UsageError
from autoround.model.files.gate_mark import mark_folder

from ...upload_hub import FOREIGN, TOKEN, Repo, UploadHub, serve_uploads


@pytest.fixture
def folder(checkpoint: Callable[[str], Path], tmp_path: Path) -> Path:
    """Copy a whole model, with a card."""
    out = tmp_path / "out"
    shutil.copytree(checkpoint("llama"), out)
    (out / "README.md").write_text("# A model\n")
    return out


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[UploadHub]:
    """Let this process upload to the stand-in alone."""
    with serve_uploads() as served:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", served.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield served


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a folder by their names in it."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_all_files_arrive_with_their_bytes(hub: UploadHub, folder: Path) -> None:
    (folder / ".cache").mkdir()
    (folder / ".cache" / "note").write_text("mine")
    expected = {k: v for k, v in contents(folder).items() if not k.startswith(".")}
    upload = plan_upload(folder)
    assert dict(upload.files) == {name: len(data) for name, data in expected.items()}
    assert upload.left == (".cache/note",)
    assert upload.bytes == sum(map(len, expected.values()))
    url = push(upload, "me/model", private=True)
    assert url == f"{hub.endpoint}/me/model/commit/{'1' * 40}"
    assert hub.repos["me/model"].private
    assert hub.repos["me/model"].branches == {"main": expected}
    # Weights go by the storage, and once only.
    assert list(hub.objects.values()) == [expected["model.safetensors"]]
    push(upload, "me/model")
    assert sum(line.startswith("PUT") for line in hub.log) == 1


def test_a_branch_is_made_where_there_is_none(hub: UploadHub, folder: Path) -> None:
    upload = plan_upload(folder)
    for _ in range(2):
        push(upload, "me/model", revision="w4")
        assert hub.repos["me/model"].branches == {"main": {}, "w4": contents(folder)}


def test_a_public_repository_does_not_get_what_is_to_be_private(
    hub: UploadHub, folder: Path
) -> None:
    hub.repos["me/model"] = Repo(private=False)
    with pytest.raises(UsageError, match="nothing is uploaded"):
        push(plan_upload(folder), "me/model", private=True)
    assert hub.repos["me/model"].branches == {"main": {}}


def test_the_hub_that_refuses_says_why(
    hub: UploadHub, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = plan_upload(folder)
    with pytest.raises(UploadError, match="may not write there"):
        push(upload, f"{FOREIGN}/model")
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UploadError, match="hf auth login"):
        push(upload, "me/model")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UploadError, match="HF_HUB_OFFLINE"):
        push(upload, "me/model")
    assert hub.repos == {}


def test_folders_that_are_not_whole_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is no folder"):
        plan_upload(tmp_path / "gone")
    (folder / "INCOMPLETE").touch()
    with pytest.raises(ModelError, match="unfinished"):
        plan_upload(folder)
    (folder / "INCOMPLETE").unlink()
    folder.rename(tmp_path / "out.partial")
    with pytest.raises(ModelError, match="unfinished"):
        plan_upload(tmp_path / "out.partial")
    (tmp_path / "out.partial").rename(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="not whole"):
        plan_upload(folder)


def test_one_format_goes_to_one_repository(tmp_path: Path) -> None:
    for name in ("auto_round", "gguf-q4_0"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "plan.json").touch()
    with pytest.raises(UsageError, match="name one of them: auto_round, gguf-q4_0"):
        plan_upload(tmp_path)


def test_a_missed_gate_goes_only_where_that_is_said(folder: Path) -> None:
    mark_folder(folder, ["KL is 0.5"])
    with pytest.raises(ModelError, match=r"KL is 0\.5; .*--although-gate-failed"):
        plan_upload(folder)
    assert "it missed the gate" in plan_upload(folder, failed_gate=True).notes[0]


def test_links_are_refused(folder: Path) -> None:
    (folder / "notes.txt").symlink_to(folder / "config.json")
    with pytest.raises(ModelError, match="is a link"):
        plan_upload(folder)


@pytest.mark.parametrize(
    "name",
    [
        ".env",
        ".env.local",
        "id_rsa",
        "server.key",
        "my_secrets.json",
        "credentials",
        "hf_token.txt",
    ],
)
def test_names_of_secrets_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_text("x")
    with pytest.raises(ModelError, match="its name says so"):
        plan_upload(folder)


@pytest.mark.parametrize(
    "text", ["token: hf_" + "a" * 34, "-----BEGIN RSA PRIVATE KEY-----", "AKIA" + "A" * 16]
)
def test_texts_with_secrets_are_refused(folder: Path, text: str) -> None:
    (folder / "notes.txt").write_text(f"see\n{text}\n")
    with pytest.raises(ModelError, match="there is one in it"):
        plan_upload(folder)


def test_files_of_tokenizers_are_no_secrets(folder: Path) -> None:
    for name in ("special_tokens_map.json", "added_tokens.json", "tokenizer.model", "tokens.txt"):
        (folder / name).write_text("{}")
    assert {"special_tokens_map.json", "tokens.txt"} <= dict(plan_upload(folder).files).keys()


def test_what_a_reader_wants_to_know_is_noted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "README.md").unlink()
    (folder / "run.json").write_text('"/home/somebody/model"')
    monkeypatch.setenv("HOME", "/home/somebody")
    card, paths = plan_upload(folder).notes
    assert "there is no README.md" in card
    assert paths == "paths of this machine (/home/somebody) stand in run.json"


def test_names_that_cannot_be() -> None:
    check_repo("me/model-4bit", "refs/pr/1")
    for repo, revision in (("model", None), ("a/b/c", None), ("me/model", "a..b"), ("-a/b", None)):
        with pytest.raises(UsageError):
            check_repo(repo, revision)
