"""The one table of recipe keys that have an option and a Python argument of their own.

The command line builds its options from it, the Python interface maps its arguments by it. It
imports nothing, so that ``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def _pass_on(value: Any) -> object:
    return value


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")]


@dataclass(frozen=True, slots=True)
class Flag:
    """A recipe key with a name of its own.

    Attributes:
        name: the argument in Python; with dashes, the option.
        key: dotted path in a recipe.
        kind: type of its values; bool makes a pair of options, one for each value.
        help: one sentence for ``--help``.
        spellings: the options where they are not ``--name`` with dashes and with underscores;
            ``--on/--off`` is such a pair. The first one is that of error messages.
        read: makes the value of the recipe key from that of the option.
    """

    name: str
    key: str
    kind: type
    help: str
    spellings: tuple[str, ...] = ()
    read: Callable[[Any], object] = _pass_on

    @property
    def options(self) -> tuple[str, ...]:
        """All spellings of the option; dashes and underscores both are common in this field."""
        if self.spellings:
            return self.spellings
        return tuple(dict.fromkeys((f"--{self.name.replace('_', '-')}", f"--{self.name}")))

    def as_typed(self, value: object) -> str:
        """Return the option with a value the way it was typed, for error messages."""
        on, _, off = self.options[0].partition("/")
        if off:
            return on if value else off
        return f"{on} {value}"


#: What ``quantize``, ``plan`` and :class:`autoround.AutoRound` take, in the order of ``--help``.
FLAGS = (
    Flag("bits", "scheme.bits", int, "Bits per weight, 2 to 8."),
    Flag(
        "group_size",
        "scheme.group_size",
        int,
        "Weights per scale; -1 one scale per channel, 0 one per tensor.",
    ),
    Flag(
        "sym",
        "scheme.sym",
        bool,
        "Symmetric grid, or one with zero points.",
        spellings=("--sym/--asym",),
    ),
    Flag("iters", "tuning.iters", int, "Tuning steps per block; 0 does not tune."),
    Flag("lr", "tuning.lr", float, "Learning rate of the rounding offsets."),
    Flag("minmax_lr", "tuning.minmax_lr", float, "Learning rate of min_scale and max_scale."),
    Flag("batch_size", "tuning.batch_size", int, "Samples per forward pass."),
    Flag(
        "gradient_accumulate_steps",
        "tuning.gradient_accumulate_steps",
        int,
        "Forward passes whose gradients make one step.",
    ),
    Flag(
        "low_memory",
        "tuning.low_memory",
        bool,
        "Take the least memory of the device: one sample at a time; slower, the same result.",
        # The last one is the field's name for it.
        spellings=("--low-memory/--no-low-memory", "--low_memory", "--low_gpu_mem_usage"),
    ),
    Flag("threads", "tuning.threads", int, "Threads of the processor; by default its cores."),
    Flag("nsamples", "calibration.nsamples", int, "Calibration samples."),
    Flag("seqlen", "calibration.seqlen", int, "Tokens per sample."),
    Flag(
        "dataset",
        "calibration.dataset",
        str,
        "Calibration text: a .txt/.jsonl/.json/.parquet file, a hub dataset, or "
        "'embedded'; several with commas, options with colons (see docs/data.md).",
    ),
    Flag(
        "format",
        "output.format",
        str,
        "Layout on disk: auto_round, auto_gptq, auto_awq, …; or several, by commas.",
    ),
    Flag("seed", "seed", int, "Seed of every random choice."),
    Flag(
        "allow_partial",
        "allow_partial",
        bool,
        "Quantize although more than a third of the blocks' weights stay in 16 bit.",
        spellings=("--allow-partial/--no-allow-partial", "--allow_partial"),
    ),
)

#: What ``allocate`` alone takes: budgets, and what they are met with.
BUDGET_FLAGS = (
    Flag("avg_bits", "allocate.avg_bits", float, "Budget: bits per weight, scales counted."),
    Flag("target_size", "allocate.target_size", str, "Budget: size of it all, as 3.8GB."),
    Flag("max_kl", "allocate.max_kl", float, "Budget: predicted KL divergence; least size."),
    Flag(
        "options",
        "allocate.options",
        str,
        "What layers may be held in, as W2,W3,W4g64,16.",
        read=_split,
    ),
    Flag(
        "save",
        "allocate.scores",
        Path,
        "File of scores: read if it is there, else written.",
        read=str,
    ),
)


def flags_named(*names: str) -> tuple[Flag, ...]:
    """Return those rows of ``FLAGS``, in the order of the names."""
    rows = {flag.name: flag for flag in FLAGS}
    return tuple(rows[name] for name in names)
