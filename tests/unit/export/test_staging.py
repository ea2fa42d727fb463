"""An output is built beside its place, and is there whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import time
from pathlib import Path

import pytest

from autoround.errors import OutputError
from autoround.export.staging import MARKER, Staging

from ... import faults


def write(folder: Path) -> int:
    """Write an output of 104 bytes; every run puts its plan into it."""
    with Staging(folder) as staging:
        (staging.staging / "part").mkdir()
        (staging.staging / "part" / "weights").write_text("x" * 100)
        for name in ("config.json", "plan.json"):
            (staging.staging / name).write_text("{}")
        return staging.publish()


def test_nothing_is_in_its_place_before_it_is_complete(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    with Staging(out) as staging:
        assert staging.staging == tmp_path / "deep" / "out.partial"
        assert (staging.staging / MARKER).is_file()
        assert not out.exists()
        (staging.staging / "file").write_text("abc")
        assert staging.publish() == 3
        assert [path.name for path in out.iterdir()] == ["file"]
    assert [path.name for path in out.parent.iterdir()] == ["out"]


def test_the_bytes_of_all_files_are_counted(tmp_path: Path) -> None:
    assert write(tmp_path / "out") == 104


def test_a_run_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with Staging(tmp_path / "out") as staging:
            (staging.staging / "file").write_text("abc")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("power", [True, False])
def test_wherever_a_process_ends_the_output_is_whole_or_not_there(
    power: bool, tmp_path: Path
) -> None:
    at, ended = 0, True
    while ended:
        at += 1
        place = tmp_path / str(at)
        place.mkdir()
        ended = faults.killed(
            lambda place=place: write(place / "out"),  # type: ignore[misc]
            at=at,
            lost=place if power else None,
        )
        if (place / "out").exists():
            assert (place / "out" / "part" / "weights").read_text() == "x" * 100
            assert (place / "out" / "config.json").read_text() == "{}"
            assert not (place / "out" / MARKER).exists()
        # Whatever was left is in nobody's way.
        if ended and not (place / "out").exists():
            assert write(place / "out") == 104
        assert [path.name for path in place.iterdir()] == ["out"]
    assert at > 5


@pytest.mark.parametrize("mark", [MARKER, "plan.json", "auto_gptq/plan.json", ""])
def test_what_an_earlier_run_left_is_cleared(mark: str, tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    if mark:
        (left / mark).parent.mkdir(exist_ok=True)
        (left / mark).write_text("")
        (left / "weights").write_text("old")
    assert write(tmp_path / "out") == 104
    assert not (tmp_path / "out" / "weights").exists()


def test_a_folder_of_somebody_else_is_never_cleared(tmp_path: Path) -> None:
    left = tmp_path / "out.partial"
    left.mkdir()
    (left / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputError, match="out.partial is in the way"):
        write(tmp_path / "out")
    assert (left / "thesis.txt").read_text() == "years of work"


def test_an_output_that_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with Staging(tmp_path / "out") as staging:
        (staging.staging / "file").write_text("new")
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "file").write_text("theirs")
        with pytest.raises(OutputError, match="is not empty"):
            staging.publish()
    assert (tmp_path / "out" / "file").read_text() == "theirs"
    assert not (tmp_path / "out.partial").exists()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="out.partial cannot be written"):
        write(tmp_path / "file" / "out")


def test_side_files_of_the_original_are_copied(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("tokenizer.json", "LICENSE", "config.json", "model.safetensors"):
        (source / name).write_text(name)
    with Staging(tmp_path / "out") as staging:
        staging.copy_side_files(source)
        staging.publish()
    found = {path.name: path.read_text() for path in (tmp_path / "out").iterdir()}
    assert found == {name: name for name in ("tokenizer.json", "LICENSE")}


def test_two_at_a_time_are_refused_and_the_first_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with Staging(folder) as first:
        (first.staging / "kept").write_text("x")
        with pytest.raises(OutputError, match="another run is at work on"), Staging(folder):
            pass
        assert (first.staging / "kept").read_text() == "x"
        first.publish()
    assert (folder / "kept").read_text() == "x"
    # And it can be built again where it is gone.
    shutil.rmtree(folder)
    with Staging(folder) as again:
        again.publish()


def test_an_error_of_the_system_is_one_of_ours_and_nothing_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with (
        pytest.raises(OutputError, match=r"out cannot be written: .*No space left"),
        Staging(folder),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_writes_and_the_others_end_with_a_sentence(tmp_path: Path) -> None:
    for turn in range(5):
        folder = tmp_path / f"{turn}" / "out"
        folder.parent.mkdir()
        if turn % 2:
            # What an earlier run left is cleared by one of them alone.
            left = folder.with_name("out.partial")
            left.mkdir()
            (left / MARKER).write_text("")
            (left / "weights").write_text("old")
        begin = time.time() + 0.05
        children = [fork_and_write(folder, begin, number) for number in range(6)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        assert sorted(set(codes)) == [0, 8]
        assert codes.count(0) == 1
        assert [path.name for path in folder.parent.iterdir()] == ["out"]
        assert (folder / "mine").read_text() == f"{codes.index(0)}"
        assert [path.name for path in folder.iterdir()] == ["mine"]


def fork_and_write(folder: Path, begin: float, number: int) -> int:
    """Write an output in a process of its own, from a moment on; returns the process."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        time.sleep(max(0.0, begin - time.time()))
        with Staging(folder) as staging:
            (staging.staging / "mine").write_text(f"{number}")
            time.sleep(0.02)
            assert (staging.staging / "mine").read_text() == f"{number}"
            staging.publish()
        code = 0
    except OutputError as error:
        code = error.exit_code
    finally:
        os._exit(code)


def test_what_an_earlier_run_left_and_cannot_be_deleted_is_not_built_on(tmp_path: Path) -> None:
    left = tmp_path / "out.partial" / "part"
    left.mkdir(parents=True)
    (left.parent / MARKER).write_text("")
    with (
        faults.faulty_disk("failing", at=3),
        pytest.raises(OutputError, match="part, which an earlier run left .* cannot be deleted"),
        Staging(tmp_path / "out"),
    ):
        pass
    assert not (tmp_path / "out").exists()
