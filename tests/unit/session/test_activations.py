"""Activation streams are the same in memory and in files, and are checked when read again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from autoround.errors import OutputError
from autoround.session.activations import ActivationFiles, ActivationStreams
from autoround.settings import FRESH, FULL, QUANTIZED

SHAPE = (3, 5, 7)
BOTH = (FULL, QUANTIZED)


def files(folder: Path, dtype: torch.dtype = torch.float32) -> ActivationFiles:
    made = ActivationFiles(folder / "streams", SHAPE, dtype, BOTH)
    made.allocate()
    return made


def stream(seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_stream_is_read_as_it_was_written(dtype: torch.dtype, tmp_path: Path) -> None:
    found = files(tmp_path, dtype)
    sums = {}
    for generation in (0, 1):
        found.write(FULL, generation, stream(generation, dtype))
        sums[generation] = found.sync(FULL, generation)
    for generation in (0, 1):
        read = found.read(FULL, generation, total=sums[generation])
        assert torch.equal(read, stream(generation, dtype))
        # Files are used in turn.
        assert torch.equal(found.read(FULL, generation + 2, total=sums[generation]), read)
    assert sums[0] != sums[1]


def test_the_sum_is_that_of_words_of_eight_bytes_and_of_what_is_left(tmp_path: Path) -> None:
    found = files(tmp_path)
    found.write(FULL, 0, stream())
    stored = stream().numpy().tobytes()
    words = sum(int(w) for w in np.frombuffer(stored[: len(stored) // 8 * 8], "<i8"))
    wanted = (words + sum(stored[len(stored) // 8 * 8 :])) % 2**63
    assert len(stored) % 8
    assert found.sync(FULL, 0) == wanted


def test_files_have_their_whole_size_before_anything_is_written(tmp_path: Path) -> None:
    found = files(tmp_path)
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "streams").iterdir()}
    assert sizes == {f"{name}-{n}": 3 * 5 * 7 * 4 for name in BOTH for n in (0, 1)}
    found.write(FULL, 0, stream())
    total = found.sync(FULL, 0)
    found.allocate()
    files(tmp_path).check(FULL, 0, total=total)


@pytest.mark.parametrize("damage", ["missing", "short", "long", "other"])
def test_what_is_not_what_was_left_there_is_refused(damage: str, tmp_path: Path) -> None:
    found = files(tmp_path)
    found.write(FULL, 0, stream())
    total = found.sync(FULL, 0)
    path = tmp_path / "streams" / "full-0"
    stored = bytearray(path.read_bytes())
    path.unlink()
    if damage == "other":
        stored[17] ^= 1
    if damage != "missing":
        path.write_bytes({"short": stored[:-1], "long": stored + b"\0"}.get(damage, stored))
    for read in (found.read, found.check):
        with pytest.raises(OutputError, match=r"full-0 is not what .* --restart"):
            read(FULL, 0, total=total)


def test_a_folder_that_cannot_be_made_says_what_is_needed_and_where_else(tmp_path: Path) -> None:
    (tmp_path / "streams").write_text("")
    with pytest.raises(OutputError, match=r"need 0.0 GB in .*--work-dir"):
        files(tmp_path)


def test_a_missing_file_is_an_error_of_the_output(tmp_path: Path) -> None:
    found = ActivationFiles(tmp_path, SHAPE, torch.float32, BOTH)
    for use in (
        lambda: found.mapped(FULL, 0),
        lambda: found.write(FULL, 0, stream()),
        lambda: found.sync(FULL, 0),
    ):
        with pytest.raises(OutputError, match="full-0 cannot be"):
            use()


def test_what_is_written_to_a_mapped_stream_is_in_the_file(tmp_path: Path) -> None:
    found = files(tmp_path)
    view = found.mapped(QUANTIZED, 1)
    assert view.shape == SHAPE
    assert found.mapped(QUANTIZED, 3) is view
    view.copy_(stream())
    total = found.sync(QUANTIZED, 1)
    found.release_pages()
    assert torch.equal(view, stream())
    again = ActivationFiles(tmp_path / "streams", SHAPE, torch.float32, BOTH)
    assert torch.equal(again.read(QUANTIZED, 1, total=total), stream())


def test_files_are_removed_and_nothing_else_is(tmp_path: Path) -> None:
    files(tmp_path).remove()
    assert not (tmp_path / "streams").exists()
    found = files(tmp_path)
    (tmp_path / "streams" / "other").write_text("")
    found.remove()
    found.remove()
    assert [path.name for path in (tmp_path / "streams").iterdir()] == ["other"]


def run(streams: ActivationStreams, blocks: int, names: tuple[str, ...]) -> list[dict[str, int]]:
    """Run blocks, each of which adds one to what the full stream has, two to the other's."""
    sums = []
    for _ in range(blocks):
        inputs = {name: streams.inputs(name).clone() for name in names}
        for add, name in enumerate(names, 1):
            out = streams.outputs(name)
            out.copy_(inputs[name] + add)
            streams.advance(name, out)
        sums.append(streams.save(names))
    return sums


