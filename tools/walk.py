"""Count the walk from `autoround quantize` to its first fake-quantize: walk.py TREE...

Runs a tiny model once with each tree on the path, in a process of its own, and prints

frames      functions of the project that are on the stack there, from main to fake_quantize;
way         those, and the functions that they have called until then: what is read to follow it;
named hops  functions entered until then that hand data on, that is, call another one of the
            project, in the rooms that make up a run (cli, api, pipeline, planning, tuning, ...; not
            what these use: core, model, data, recipe, formats, device, report, ...).

A function counts once. Lambdas, comprehensions and methods with two underscores do not count: what
these call is their caller's; nor does what runs while a module is imported. --list prints the names
as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
#: Where the walk ends.
END = "fake_quantize"
#: Packages and modules of autoround/ that serve a run, and are read for their own sake.
SERVING = frozenset(
    {
        *("core", "data", "device", "evaluate", "formats", "gguf", "inference", "model", "recipe"),
        *("report", "errors", "events", "settings", "types", "_version", "__init__"),
    }
)
#: What is called for code of backends, which serves a run too.
BACKENDS = "backends"
TEXT = "the quick brown fox jumps over the lazy dog, again and again\n" * 12
#: Options that make a run small; all of them are in every tree.
OPTIONS = (
    *("--group-size", "32", "--iters", "2", "--nsamples", "4", "--seqlen", "16"),
    *("--set", "tuning.compute_dtype=float32", "--device", "cpu"),
)
#: Seconds that one run may take.
LIMIT_S = 300


class Function(NamedTuple):
    """A function of the project: its file in the tree, its name, and its first line."""

    file: str
    name: str
    line: int

    @property
    def room(self) -> str:
        """The package, or the module, of autoround/ that it is in."""
        parts = Path(self.file).with_suffix("").parts
        return parts[1] if parts[0] == "autoround" else BACKENDS

    @property
    def named(self) -> bool:
        """Whether it has a name that a reader meets."""
        return not self.name.startswith(("<", "__"))


@dataclass
class Walk:
    """What was entered until the end of the way: functions, who called whom, and the stack."""

    entered: dict[Function, None] = field(default_factory=dict)
    calls: set[tuple[Function, Function]] = field(default_factory=set)
    stack: list[Function] = field(default_factory=list)

    def way(self) -> list[Function]:
        """Return the functions on the stack with all that they have called, in order."""
        called = {callee for caller, callee in self.calls if caller in self.stack}
        return [x for x in self.entered if x in called or x in self.stack]

    def hops(self) -> list[Function]:
        """Return the functions of a run's own rooms that call others, in order."""
        callers = {caller for caller, _ in self.calls}
        return [
            x
            for x in self.entered
            if x.room not in SERVING and x.room != BACKENDS and (x in callers or x in self.stack)
        ]


class Recorder:
    """A profile function that notes calls of a tree's functions until the first fake-quantize."""

    def __init__(self, tree: Path) -> None:
        self.walk = Walk()
        self._folders = tuple(f"{tree / name}{os.sep}" for name in ("autoround", "backends"))
        self._start = len(str(tree)) + 1

    def __call__(self, frame: types.FrameType, event: str, _: object) -> None:
        if event != "call" or self.walk.stack:
            return
        function = self._function(frame)
        if function is None or not function.named:
            return
        callers = self._callers(frame.f_back)
        if any(caller.name == "<module>" for caller in callers):
            return
        callers = [caller for caller in callers if caller.named]
        self.walk.entered.setdefault(function)
        if callers:
            self.walk.calls.add((callers[0], function))
        if function.name == END:
            self.walk.stack = [function, *callers][::-1]

    def _function(self, frame: types.FrameType) -> Function | None:
        code = frame.f_code
        if not code.co_filename.startswith(self._folders):
            return None
        file = code.co_filename[self._start :].replace(os.sep, "/")
        return Function(file, code.co_name, code.co_firstlineno)

    def _callers(self, frame: types.FrameType | None) -> list[Function]:
        """Return the project's functions on the stack, the innermost first."""
        callers = []
        while frame is not None:
            function = self._function(frame)
            if function is not None:
                callers.append(function)
            frame = frame.f_back
        return callers


