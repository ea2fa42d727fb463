"""Runs on models of the hub whose files are fetched one after another and deleted again."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants, hf_hub_download

import autoround
from autoround.cli.main import run
from autoround.errors import AutoRoundError, OutputError, UsageError
from autoround.events import BlockDone, Event, Sink, ignore
from autoround.model.files.hub import HubModel
from autoround.types import Destination, RunResult

from ..hub import Hub, hub, online
from ..runs import even_device, small
from ..tiny import COMMON, make_model, token_ids

__all__ = ["even_device", "hub", "online"]

REPO = "owner/name"
BLOCKS = 6
RTN = ["--recipe", "rtn", "--group-size", "32", "--device", "cpu"]


def write_shards(folder: Path, size: str) -> Path:
    """Write a Llama of six blocks in files of at most a size."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(**{**COMMON, "num_hidden_layers": BLOCKS})
    LlamaForCausalLM(config).save_pretrained(folder, max_shard_size=size)
    return folder


@pytest.fixture
def repo(online: Hub, tmp_path: Path) -> Path:
    """Serve a model in files of about a block each as owner/name."""
    folder = write_shards(tmp_path / "repo", "150KB")
    online.repos[REPO] = {"main": folder}
    return folder


@pytest.fixture
def peaks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Collect the bytes of weights in the cache after each fetch."""
    sizes: list[int] = []
    fetch = HubModel.fetch

    def measured(model: HubModel, files: Sequence[str]) -> None:
        fetch(model, files)
        sizes.append(sum(path.stat().st_size for path in cached()))

    monkeypatch.setattr(HubModel, "fetch", measured)
    return sizes


def cached() -> list[Path]:
    """Return the files of weights in the cache, and the bytes of deleted ones that are left."""
    cache = Path(constants.HF_HUB_CACHE)
    blobs = [path for path in cache.glob("models--*/blobs/*") if path.stat().st_size > 50_000]
    links = [path for path in cache.glob("models--*/snapshots/*/*.safetensors")]
    assert {path.resolve() for path in links} >= {path.resolve() for path in blobs}
    return blobs


def fetches(hub: Hub) -> Counter[str]:
    """Count how often each file of weights was sent as a whole."""
    requests = [x for x in hub.log if x.path.endswith(".safetensors")]
    return Counter(x.path.rsplit("/", 1)[1] for x in requests if x.sent and not x.ranged)


def quantize(
    model: str | Path, place: Path | Destination, sink: Sink = ignore, **values: object
) -> RunResult:
    """Tune a model for two steps a block."""
    recipe = small({"tuning.iters": 2, **values})
    ids = token_ids(4, 16)
    return autoround.quantize(model, recipe, output_dir=place, device="cpu", data=ids, sink=sink)


def weights(folder: Path) -> bytes:
    """Return the bytes of the weights that were written."""
    return (folder / "model.safetensors").read_bytes()


def test_a_run_holds_few_files_and_writes_the_same(
    repo: Path, online: Hub, tmp_path: Path, peaks: list[int]
) -> None:
    streamed = quantize(REPO, Destination(tmp_path / "out", stream_hub=True))
    files = {path.name: path.stat().st_size for path in repo.glob("*.safetensors")}
    assert len(files) >= BLOCKS
    assert set(fetches(online)) == set(files)
    assert max(fetches(online).values()) <= 2
    assert cached() == []
    assert max(peaks) < sum(files.values()) / 2
    whole = quantize(repo, tmp_path / "whole")
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")
    assert [x.loss_after for x in streamed.blocks] == [x.loss_after for x in whole.blocks]


def test_the_plan_says_how_much_disk_it_takes(
    repo: Path, tmp_path: Path, peaks: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = small({"tuning.iters": 2})
    ids = token_ids(4, 16)
    plain = autoround.plan(REPO, recipe, device="cpu", data=ids)[1]
    estimate = autoround.plan(REPO, recipe, device="cpu", data=ids, stream_hub=True)[1]
    assert (plain.fetched_bytes, plain.peak_bytes_on_disk) == (0, 0)
    parts = estimate.fetched_bytes + estimate.journal_bytes + 2 * estimate.disk_bytes
    assert estimate.peak_bytes_on_disk == parts
    assert estimate.journal_bytes > plain.journal_bytes
    assert not peaks
    quantize(REPO, Destination(tmp_path / "out", stream_hub=True))
    # Headers of files are not counted.
    assert estimate.fetched_bytes <= max(peaks) < estimate.fetched_bytes + 4 * 4096
    for command in (["plan", REPO, *RTN], ["quantize", REPO, *RTN, "--dry-run"]):
        assert run([*command, "--stream-hub"]) == 0
        lines = capsys.readouterr().out.splitlines()
        (line,) = [line for line in lines if line.startswith("disk ")]
        assert line.endswith("of files from the hub at a time")


def test_files_that_were_cached_before_are_left(repo: Path, online: Hub, tmp_path: Path) -> None:
    names = sorted(path.name for path in repo.glob("*.safetensors"))
    for name in names[1::3]:
        hf_hub_download(REPO, name, revision=online.commit(REPO))
    before = {path: path.read_bytes() for path in cached()}
    online.log.clear()
    quantize(REPO, Destination(tmp_path / "out", stream_hub=True))
    assert {path: path.read_bytes() for path in cached()} == before
    assert set(fetches(online)) == set(names) - set(names[1::3])


def test_an_interrupted_run_goes_on_without_the_files_of_finished_blocks(
    repo: Path, online: Hub, tmp_path: Path
) -> None:
    def stop(event: Event) -> None:
        if isinstance(event, BlockDone) and event.result.index == 3:
            raise KeyboardInterrupt

    place = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        quantize(REPO, Destination(place, stream_hub=True), stop)
    assert cached() == []
    online.log.clear()
    with pytest.raises(AutoRoundError, match="begun with --stream-hub: add it to go on"):
        quantize(REPO, Destination(place, resume=True))
    assert not fetches(online)
    quantize(REPO, Destination(place, resume=True, stream_hub=True))
    index = json.loads((repo / "model.safetensors.index.json").read_text())["weight_map"]
    of_rest = {
        file for name, file in index.items() if "layers." not in name or int(name.split(".")[2]) > 3
    }
    assert of_rest < set(index.values())
    assert set(fetches(online)) == of_rest
    quantize(repo, tmp_path / "whole")
    assert weights(place) == weights(tmp_path / "whole")


def test_rounding_to_nearest_keeps_no_journal_and_streams(
    repo: Path, online: Hub, tmp_path: Path, peaks: list[int]
) -> None:
    assert run(["quantize", REPO, *RTN, "--stream-hub", "-o", "out"]) == 0
    assert max(fetches(online).values()) <= 2
    assert max(peaks) < sum(path.stat().st_size for path in repo.glob("*.safetensors")) / 2
    assert cached() == []
    assert run(["quantize", "repo", *RTN, "-o", "whole"]) == 0
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


def test_the_class_of_the_field_streams_too(repo: Path, online: Hub, tmp_path: Path) -> None:
    tuner = autoround.AutoRound(REPO, group_size=32, iters=0, device="cpu", recipe="rtn")
    tuner.quantize_and_save(Destination(tmp_path / "out", stream_hub=True))
    assert set(fetches(online)) == {path.name for path in repo.glob("*.safetensors")}
    assert cached() == []


@pytest.mark.parametrize("kind", ["gpt2", "mixtral"])
def test_names_of_files_need_not_be_those_of_the_class(
    kind: str, online: Hub, tmp_path: Path, peaks: list[int]
) -> None:
    folder = tmp_path / "repo"
    make_model(kind).save_pretrained(folder, max_shard_size="100KB")
    online.repos[REPO] = {"main": folder}
    quantize(REPO, Destination(tmp_path / "out", stream_hub=True))
    sizes = [path.stat().st_size for path in folder.glob("*.safetensors")]
    assert max(fetches(online).values()) <= 2
    assert max(peaks) < sum(sizes)
    quantize(folder, tmp_path / "whole")
    assert weights(tmp_path / "out") == weights(tmp_path / "whole")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"end_to_end.steps": 2}, "end-to-end tuning reads them again"),
        ({"allocate.avg_bits": 4.5}, "a bit budget scores all of them first"),
    ],
)
def test_what_reads_blocks_again_is_refused(
    values: dict[str, object], message: str, repo: Path, online: Hub, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        quantize(REPO, Destination(tmp_path / "out", stream_hub=True), **values)
    assert not fetches(online)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["repo"], "'repo' is a local folder: leave it out"),
        ([], "none of these is named: leave it out"),
        ([REPO, "--eval"], "--stream-hub never has the whole original on the disk"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str],
    message: str,
    repo: Path,
    online: Hub,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["quantize", *arguments, *RTN, "--stream-hub", "-o", "out"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not fetches(online)


def test_a_disk_without_room_is_told_before_any_file_is_fetched(
    repo: Path, online: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, estimate = autoround.plan(
        REPO, small({"tuning.iters": 2}), device="cpu", data=token_ids(4, 16), stream_hub=True
    )
    room = estimate.fetched_bytes + estimate.disk_bytes
    usage = shutil.disk_usage(tmp_path)._replace(free=room - 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OutputError, match="files from the hub and the output need 0.00 GB at a"):
        quantize(REPO, Destination(tmp_path / "out", stream_hub=True))
    assert not fetches(online)
    assert plan.revision == online.commit(REPO)


def test_a_model_in_memory_is_not_streamed(tmp_path: Path) -> None:
    model = make_model("llama")
    recipe, place = small(), Destination(tmp_path / "out", stream_hub=True)
    with pytest.raises(UsageError, match="none of these is named"):
        autoround.quantize(model, recipe, output_dir=place, device="cpu", data=token_ids(4, 16))
