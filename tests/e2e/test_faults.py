"""A disk that fails at any change of it: an error, nothing that looks whole, and a way to go on.

Every change of the disk of small runs is made to fail in each way that disks have; the run is then
repeated without the fault. What it writes has the bytes of an undisturbed run.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

import pytest

from autoround.export.staging import MARKER
from autoround.model.files.origin import CARD_FILE

from ..faults import Fault, count, faulty_disk
from ..jobs import JOBS, Inputs, Job, command, make_inputs
from ..runs import content, even_device, one_core

__all__ = ["even_device"]

#: Points of a fault in the fast sample, by job.
SAMPLED = {"auto_round": 2, "gguf": 2, "convert": 2, "allocate": 2}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    with one_core():
        return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize("name", SAMPLED)
def test_a_disk_that_fails_at_some_changes(
    name: str, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_and_repeat(JOBS[name], inputs, tmp_path, monkeypatch, points=SAMPLED[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", JOBS)
def test_a_disk_that_fails_at_every_change(
    name: str, inputs: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = fail_and_repeat(JOBS[name], inputs, tmp_path, monkeypatch, points=0)
    print(f"{name}: {sum(done[kind] for kind in Fault.KINDS)} faults: {dict(done)}")


def spread(places: list[int], points: int) -> list[int]:
    """Choose so many of some places, evenly; all of them for 0."""
    if not points or points >= len(places):
        return places
    return [places[int((i + 0.5) * len(places) / points)] for i in range(points)]


def fail_and_repeat(
    job: Job, inputs: Inputs, folder: Path, patch: pytest.MonkeyPatch, *, points: int
) -> Counter[str]:
    """Let a command fail at changes of the disk, repeat it, and compare.

    points: of each kind of fault, spread over the run; 0 for every change there is.
    Returns how many faults of each kind there were, and how the commands ended.
    """
    beside = folder / "temporary"
    beside.mkdir()
    patch.setattr(tempfile, "tempdir", str(beside))
    whole = folder / "whole"
    whole.mkdir()
    calls = count(lambda: command(job.words(inputs, whole)))
    expected = job.result(whole)
    assert expected
    done: Counter[str] = Counter()
    wrong: list[str] = []
    chosen = [(k, n) for k in Fault.KINDS for n in spread(Fault.places(k, calls), points)]
    # Whichever part of them somebody has time for is spread over the run.
    random.Random(0).shuffle(chosen)
    for kind, at in chosen:
        place = folder / f"{kind}-{at}"
        place.mkdir()
        with faulty_disk(kind, at=at) as fault:
            ended = command(job.words(inputs, place))
        assert fault.met, (kind, at)
        done.update([kind, f"exit {ended.code}"])
        wanted = expected
        if ended.code == 0 and "no report of" in ended.out:
            # A model is whole without its card, and the run warns. The card may be there even so:
            # what failed was to sync its name.
            there = job.result(place)
            wanted = {n: x for n, x in expected.items() if n in there or Path(n).name != CARD_FILE}
        try:
            look_at(job, place, wanted, code=ended.code, err=ended.err, where=ended.err)
            # Where nothing is left, going on is the undisturbed run: it is tried now and then.
            if any(place.iterdir()) or sum(done[k] for k in Fault.KINDS) % 10 == 0:
                done["repeated"] += 1
                go_on(job, inputs, place, wanted, ended.err)
        except AssertionError as error:
            # All of them: one weakness shows at several changes.
            wrong.append(f"{kind} at {at}, {calls[at - 1]}: {error}")
            print(wrong[-1], flush=True)
        shutil.rmtree(place)
        if sum(done[k] for k in Fault.KINDS) % 20 == 0:
            print(f"of {len(chosen)}: {dict(done)}", flush=True)
    assert not wrong, "\n\n".join(wrong)
    return done


def look_at(
    job: Job, place: Path, expected: dict[str, bytes], *, code: int, err: str, where: str
) -> None:
    """Check that a command ended with a sentence or its result, and left nothing in between."""
    assert "Traceback" not in err, where
    assert "did not foresee" not in err, where
    if code == 0:
        # What failed was of no consequence: something could not be deleted, or described.
        assert job.result(place) == expected, where
    else:
        assert code == 8, where
        assert err.splitlines()[-1].startswith(("error: ", "1 finished", "2 finished")), where
        assert any(line.startswith("error: ") for line in err.splitlines()), where
    if not job.output:
        result = job.result(place)
        for name in expected.keys() & result.keys():
            assert result[name] == expected[name], (where, name)
        return
    for config in place.rglob("config.json"):
        if not (config.parent / MARKER).exists() and not (config.parents[1] / MARKER).exists():
            whole = place / "out" if (place / "out").exists() else place / "out.partial"
            assert content(whole) == expected, where


def go_on(job: Job, inputs: Inputs, place: Path, expected: dict[str, bytes], where: str) -> None:
    """Repeat a command without a fault, and compare."""
    if job.resume or not (place / (job.output or "none")).exists():
        again = command([*job.words(inputs, place), *job.resume])
        if "is in the way" in again.err:
            # Between its last mark and its name, a conversion looks like anybody's model: it is
            # whole, it is not deleted, and the sentence says to move it.
            assert content(place / "out.partial") == expected, where
            shutil.rmtree(place / "out.partial")
            again = command(job.words(inputs, place))
        assert again.code == 0, (where, again.err)
    assert job.result(place) == expected, where
    left = {path.name for path in place.iterdir()}
    assert left == ({job.output} if job.output else set(expected)), where
