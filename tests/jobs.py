"""Commands on a tiny model whose output can be compared: what faults and signals are tried on."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .runs import content
from .tiny import make_byte_tokenizer, make_model

TEXT = "the quick brown fox jumps over the lazy dog, again and again\n"
#: What makes a run on the tiny model take a second.
SHORT = (
    *("--nsamples", "4", "--seqlen", "16", "--batch-size", "2", "--group-size", "32"),
    *("--device", "cpu", "--set", "tuning.compute_dtype=float32", "--set", "tuning.threads=1"),
)
TUNED = (
    *("--iters", "2", "--set", "tuning.num_validations=1"),
    *("--set", "tuning.validation_samples=2"),
)


@dataclass(frozen=True)
class Ended:
    """How a command ended and what it printed."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Inputs:
    """What the commands work on.

    model: a checkpoint. text: to calibrate on. quantized: in the format auto_round.
    """

    model: Path
    text: Path
    quantized: Path


@dataclass(frozen=True)
class Job:
    """A command that writes into a folder.

    words: its arguments, given the inputs and the folder. output: of the folder's entries, the one
    that is a model; empty where files are written. resume: what goes on after an end.
    """

    words: Callable[[Inputs, Path], list[str]]
    output: str = "out"
    resume: tuple[str, ...] = ()

    def result(self, folder: Path) -> dict[str, bytes]:
        """Return what the command wrote, less what it measures anew each time."""
        if self.output:
            return content(folder / self.output) if (folder / self.output).is_dir() else {}
        found = {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
        for name in [name for name in found if name.endswith(".json")]:
            rest = json.loads(found[name])
            found[name] = json.dumps({**rest, "seconds": 0, "peak_bytes": 0}).encode()
        return found


def _quantize(*more: str) -> Callable[[Inputs, Path], list[str]]:
    def words(inputs: Inputs, folder: Path) -> list[str]:
        given = ["quantize", inputs.model, "--dataset", inputs.text, *SHORT, *more]
        return [*map(str, given), "-o", str(folder / "out")]

    return words


def _convert(inputs: Inputs, folder: Path) -> list[str]:
    return ["convert", str(inputs.quantized), "--to", "auto_gptq", "-o", str(folder / "out")]


def _allocate(inputs: Inputs, folder: Path) -> list[str]:
    written = {"--save": "scores.json", "--export": "mixed.yaml", "--plot": "curve.svg"}
    files = [word for flag, name in written.items() for word in (flag, str(folder / name))]
    budget = ["--avg-bits", "4", "--options", "W3,W4", "--set", "scheme.group_size=32"]
    data = ["--dataset", str(inputs.text), "--nsamples", "4", "--seqlen", "16", "--device", "cpu"]
    return ["allocate", str(inputs.model), *data, *budget, *files]


RESUME = ("--resume",)
JOBS = {
    "auto_round": Job(_quantize(*TUNED), resume=RESUME),
    "gguf": Job(_quantize(*TUNED, "--format", "gguf:q4_0"), resume=RESUME),
    "two formats": Job(_quantize(*TUNED, "--format", "auto_round,gguf:q4_0"), resume=RESUME),
    "rtn": Job(_quantize("--recipe", "rtn"), resume=RESUME),
    "convert": Job(_convert),
    "allocate": Job(_allocate, output=""),
}


def make_inputs(folder: Path) -> Inputs:
    """Make a model, a text and a quantized model."""
    model, text = folder / "model", folder / "text.txt"
    make_model("llama").save_pretrained(model)
    make_byte_tokenizer().save_pretrained(model)
    text.write_text(TEXT * 12)
    inputs = Inputs(model, text, folder / "out")
    done = command(JOBS["auto_round"].words(inputs, folder))
    assert done.code == 0, done.err
    return inputs


def command(words: list[str]) -> Ended:
    """Run a command in this process."""
    from autoround.cli.main import run

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run(words)
    return Ended(code, out.getvalue(), err.getvalue())
