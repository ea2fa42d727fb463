from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from autoround.errors import UsageError
from autoround.model.files.hub import HubName, fetch_side_files
from autoround.model.files.streamed_source import StreamedSource
from autoround.model.skeleton import adopt_model, open_model
from autoround.planning.streaming import add_streaming, refuse_scoring, refuse_second_reading

from ...hub import Hub, hub, online, write_repo
from ...runs import NEAREST, even_device, make_prepared
from ...tiny import make_model, token_ids, write_checkpoint

__all__ = ["even_device", "hub", "online"]


@pytest.fixture
def model(online: Hub, tmp_path: Path) -> str:
    """Serve a tiny model in two files."""
    folder = write_checkpoint("llama", tmp_path / "llama")
    online.repos["owner/name"] = {"main": write_repo(folder, tmp_path / "repo")}
    return "owner/name"


def test_several_passes_are_refused(model: str) -> None:
    skeleton = open_model(model, stream=True)
    plan = make_prepared(skeleton, NEAREST).plan
    refuse_second_reading(plan, skeleton)
    twice = replace(plan, further=(plan,))
    with pytest.raises(UsageError, match="auto_round, auto_round take 2 passes: write one of"):
        refuse_second_reading(twice, skeleton)
    refuse_second_reading(twice, adopt_model(make_model("llama")))


def test_scoring_is_refused(model: str) -> None:
    refuse_scoring(open_model(model))
    with pytest.raises(UsageError, match="a bit budget scores all of them first"):
        refuse_scoring(open_model(model, stream=True))


def test_records_hold_unquantized_tensors_too(model: str) -> None:
    skeleton = open_model(model, stream=True)
    tuned = make_prepared(skeleton, data=token_ids(4, 16))
    runtime = tuned.request.runtime
    # Two norms of 64 numbers in each of two blocks, in float32.
    plain = replace(tuned.estimate, journal_bytes=1000, disk_bytes=500)
    more = add_streaming(plain, tuned.plan, skeleton, runtime=runtime, max_shard_bytes=200)
    assert more.journal_bytes == 1000 + 2 * 2 * 64 * 4
    peak = more.fetched_bytes + more.journal_bytes + 500 + 200
    assert more.peak_bytes_on_disk == peak
    assert more.fetched_bytes == tuned.estimate.source_bytes
    without = replace(plain, journal_bytes=0)
    rounded = add_streaming(without, tuned.plan, skeleton, runtime=runtime, max_shard_bytes=200)
    assert rounded.journal_bytes == 0


def test_a_streamed_model_has_its_source(model: str) -> None:
    skeleton = open_model(model, stream=True)
    assert isinstance(skeleton.stream, StreamedSource)
    assert open_model(model).stream is None
    assert fetch_side_files(HubName(model, None)).missing()