def record(tree: Path, work: Path) -> Walk:
    """Run the command line of the tree that is on the path, and note its walk."""
    from autoround.cli import main

    if not Path(main.__file__).is_relative_to(tree):
        raise SystemExit(f"autoround was imported from {main.__file__}, not from {tree}")
    recorder = Recorder(tree)
    arguments = ["quantize", str(work / "model"), "--dataset", str(work / "text.txt"), *OPTIONS]
    sys.setprofile(recorder)
    try:
        # Where the console script enters: in older trees at one that exits.
        entry = getattr(main, "main", main.run)
        entry([*arguments, "--output-dir", str(work / "out")])
    except SystemExit as end:
        if end.code:
            raise
    finally:
        sys.setprofile(None)
    if not recorder.walk.stack:
        raise SystemExit(f"no call of {END} was seen")
    return recorder.walk


def walk_of(tree: Path, model: Path) -> Walk:
    """Record a tree's walk in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "model").symlink_to(model, target_is_directory=True)
        (work / "text.txt").write_text(TEXT, encoding="utf-8")
        environment = {
            **os.environ,
            "PYTHONPATH": f"{tree}{os.pathsep}{tree / 'backends'}",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        command = [sys.executable, str(Path(__file__).resolve()), "--inside", folder, str(tree)]
        done = subprocess.run(
            command, env=environment, cwd=work, capture_output=True, text=True, timeout=LIMIT_S
        )
        if done.returncode:
            raise SystemExit(f"walk: the run of {tree} failed:\n{done.stdout}{done.stderr}")
        return from_json((work / "walk.json").read_text(encoding="utf-8"))


def to_json(walk: Walk) -> str:
    """Write a walk as text, functions by their number."""
    numbers = {function: number for number, function in enumerate(walk.entered)}
    calls = sorted([numbers[a], numbers[b]] for a, b in walk.calls)
    stack = [numbers[x] for x in walk.stack]
    return json.dumps({"entered": list(walk.entered), "calls": calls, "stack": stack})


def from_json(text: str) -> Walk:
    """Read what :func:`to_json` wrote."""
    read = json.loads(text)
    entered = [Function(*x) for x in read["entered"]]
    calls = {(entered[a], entered[b]) for a, b in read["calls"]}
    return Walk(dict.fromkeys(entered), calls, [entered[x] for x in read["stack"]])


def table(walks: Mapping[str, Walk], *, listed: bool) -> str:
    """Return a markdown table of the counts, and below it the names where these are listed."""
    rooms = {name: Counter(x.room for x in walk.hops()) for name, walk in walks.items()}
    rows = [
        ("frames", [len(walk.stack) for walk in walks.values()]),
        ("way", [len(walk.way()) for walk in walks.values()]),
        ("named hops", [len(walk.hops()) for walk in walks.values()]),
        *(
            (f"- in {room}", [count[room] for count in rooms.values()])
            for room in sorted({room for count in rooms.values() for room in count})
        ),
        ("all functions entered", [len(walk.entered) for walk in walks.values()]),
    ]
    lines = [f"| | {' | '.join(walks)} |", f"|---|{'---|' * len(walks)}"]
    lines += [f"| {name} | {' | '.join(map(str, counts))} |" for name, counts in rows]
    for name, walk in walks.items() if listed else ():
        for title, functions in (
            ("frames", walk.stack),
            ("way", walk.way()),
            ("named hops", walk.hops()),
        ):
            lines += ["", f"{name}, {title}:"]
            lines += [f"- {x.file}:{x.line} {x.name}" for x in functions]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Walk through every tree named and print the counts; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trees", nargs="+", type=Path, metavar="TREE")
    parser.add_argument("--list", action="store_true", dest="listed")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    trees = [tree.resolve() for tree in options.trees]
    if options.inside is not None:
        walk = record(trees[0], options.inside)
        (options.inside / "walk.json").write_text(to_json(walk), encoding="utf-8")
        return 0
    sys.path.insert(0, str(ROOT))
    from tests.tiny import write_checkpoint

    with tempfile.TemporaryDirectory() as folder:
        model = write_checkpoint("llama", Path(folder) / "model", tokenizer=True)
        walks = {
            str(name): walk_of(tree, model) for name, tree in zip(options.trees, trees, strict=True)
        }
    print(table(walks, listed=options.listed))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
