"""The activation streams that a pass begins with, or goes on from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.core.dtypes import DTYPES
from autoround.data.tokens import Tokens
from autoround.errors import OutputError
from autoround.resume.journal import PassJournal
from autoround.session.block_output import BlockOutput
from autoround.session.session import Placement, Session, make_runner
from autoround.settings import FRESH, FULL, QUANTIZED, EndToEndSettings
from autoround.tuning.first_inputs import open_streams
from autoround.types import BlockResult

from ...runs import make_session
from ...tiny import make_model, token_ids

IDS = token_ids(5, 16)
RESULT = BlockResult(0, "model.layers.0", 1.0, 0.5, 0.0, 1, 1, 0)


def opened(values: dict[str, object] | None = None, *, data: Any = IDS) -> Session:
    return make_session(
        make_model("llama"), {"calibration.nsamples": 5, **(values or {})}, data=data
    )


def stored(session: Session, folder: Path, *, mapped: bool = False) -> Session:
    store = PassJournal(folder / "pass-1", folder / "streams")
    return replace(session, store=store, placement=Placement(streams_on_disk=mapped))


def wanted(session: Session) -> torch.Tensor:
    model = session.skeleton.model
    embedded: torch.Tensor = model.get_submodule("model.embed_tokens")(IDS)
    return embedded.detach()


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_they_are_the_embedded_tokens_however_many_at_a_time(size: int) -> None:
    session = opened({"tuning.batch_size": size})
    streams = open_streams(session, make_runner(session))
    assert torch.equal(streams.full, wanted(session))
    assert torch.equal(streams.quantized, streams.full)
    assert streams.quantized.data_ptr() != streams.full.data_ptr()
    assert (streams.files, streams.mapped, streams.generation) == (None, False, 0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_they_are_in_the_compute_dtype(dtype: str) -> None:
    session = opened({"tuning.compute_dtype": dtype})
    streams = open_streams(session, make_runner(session))
    assert streams.full.dtype == streams.quantized.dtype == DTYPES[dtype]
    assert torch.equal(streams.full, wanted(session).to(DTYPES[dtype]))


def test_padding_is_masked_and_whole_samples_need_no_mask() -> None:
    assert open_streams(opened(), make_runner(opened())).mask is None
    lengths = torch.tensor([16, 16, 3, 16, 1])
    session = replace(opened(), tokens=Tokens(IDS, lengths, "some"))
    mask = open_streams(session, make_runner(session)).mask
    assert mask is not None
    assert mask.sum(1).tolist() == lengths.tolist()
    assert mask[2].tolist() == [True] * 3 + [False] * 13


@pytest.mark.parametrize("streams_in", ["both", "full"])
def test_streams_on_the_disk_are_mapped_and_their_outputs_go_elsewhere(
    streams_in: str, tmp_path: Path
) -> None:
    session = opened({"tuning.quantized_inputs": streams_in == "both"})
    streams = open_streams(stored(session, tmp_path, mapped=True), make_runner(session))
    assert streams.mapped
    assert torch.equal(streams.full, wanted(session))
    assert torch.equal(streams.quantized, wanted(session))
    names = (FULL, QUANTIZED) if streams_in == "both" else (FULL,)
    found = {path.name for path in (tmp_path / "streams").iterdir()}
    assert found == {f"{name}-{n}" for name in names for n in (0, 1)}
    streams.outputs(FULL).zero_()
    assert torch.equal(streams.full, wanted(session))


@pytest.mark.parametrize("mapped", [True, False])
def test_they_go_on_from_what_the_last_finished_block_left(mapped: bool, tmp_path: Path) -> None:
    session = stored(opened(), tmp_path, mapped=mapped)
    streams = open_streams(session, make_runner(session))
    names: Sequence[str] = session.tuning.streams
    for add, name in enumerate(names, 1):
        out = streams.outputs(name)
        out.copy_(streams.inputs(name) + add)
        streams.advance(name, out)
    assert session.store is not None
    session.store.begin_commit(BlockOutput({}, {}, RESULT), streams=streams, names=names)()
    again = stored(opened(), tmp_path, mapped=mapped)
    assert again.finished_blocks == 1
    runner = make_runner(again)
    found = open_streams(again, runner)
    assert torch.equal(found.full, wanted(again) + 1)
    assert torch.equal(found.quantized, wanted(again) + 2)
    assert (found.generation, found.mapped) == (1, mapped)
    # How blocks are called was learned from the tokens.
    assert runner.runs(0)


def test_streams_that_somebody_changed_are_refused(tmp_path: Path) -> None:
    session = stored(opened(), tmp_path)
    streams = open_streams(session, make_runner(session))
    assert session.store is not None
    session.store.begin_commit(
        BlockOutput({}, {}, RESULT), streams=streams, names=(FULL, QUANTIZED)
    )()
    path = tmp_path / "streams" / "quantized-1"
    path.write_bytes(bytes(path.stat().st_size))
    again = stored(opened(), tmp_path)
    with pytest.raises(OutputError, match="quantized-1 is not what the last finished block left"):
        open_streams(again, make_runner(again))


FRESH_VALUES: dict[str, object] = {"end_to_end.steps": 2, "end_to_end.nsamples": 3}
MORE = token_ids(8, 16, seed=5)


def with_fresh(**others: object) -> Session:
    return opened({**FRESH_VALUES, **others}, data=MORE)


@pytest.mark.parametrize("mapped", [True, False])
def test_fresh_samples_are_a_stream_of_their_own(mapped: bool, tmp_path: Path) -> None:
    session = stored(with_fresh(), tmp_path, mapped=mapped)
    runner = make_runner(session)
    streams = open_streams(session, runner)
    embed = session.skeleton.model.get_submodule("model.embed_tokens")
    assert streams.fresh is not None
    assert torch.equal(streams.full, embed(MORE[:5]).detach())
    assert torch.equal(streams.fresh, embed(MORE[5:]).detach())
    assert {path.name for path in (tmp_path / "streams").iterdir()} == {
        f"{name}-{n}" for name in (FULL, QUANTIZED, FRESH) for n in (0, 1)
    }
    assert session.store is not None
    for name in session.stream_names:
        streams.advance(name, streams.outputs(name).copy_(streams.inputs(name) + 1))
    session.store.begin_commit(
        BlockOutput({}, {}, RESULT), streams=streams, names=session.stream_names
    )()
    again = stored(with_fresh(), tmp_path, mapped=mapped)
    found = open_streams(again, make_runner(again)).fresh
    assert found is not None
    assert torch.equal(found, embed(MORE[5:]).detach() + 1)


def test_a_pass_without_end_to_end_tuning_has_no_fresh_stream() -> None:
    session = with_fresh()
    tuning = replace(session.tuning, end_to_end=EndToEndSettings())
    session = replace(session, plan=replace(session.plan, tuning=tuning))
    assert session.stream_names == (FULL, QUANTIZED)
    assert open_streams(session, make_runner(session)).fresh is None
