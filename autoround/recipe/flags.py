"""The one table of recipe keys that have an option and a Python argument of their own.

The command line builds its options from it, the Python interface maps its arguments by it. It
imports only what reads values, so that ``--help`` stays quick.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.errors import UsageError
from autoround.recipe.auto_round_words import (
    read_head_bits,
    read_ignored,
    read_layer_rules,
    read_options,
    read_scheme,
)

#: Letters of a value that are repeated in a message.
_SHOWN = 80


def _pass_on(value: Any) -> object:
    return value


def option_spellings(name: str) -> tuple[str, ...]:
    """Return the options that a name has: with dashes, and with underscores where these differ.

    Args:
        name: of an argument.
    """
    return tuple(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


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
        read: makes the value of the recipe key from that of the option; a ValueError says why it
            cannot.
        aliases: other names that the field has for it, as arguments and as options; ``--help``
            leaves them out.
        appended: whether the value goes behind the entries of the recipe's list, not in its place.
        argument: the type of the Python argument, where it is not ``kind``.
    """

    name: str
    key: str
    kind: type
    help: str
    spellings: tuple[str, ...] = ()
    read: Callable[[Any], object] = _pass_on
    aliases: tuple[str, ...] = ()
    appended: bool = False
    argument: str = ""

    @property
    def options(self) -> tuple[str, ...]:
        """All spellings of the option; dashes and underscores both are common in this field."""
        return self.spellings or option_spellings(self.name)

    def as_typed(self, value: object) -> str:
        """Return the option with a value the way it was typed, for error messages."""
        on, _, off = self.options[0].partition("/")
        if off:
            return on if value else off
        return f"{on} {value}"


#: What ``quantize``, ``plan`` and :class:`autoround.AutoRound` take, in the order of ``--help``.
FLAGS = (
    Flag(
        "scheme",
        "scheme",
        str,
        "Bits, group size and symmetry by one name: W2A16 to W8A16, W4A16G64; --bits, "
        "--group-size and --sym win over it.",
        read=read_scheme,
        argument="str | Mapping[str, Any]",
    ),
    Flag("bits", "scheme.bits", int, "Bits per weight, 2 to 8.", aliases=("bit",)),
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
    Flag(
        "layer_config",
        "layers",
        str,
        'Rules for some of the layers, as JSON: {"lm_head": {"bits": 8}}; names, ends of names or '
        "regular expressions.",
        read=read_layer_rules,
        appended=True,
        argument="str | Mapping[str, Any]",
    ),
    Flag(
        "quant_lm_head",
        "lm_head.bits",
        bool,
        "Quantize the output head too, with the bits of the others.",
        spellings=("--quant-lm-head/--no-quant-lm-head", "--quant_lm_head/--no-quant_lm_head"),
        read=read_head_bits,
    ),
    Flag(
        "ignore_layers",
        "ignore",
        str,
        "Layers to keep in 16 bit: names or ends of names, or modules that hold some; commas "
        "between.",
        read=read_ignored,
        aliases=("fp_layers",),
        appended=True,
        argument="str | Sequence[str]",
    ),
    Flag(
        "iters",
        "tuning.iters",
        int,
        "Tuning steps per block; 0 does not tune.",
        aliases=("iter",),
    ),
    Flag("lr", "tuning.lr", float, "Learning rate of the rounding offsets."),
    Flag("minmax_lr", "tuning.minmax_lr", float, "Learning rate of min_scale and max_scale."),
    Flag(
        "batch_size",
        "tuning.batch_size",
        int,
        "Samples per forward pass.",
        aliases=("train_bs", "bs"),
    ),
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
        spellings=("--low-memory/--no-low-memory", "--low_memory"),
        aliases=("low_gpu_mem_usage",),
    ),
    Flag(
        "enable_torch_compile",
        "tuning.compile",
        bool,
        "Compile blocks for their many steps, or never; by default where that is worth it.",
        spellings=(
            "--enable-torch-compile/--disable-torch-compile",
            "--enable_torch_compile/--disable_torch_compile",
        ),
    ),
    Flag("threads", "tuning.threads", int, "Threads of the processor; by default its cores."),
    Flag("nsamples", "calibration.nsamples", int, "Calibration samples.", aliases=("nsample",)),
    Flag("seqlen", "calibration.seqlen", int, "Tokens per sample.", aliases=("seq_len",)),
    Flag(
        "dataset",
        "calibration.dataset",
        str,
        "Calibration text: a .txt/.jsonl/.json/.parquet file, a hub dataset, or "
        "'embedded'; several with commas, options with colons (see docs/data.md).",
        argument="object",
    ),
    Flag(
        "format",
        "output.format",
        str,
        "Layout on disk (docs/formats.md): auto_round, gguf:q4_k_m, …; several with commas.",
        aliases=("formats",),
    ),
    Flag("seed", "seed", int, "Seed of every random choice."),
    Flag(
        "allow_partial",
        "allow_partial",
        bool,
        "Quantize although more than a third of the blocks' weights stay in 16 bit.",
        spellings=("--allow-partial/--no-allow-partial", "--allow_partial"),
    ),
    Flag(
        "eval_text",
        "evaluation.text",
        Path,
        "File to score on; by default held-back embedded text.",
        read=str,
        argument="str | Path",
    ),
    Flag(
        "gate",
        "evaluation.gate",
        str,
        "Bounds that the written result is held to, in quotes: 'ppl<=1.05x,kl<=0.1'; exit code 10 "
        "where it misses one.",
    ),
)

