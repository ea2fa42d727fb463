from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download
from safetensors.torch import save_file

from autoround.errors import ModelError
from autoround.model.files.hub import HubName, fetch_side_files
from autoround.model.files.stored import INDEX, SINGLE
from autoround.model.files.streamed_source import BEGINNING, Span, StreamedSource, span_of

from ....hub import Hub, hub, online

__all__ = ["hub", "online"]

REPO = "owner/name"
#: The tensors of each file: four blocks, and what is around them in the first and the last file.
FILES: dict[str, tuple[str, ...]] = {
    "a.safetensors": ("embed", "0"),
    "b.safetensors": ("1",),
    "c.safetensors": ("2", "3.first"),
    "d.safetensors": ("3.second", "norm"),
}
BLOCKS = (["0"], ["1"], ["2"], ["3.first", "3.second"])
#: Numbers of a tensor, of four bytes each.
COUNT = 1000


@pytest.fixture
def repo(online: Hub, tmp_path: Path) -> Path:
    """Serve a checkpoint of four files as owner/name."""
    folder = tmp_path / "repo"
    folder.mkdir()
    index: dict[str, str] = {}
    for file, names in FILES.items():
        tensors = {n: torch.full((COUNT,), float(len(index) + k)) for k, n in enumerate(names)}
        save_file(tensors, folder / file)
        index |= dict.fromkeys(names, file)
    (folder / INDEX).write_text(json.dumps({"weight_map": index}), encoding="utf-8")
    online.repos[REPO] = {"main": folder}
    return folder


def open_source(revision: str | None = None) -> StreamedSource:
    source = StreamedSource(fetch_side_files(HubName(REPO, revision)))
    source.assign(BLOCKS, outside=["embed", "norm"])
    return source


def cached() -> str:
    """Return the first letters of the files of weights in the cache, of whatever revision."""
    files = Path(constants.HF_HUB_CACHE).glob("models--*/snapshots/*/*.safetensors")
    return "".join(sorted(path.stem for path in files))


def blobs() -> int:
    """Count the files of weights by their bytes."""
    paths = Path(constants.HF_HUB_CACHE).glob("models--*/blobs/*")
    return sum(path.stat().st_size >= 4 * COUNT for path in paths)


@pytest.mark.parametrize(
    ("of_blocks", "outside", "span"),
    [
        ([2, 3], False, Span(2, 3, False)),
        ([0, 1], True, Span(BEGINNING, 1, True)),
        ([8, 9], True, Span(8, 10, True)),
        ([3, 4], True, Span(BEGINNING, 4, True)),
        ([], True, Span(10, 10, True)),
    ],
)
def test_a_file_with_tensors_outside_is_deleted_for_the_longer_wait(
    of_blocks: list[int], outside: bool, span: Span
) -> None:
    assert span_of(of_blocks, 10, outside=outside) == span


def test_a_file_is_there_while_it_is_needed(repo: Path, online: Hub) -> None:
    source = open_source()
    held = []
    for names in (["embed", "norm"], *BLOCKS, ["embed"], ["norm"]):
        tensors = source.read(names)
        assert list(tensors) == names
        held.append(cached())
        assert blobs() == len(held[-1])
    assert held == ["ad", "ad", "abd", "c", "cd", "ad", "ad"]
    source.close()
    assert (cached(), blobs()) == ("", 0)
    whole = [x.path[-13] for x in online.log if x.path.endswith("tensors") and not x.ranged]
    assert sorted(x for x in whole if x in "abcd") == sorted(2 * "aabcdd")


def test_blocks_that_are_not_read_are_not_waited_for(repo: Path) -> None:
    source = open_source()
    source.read(["embed", "norm"])
    source.read(BLOCKS[2])
    assert cached() == "acd"
    source.read(["norm"])
    assert cached() == "acd"
    source.read(["3.first"])
    # The end begins when the last block is read whole.
    source.read(["norm"])
    assert cached() == "acd"
    source.read(["3.second"])
    source.read(["norm"])
    assert cached() == "ad"


@pytest.mark.parametrize(("ahead", "files"), [(False, "abd"), (True, "abcd")])
def test_the_peak_is_that_of_what_is_held_at_once(repo: Path, ahead: bool, files: str) -> None:
    count = sum(len(FILES[f"{file}.safetensors"]) for file in files)
    assert open_source().peak_bytes(ahead=ahead) == 4 * COUNT * count


def test_files_of_the_cache_take_no_disk_and_stay(repo: Path, online: Hub) -> None:
    for file in ("a.safetensors", "b.safetensors"):
        hf_hub_download(REPO, file, revision=online.commit(REPO))
    source = open_source()
    assert source.peak_bytes(ahead=False) == 4 * COUNT * 4
    for names in (["embed"], *BLOCKS):
        source.read(names)
    source.close()
    assert (cached(), blobs()) == ("ab", 2)


@pytest.mark.parametrize("first", [True, False])
def test_bytes_that_another_revision_has_stay(
    first: bool, repo: Path, online: Hub, tmp_path: Path
) -> None:
    online.repos[REPO]["v1"] = Path(shutil.copytree(repo, tmp_path / "v1"))
    if first:
        hf_hub_download(REPO, "b.safetensors", revision="v1")
    source = open_source()
    source.read(["1"])
    if not first:
        hf_hub_download(REPO, "b.safetensors", revision="v1")
    assert cached() == "bb"
    source.close()
    assert (cached(), blobs()) == ("b", 1)
    assert len(Path(hf_hub_download(REPO, "b.safetensors", revision="v1")).read_bytes()) > COUNT


def test_a_model_in_one_file_is_held_whole(repo: Path) -> None:
    for path in repo.glob("*"):
        path.unlink()
    names = [name for names in FILES.values() for name in names]
    save_file({name: torch.ones(COUNT) for name in names}, repo / SINGLE)
    source = open_source()
    assert source.peak_bytes(ahead=False) == 4 * COUNT * len(names)
    source.read(["0"])
    assert cached() == "model"
    source.close()
    assert cached() == ""


def test_an_unknown_name_is_refused(repo: Path) -> None:
    with pytest.raises(ModelError, match="the checkpoint has no tensor '9'"):
        open_source().read(["9"])


def test_nothing_is_fetched_once_it_is_closed(repo: Path) -> None:
    source = open_source()
    source.close()
    with pytest.raises(ModelError, match="owner/name: the run has ended"):
        source.read(["0"])
    assert cached() == ""


def test_a_file_that_changed_is_refused(repo: Path) -> None:
    source = open_source()
    save_file({"1": torch.ones(COUNT + 1)}, repo / "b.safetensors")
    with pytest.raises(ModelError, match=r"owner/name: the files fetched are not those planned"):
        source.read(["1"])
    source.close()
    assert (cached(), blobs()) == ("", 0)
