"""The journal of a run: whose it is, what is done, and what may be deleted."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.errors import OutputError
from autoround.resume.journal import (
    LAYOUT,
    RUN,
    Journal,
    PassJournal,
    blocks_in,
    journal_of,
)
from autoround.resume.records import result_of
from autoround.session.activations import ActivationStreams
from autoround.session.block_output import BlockOutput
from autoround.session.checkpoints import Save
from autoround.settings import FULL, QUANTIZED
from autoround.storage.json_text import to_json
from autoround.types import BlockResult, QuantizedTensor, Scheme

from ...tiny_quantized import nearest

SHAPE = (2, 3, 4)


class Never:
    """A policy by which no streams are kept."""

    def save(self, save: Save) -> dict[str, int]:
        return {}


def unit(index: int, *, source: int = 5) -> BlockOutput:
    torch.manual_seed(index)
    layer = nearest(torch.randn(4, 32), Scheme(4, 32, True))
    result = BlockResult(index, f"b.{index}", 2.0, 1.0, 3.0, 4, 2, 10, {"experts": (1, 2)})
    return BlockOutput({"fc": layer}, {"norm": torch.ones(2)}, result, source)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    made = Journal(tmp_path / "out")
    made.create({"who": "a test"})
    return made


def test_it_is_beside_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert journal_of(tmp_path / "out") == tmp_path / "out.journal"
    assert journal_of(tmp_path / "out.v2") == tmp_path / "out.v2.journal"
    monkeypatch.chdir(tmp_path)
    assert journal_of(Path("out")) == tmp_path / "out.journal"


def test_what_was_said_of_a_run_is_there_when_it_is_opened_again(
    journal: Journal, tmp_path: Path
) -> None:
    journal.release()
    again = Journal(tmp_path / "out")
    assert again.exists
    header = again.open()
    assert (header["who"], header["layout"]) == ("a test", LAYOUT)
    assert Path(header["streams"]) == journal.folder / "streams"
    assert not Journal(tmp_path / "other").exists


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "{}", '{"layout": 2}'])
def test_a_damaged_header_is_told(text: str, journal: Journal, tmp_path: Path) -> None:
    journal.release()
    (journal.folder / RUN).write_text(text)
    with pytest.raises(OutputError, match=r"run.json is damaged .* --restart"):
        Journal(tmp_path / "out").open()


@pytest.mark.parametrize("layout", [LAYOUT - 1, LAYOUT + 1])
def test_another_layout_is_for_another_version(
    layout: int, journal: Journal, tmp_path: Path
) -> None:
    journal.release()
    path = journal.folder / RUN
    path.write_text(json.dumps({**json.loads(path.read_text()), "layout": layout}))
    with pytest.raises(OutputError, match=f"has layout {layout}, and this version reads {LAYOUT}:"):
        Journal(tmp_path / "out").open()


def test_only_one_run_is_at_work_on_it(journal: Journal, tmp_path: Path) -> None:
    for use in (Journal.open, Journal.clear, lambda other: other.create({})):
        with pytest.raises(OutputError, match="another run is at work on"):
            use(Journal(tmp_path / "out"))
    assert journal.exists
    journal.release()
    journal.release()
    Journal(tmp_path / "out").open()


def test_finished_units_are_counted_and_come_back(journal: Journal, tmp_path: Path) -> None:
    own = journal.of_pass(1)
    assert (own.done, blocks_in(tmp_path / "out")) == (0, 0)
    for index in (0, 1):
        own.begin_commit(unit(index), streams=None, names=())()
    again = journal.of_pass(1)
    assert again.done == own.done == blocks_in(tmp_path / "out") == 2
    assert journal.of_pass(2).done == 0
    for index in (0, 1):
        wanted = unit(index)
        found = again.read(index, {"kept": torch.zeros(1)}, source=5)
        assert found.result == wanted.result
        assert list(found.kept) == ["kept"]
        left, right = found.layers["fc"], wanted.layers["fc"]
        assert isinstance(left, QuantizedTensor)
        assert isinstance(right, QuantizedTensor)
        assert torch.equal(left.codes, right.codes)
    assert blocks_in(tmp_path / "none") == 0


def test_a_whole_record_needs_nothing_of_the_model(journal: Journal) -> None:
    own = journal.of_pass(1)
    shared = torch.arange(3.0)
    output = replace(unit(0), kept={"b.0.norm": shared, "b.0.same": shared})
    own.begin_commit(output, streams=None, names=(), whole=True)()
    own.begin_commit(unit(1), streams=None, names=())()
    recorded = journal.of_pass(1).read(0, {}, source=None)
    assert list(recorded.layers) == ["fc"]
    assert {name: tensor.tolist() for name, tensor in recorded.kept.items()} == {
        "b.0.norm": [0, 1, 2],
        "b.0.same": [0, 1, 2],
    }
    assert own.read(1, {}, source=None).kept == {}


def test_what_comes_after_a_gap_is_not_done(journal: Journal) -> None:
    own = journal.of_pass(1)
    for index in range(3):
        own.begin_commit(unit(index), streams=None, names=())()
    (journal.folder / "pass-1" / "00001.safetensors").unlink()
    assert journal.of_pass(1).done == 1


def test_a_block_of_other_weights_is_refused_unless_it_was_compared_before(
    journal: Journal,
) -> None:
    own = journal.of_pass(1)
    own.begin_commit(unit(0, source=5), streams=None, names=())()
    with pytest.raises(OutputError, match=r"weights of b.0 are not those .* --restart"):
        own.read(0, {}, source=6)
    assert own.read(0, {}, source=None).source == 5


def streams(own: PassJournal, names: tuple[str, ...], *, mapped: bool) -> ActivationStreams:
    files = own.files(SHAPE, torch.float32, names=names)
    files.allocate()
    full, quantized = torch.randn(SHAPE), torch.randn(SHAPE)
    if mapped:
        full = files.mapped(FULL, 0).copy_(full)
        quantized = files.mapped(QUANTIZED, 0).copy_(quantized) if QUANTIZED in names else full
    return ActivationStreams(full, quantized, None, files, mapped)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("names", [(FULL, QUANTIZED), (FULL,)])
def test_streams_are_those_that_the_last_finished_block_left(
    names: tuple[str, ...], mapped: bool, journal: Journal
) -> None:
    own = journal.of_pass(1)
    left = streams(own, names, mapped=mapped)
    mask = torch.ones(2, 3, dtype=torch.bool)
    for index in (0, 1):
        for name in names:
            out = left.outputs(name)
            out.copy_(left.inputs(name) * 2)
            left.advance(name, out)
        own.begin_commit(unit(index), streams=left, names=names)()
    files = own.files(SHAPE, torch.float32, names=names)
    found = journal.of_pass(1).streams(1, files, mask=mask, mapped=mapped)
    assert torch.equal(found.full, left.full)
    assert torch.equal(found.quantized, left.quantized if QUANTIZED in names else left.full)
    assert (found.generation, found.mapped) == (2, mapped)
    assert found.mask is mask
    files.write(FULL, 2, torch.zeros(SHAPE))
    with pytest.raises(OutputError, match="full-0 is not what the last finished block left"):
        own.streams(1, files, mask=None, mapped=mapped)


def test_the_last_checkpoint_is_found_and_one_can_be_made_up_for(journal: Journal) -> None:
    own = journal.of_pass(1)
    left = streams(own, (FULL,), mapped=False)
    assert own.checkpoint(-1) is None
    for index in range(3):
        left.full += 1
        own.begin_commit(unit(index), streams=left, names=(FULL,), checkpoints=Never())()
    assert (own.checkpoint(2), left.generation) == (None, 0)
    own.keep_streams(2, left, names=(FULL,))
    kept = left.full.clone()
    assert [own.checkpoint(index) for index in (1, 2)] == [None, 2]
    # The record is the same otherwise.
    assert own.read(2, {}, source=None).result == unit(2).result
    left.full += 1
    own.begin_commit(unit(3), streams=left, names=(FULL,), checkpoints=Never())()
    files = own.files(SHAPE, torch.float32, names=(FULL,))
    last = own.checkpoint(3)
    assert last == 2
    found = own.streams(last, files, mask=None, mapped=False)
    assert torch.equal(found.full, kept)
    assert (found.blocks, found.generation) == (3, 1)


def test_state_is_kept_in_place_of_an_earlier_one(journal: Journal) -> None:
    own = journal.of_pass(1)
    assert own.load_state("tuning") is None
    for step in (1, 2):
        own.save_state("tuning", {"a": torch.full((2,), step)}, {"step": step})
    found = journal.of_pass(1).load_state("tuning")
    assert found is not None
    assert (found[0]["a"].tolist(), found[1]) == ([2, 2], {"step": 2})
    assert own.load_state("other") is None
    assert own.done == 0


def test_streams_may_be_elsewhere_and_go_with_the_journal(tmp_path: Path) -> None:
    work = tmp_path / "work"
    own = Journal(tmp_path / "out", work_dir=work)
    own.create({})
    streams(own.of_pass(1), (FULL,), mapped=False)
    (there,) = work.iterdir()
    assert there.name.startswith("out-")
    assert not (own.folder / "streams").exists()
    own.release()
    other = Journal(tmp_path / "out", work_dir=tmp_path / "elsewhere")
    with pytest.raises(OutputError, match=f"are in {work}: leave --work-dir out"):
        other.open()
    other.release()
    again = Journal(tmp_path / "out")
    again.open()
    again.clear()
    assert list(work.iterdir()) == []
    assert not own.folder.exists()


def test_a_new_run_begins_with_nothing_of_the_one_before(journal: Journal, tmp_path: Path) -> None:
    journal.of_pass(1).begin_commit(unit(0), streams=None, names=())()
    journal.release()
    again = Journal(tmp_path / "out")
    again.create({"who": "another"})
    assert again.of_pass(1).done == 0
    again.release()
    assert Journal(tmp_path / "out").open()["who"] == "another"


def test_what_no_run_put_there_is_not_deleted(journal: Journal) -> None:
    journal.of_pass(1).begin_commit(unit(0), streams=None, names=())()
    (journal.folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match=r"contains unexpected file 'thesis.txt'; move it"):
        journal.clear()
    assert (journal.folder / "thesis.txt").exists()
    assert journal.of_pass(1).done == 1


@pytest.mark.parametrize("name", ["precious", "streams", "film.streams", "x-01234567.streams"])
def test_a_header_that_names_another_folder_deletes_nothing_there(
    journal: Journal, tmp_path: Path, name: str
) -> None:
    precious = tmp_path / name
    precious.mkdir()
    path = journal.folder / RUN
    path.write_text(json.dumps({**json.loads(path.read_text()), "streams": str(precious)}))
    with pytest.raises(OutputError, match="is no folder of theirs; begin again with --restart"):
        journal.open()
    journal.clear()
    assert precious.is_dir()
    assert not journal.folder.exists()


def test_a_file_in_the_way_is_an_error_of_the_output(tmp_path: Path) -> None:
    (tmp_path / "out.journal").write_text("")
    with pytest.raises(OutputError, match="out.journal cannot be written"):
        Journal(tmp_path / "out").create({})
    with pytest.raises(OutputError, match="cannot be made"):
        PassJournal(tmp_path / "out.journal" / "pass-1", tmp_path)


def test_figures_come_back_from_json_with_tuples_and_without_null() -> None:
    wanted = unit(0).result
    values: dict[str, Any] = json.loads(to_json(asdict(wanted)))
    assert result_of(values) == wanted
    assert math.isnan(result_of({**values, "loss_after": None}).loss_after)


def test_records_that_cannot_be_deleted_are_not_taken_for_those_of_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out.journal" / "pass-1").mkdir(parents=True)
    monkeypatch.setattr("autoround.resume.journal.remove_tree", lambda path: None)
    journal = Journal(tmp_path / "out")
    with pytest.raises(OutputError, match="out.journal cannot be deleted; delete it, and begin"):
        journal.create({})
    journal.release()
