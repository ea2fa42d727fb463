"""Feed damaged files to what reads them: fuzz.py [MINUTES] [--only WORD] [--seed N] [--found DIR].

Files that are right (recipes, configs, indexes, headers, GGUF, journals, scores, datasets,
tokenizers) are changed: bytes flipped, cut, doubled and swapped, numbers made huge, values
exchanged for others. Reading one has to end, in SECONDS and within MEMORY, with a result or with an
error of this package. Whatever else comes is written to --found as a file, and ends the command
with 1. Prints how many inputs each reader was given.

Where atheris is installed, the readers' branches guide the changes, a process for each reader;
elsewhere they are drawn at random.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import importlib.util
import json
import random
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from autoround.errors import AutoRoundError

if TYPE_CHECKING:
    from tools.fuzz_targets import Target

#: Seconds of a processor that one input may take, and bytes of memory that the process may hold.
SECONDS, MEMORY = 10, 8 << 30
#: Inputs that a reader gets in turn.
TURN = 20
#: Packages whose branches guide the changes.
GUIDING = ("autoround",)
#: Where files are written without a disk, if the system has it.
QUICK = Path("/dev/shm")
#: What numbers and texts are exchanged for.
NUMBERS = (0, -1, 1, 2, 255, 2**31, 2**32, 2**53, 2**63, 2**64 - 1, 10**30, 1e308, -0.5)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, "", "x", "\x1b[2J", "\u202e", "(a+)+$", "../x", "/etc/passwd"),
    *([], {}, [[]], {"": None}, "x" * 5000, "\ud800"),
)
#: Bytes that readers look for.
WORDS = (
    *(b"\xff" * 8, b"\0" * 8, b"{", b"[" * 200, b'"', b"\n", b"1e999", b"- " * 50),
    *(b"\\u0000", b'"\\U00110000"', b"\\x", b"&a *a", b"!!python/object:os.system x"),
)


class TooLongError(Exception):
    """An input took longer than it may."""


def mutate(data: bytes, rng: random.Random) -> bytes:
    """Return bytes with a few changes.

    Args:
        data: a file that is right.
        rng: draws the changes.
    """
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at, size = rng.randrange(len(changed) + 1), rng.choice((1, 2, 4, 8, 32))
        match rng.randrange(7):
            case 0:
                changed[at : at + size] = rng.randbytes(size)
            case 1:
                del changed[at : at + size * 4]
            case 2:
                changed[at:at] = rng.choice(WORDS)
            case 3:
                changed[at : at + 8] = struct.pack("<Q", rng.choice((2**63, 2**40, 2**32, 7)))
            case 4:
                other = rng.randrange(len(changed) + 1)
                changed[at:at] = changed[other : other + size * 8]
            case 5 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case _:
                changed = changed[:at]
    return bytes(changed)


def mutate_json(data: bytes, rng: random.Random) -> bytes:
    """Return JSON with a few values exchanged, added or gone.

    Args:
        data: JSON that is right.
        rng: draws the changes.
    """
    value = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(list_places(value))
        if not places:
            break
        parent, key = rng.choice(places)
        match rng.randrange(4):
            case 0:
                parent[key] = rng.choice(NUMBERS)
            case 1:
                parent[key] = copy.deepcopy(rng.choice(OTHERS))
            case 2 if isinstance(parent, dict):
                del parent[key]
            case _:
                # A value from elsewhere in the same file.
                other, place = rng.choice(places)
                there = isinstance(other, dict) and place in other
                parent[key] = copy.deepcopy(other[place]) if there else rng.choice(NUMBERS)
    return json.dumps(value).encode("utf-8", "surrogatepass")


def list_places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in list(items):
        yield value, key
        if isinstance(item, dict | list):
            yield from list_places(item)


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    def ring(number: int, frame: object) -> None:
        raise TooLongError

    signal.signal(signal.SIGPROF, ring)


def try_one(target: Target, folder: Path, data: bytes) -> str:
    """Give a reader one input.

    Args:
        target: the reader.
        folder: empty; what it writes there is deleted.
        data: the file's content.

    Returns:
        What came that must not, in words; empty where nothing did.
    """
    # Of a processor: those of a clock depend on who else is busy.
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        target.read(folder, data)
    except AutoRoundError as error:
        # Said to people, so it has to be text that can be said.
        return "" if str(error).strip() else "an error without words"
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return ""


class Findings:
    """What readers did that they must not, each kind once, as files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kinds: set[str] = set()

    def note(self, name: str, data: bytes, wrong: str) -> None:
        """Keep an input, if it is the first of its kind.

        Args:
            name: of the target.
            data: the input.
            wrong: what came, in words.
        """
        kind = f"{name}: {wrong[:60]}"
        if kind in self._kinds:
            return
        self._kinds.add(kind)
        self._folder.mkdir(parents=True, exist_ok=True)
        file = self._folder / f"{name}-{hashlib.sha256(data).hexdigest()[:12]}"
        file.write_bytes(data)
        print(f"{file.name}: {wrong}", flush=True)

    def __len__(self) -> int:
        return len(self._kinds)