def opened(folder: Path, *, mapped: bool) -> ActivationStreams:
    held = files(folder)
    if not mapped:
        return ActivationStreams(stream(), stream(), None, held)
    full, quantized = held.mapped(FULL, 0), held.mapped(QUANTIZED, 0)
    full.copy_(stream())
    quantized.copy_(stream())
    return ActivationStreams(full, quantized, None, held, True)


def test_streams_in_memory_and_in_files_come_out_alike(tmp_path: Path) -> None:
    plain, mapped = (opened(tmp_path / str(m), mapped=m) for m in (False, True))
    sums = run(plain, 3, BOTH)
    assert run(mapped, 3, BOTH) == sums
    assert plain.generation == mapped.generation == 3
    for streams in (plain, mapped):
        torch.testing.assert_close(streams.full, stream() + 3)
        torch.testing.assert_close(streams.quantized, stream() + 6)
        assert streams.files is not None
        for name in BOTH:
            read = streams.files.read(name, 3, total=sums[-1][name])
            assert torch.equal(read, streams.inputs(name))


def test_inputs_on_the_disk_stay_while_a_block_writes_its_outputs(tmp_path: Path) -> None:
    streams = opened(tmp_path, mapped=True)
    assert streams.files is not None
    before = streams.files.sync(FULL, 0)
    streams.outputs(FULL).fill_(7.0)
    streams.files.check(FULL, 0, total=before)
    assert torch.equal(streams.full, stream())


@pytest.mark.parametrize("mapped", [False, True])
def test_the_quantized_stream_goes_on_from_the_other(mapped: bool, tmp_path: Path) -> None:
    streams = opened(tmp_path, mapped=mapped)
    streams.quantized.zero_()
    streams.restart_quantized()
    assert torch.equal(streams.inputs(QUANTIZED), stream())
    streams.outputs(QUANTIZED).fill_(1.0)
    assert torch.equal(streams.full, stream())


def test_streams_that_nobody_keeps_have_no_sums() -> None:
    streams = ActivationStreams(stream(), stream(), None)
    assert streams.save(BOTH) == {}
    assert streams.generation == 1
    assert streams.on(torch.device("cpu")) is streams


@pytest.mark.parametrize("mapped", [True, False])
def test_fresh_samples_have_files_of_their_own_size(mapped: bool, tmp_path: Path) -> None:
    held = ActivationFiles(tmp_path, SHAPE, torch.float32, (FULL, FRESH), fresh=4)
    held.allocate()
    sizes = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    per_sample = 5 * 7 * 4
    assert sizes == {
        **{f"{FULL}-{n}": 3 * per_sample for n in (0, 1)},
        **{f"{FRESH}-{n}": 4 * per_sample for n in (0, 1)},
    }
    values = torch.randn(4, 5, 7)
    full, fresh = stream(), values.clone()
    if mapped:
        full, fresh = held.mapped(FULL, 0).copy_(full), held.mapped(FRESH, 0).copy_(fresh)
    streams = ActivationStreams(full, full, None, held, mapped, fresh=fresh)
    assert streams.teacher is fresh
    assert (streams.first_row(FULL), streams.first_row(FRESH)) == (0, 3)
    out = streams.outputs(FRESH)
    out.copy_(streams.inputs(FRESH) + 1)
    streams.advance(FRESH, out)
    sums = streams.save((FRESH,))
    assert torch.equal(held.read(FRESH, 1, total=sums[FRESH]), values + 1)


def test_without_fresh_samples_the_teacher_is_the_full_stream() -> None:
    streams = ActivationStreams(stream(), stream(), None)
    assert streams.teacher is streams.full