#: Budgets, and what they are met with: of a run, and of ``allocate``, which does nothing else.
BUDGET_FLAGS = (
    Flag(
        "avg_bits",
        "allocate.avg_bits",
        float,
        "Budget: bits per weight, scales counted.",
        aliases=("target_bits",),
    ),
    Flag("target_size", "allocate.target_size", str, "Budget: size of it all, as 3.8GB."),
    Flag("max_kl", "allocate.max_kl", float, "Budget: predicted KL divergence at most."),
    Flag(
        "options",
        "allocate.options",
        str,
        "Schemes that a budget chooses from, as W2,W3,W4g64,16.",
        read=read_options,
        argument="str | Sequence[str]",
    ),
    Flag(
        "scores",
        "allocate.scores",
        Path,
        "File of the layers' scores: read if it is there, else written.",
        spellings=("--save",),
        read=str,
        argument="str | Path",
    ),
)

#: What ``quantize`` and ``plan`` take, and :class:`autoround.AutoRound`: all of them.
RUN_FLAGS = (*FLAGS, *BUDGET_FLAGS)

#: Flags of which a run is given one.
BUDGETS = ("avg_bits", "target_size", "max_kl")

#: Names that auto-round has for arguments of a run that are no keys of a recipe, and ours.
RUN_ALIASES: Mapping[str, tuple[str, ...]] = {
    "model": ("model_name", "model_name_or_path"),
    "output_dir": ("output",),
    "device": ("device_map", "devices"),
}


def flags_named(*names: str) -> tuple[Flag, ...]:
    """Return those rows of ``FLAGS``, in the order of the names."""
    rows = {flag.name: flag for flag in FLAGS}
    return tuple(rows[name] for name in names)


def as_argument(name: str, value: object) -> str:
    """Return an argument of Python as it is repeated in a message.

    Args:
        name: of the argument.
        value: of any kind.
    """
    text = f"{name}={value!r}"
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def choose_spelling(
    given: Mapping[str, Any], name: str, aliases: Iterable[str], *, typed: Callable[[str], str]
) -> Any:
    """Return the value of an argument, by whichever of its names it was given; None for none.

    Args:
        given: values by names; None for those not given.
        name: of the argument here.
        aliases: its other names.
        typed: says a name the way it is given, for the message.

    Raises:
        UsageError: two names have different values.
    """
    named = {key: given.get(key) for key in (name, *aliases) if given.get(key) is not None}
    if not named:
        return None
    first, *others = named
    for other in others:
        if named[other] != named[first]:
            raise UsageError(
                f"{typed(first)} and {typed(other)} are one option, and say different things: "
                f"{named[first]!r} and {named[other]!r}; give one of them"
            )
    return named[first]