def make_scratch() -> tempfile.TemporaryDirectory[str]:
    """Return a folder for inputs, in memory where the system has such a place."""
    return tempfile.TemporaryDirectory(dir=QUICK if QUICK.is_dir() else None)


def fuzz_at_random(chosen: dict[str, Target], *, minutes: float, seed: int, found: Path) -> bool:
    """Draw changes for some minutes; returns whether there are findings."""
    rng, findings = random.Random(seed), Findings(found)
    tries: Counter[str] = Counter()
    spent = dict.fromkeys(chosen, 0.0)
    end = time.monotonic() + 60 * minutes
    with make_scratch() as scratch:
        folder = Path(scratch) / "x"
        folder.mkdir()
        while time.monotonic() < end:
            # The reader that had the least time so far: quick ones get more inputs.
            name = min(chosen, key=lambda name: spent[name])
            target, started = chosen[name], time.process_time()
            for _ in range(TURN):
                seed_file = rng.choice(target.seeds)
                by_value = target.as_json and rng.random() < 0.7
                data = mutate_json(seed_file, rng) if by_value else mutate(seed_file, rng)
                wrong = try_one(target, folder, data)
                if wrong:
                    findings.note(name, data, wrong)
            tries[name] += TURN
            spent[name] += time.process_time() - started
    print(f"seed {seed}: {sum(tries.values())} inputs, {len(findings)} findings; {dict(tries)}")
    return bool(findings)


def fuzz_guided(names: list[str], *, minutes: float, seed: int, found: Path) -> bool:
    """Let atheris choose changes, a process for each reader; returns whether there are findings."""
    tries: dict[str, int] = {}
    wrong = False
    for name in names:
        seconds = max(1, round(60 * minutes / len(names)))
        options = ["--one", name, str(seconds / 60), "--seed", str(seed), "--found", str(found)]
        command = [sys.executable, __file__, *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        runs = re.search(r"Done (\d+) runs", done.stderr)
        tries[name] = int(runs[1]) if runs else 0
        print(done.stdout, end="", flush=True)
        if runs is None:
            print(f"{name}: ended early: {done.stderr[-2000:]}")
        wrong = wrong or runs is None or bool(done.stdout.strip())
    print(f"seed {seed}, guided: {sum(tries.values())} inputs; {tries}")
    return wrong


def guide_one(name: str, *, minutes: float, seed: int, found: Path) -> None:
    """Let atheris fuzz one reader; it ends the process."""
    import atheris

    with atheris.instrument_imports(include=list(GUIDING)):
        from tools.fuzz_targets import corpus, targets

        target = targets()[name]
        for data in target.seeds:  # what a reader imports late is instrumented as well
            with make_scratch() as once:
                try_one(target, Path(once), data)
    findings, scratch = Findings(found), make_scratch()
    folder = Path(scratch.name) / "x"
    folder.mkdir()

    def feed(data: bytes) -> None:
        wrong = try_one(target, folder, data)
        if wrong:
            findings.note(name, data, wrong)

    def change(data: bytes, most: int, number: int) -> bytes:
        rng = random.Random(number)
        try:
            if rng.random() < 0.5:
                return mutate_json(data, rng)[:most]
        except (ValueError, RecursionError, KeyError, TypeError, IndexError):
            pass
        changed: bytes = atheris.Mutate(data, most)
        return changed

    seeds = Path(scratch.name) / "seeds"
    seeds.mkdir()
    for number, data in enumerate((*target.seeds, *(p.read_bytes() for p in corpus(name)))):
        (seeds / str(number)).write_bytes(data)
    longest = 4 * max(map(len, target.seeds))
    limits = ["-timeout=0", "-rss_limit_mb=0", f"-max_len={longest}", "-len_control=0"]
    limits += [f"-max_total_time={max(1, round(60 * minutes))}", f"-seed={seed % 2**31 or 1}"]
    options = {"custom_mutator": change} if target.as_json else {}
    atheris.Setup([sys.argv[0], *limits, str(seeds)], feed, **options)
    atheris.Fuzz()


def main() -> None:
    """Fuzz for some minutes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("minutes", type=float, nargs="?", default=1.0)
    parser.add_argument("--only", default="", help="readers with that in their names")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--found", type=Path, default=Path("out/fuzz"))
    parser.add_argument("--random", action="store_true", help="not guided, even with atheris")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if args.seed is None else args.seed
    _limit()
    options: dict[str, Any] = {"minutes": args.minutes, "seed": seed, "found": args.found}
    if args.one:
        guide_one(args.one, **options)
    from tools.fuzz_targets import targets

    chosen = {name: target for name, target in targets().items() if args.only in name}
    if args.random or importlib.util.find_spec("atheris") is None:
        sys.exit(fuzz_at_random(chosen, **options))
    sys.exit(fuzz_guided(list(chosen), **options))


if __name__ == "__main__":
    main()
