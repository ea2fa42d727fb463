"""Options that several commands share, and how they become a recipe."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

if TYPE_CHECKING:
    from autoround.recipe.schema import Recipe

Bits: TypeAlias = Annotated[int | None, typer.Option("--bits", help="Bits per weight, 2 to 8.")]
GroupSize: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--group-size",
        "--group_size",
        help="Weights per scale; -1 one scale per channel, 0 one per tensor.",
    ),
]
Sym: TypeAlias = Annotated[
    bool | None, typer.Option("--sym/--asym", help="Symmetric grid, or one with zero points.")
]
Iters: TypeAlias = Annotated[
    int | None, typer.Option("--iters", help="Tuning steps per block; 0 does not tune.")
]
Rate: TypeAlias = Annotated[float | None, typer.Option("--lr", help="Step size of the roundings.")]
MinMaxRate: TypeAlias = Annotated[
    float | None,
    typer.Option("--minmax-lr", "--minmax_lr", help="Step size of the clip factors."),
]
Samples: TypeAlias = Annotated[int | None, typer.Option("--nsamples", help="Calibration samples.")]
SeqLen: TypeAlias = Annotated[int | None, typer.Option("--seqlen", help="Tokens per sample.")]
BatchSize: TypeAlias = Annotated[
    int | None, typer.Option("--batch-size", "--batch_size", help="Samples per forward pass.")
]
Accumulate: TypeAlias = Annotated[
    int | None,
    typer.Option(
        "--gradient-accumulate-steps",
        "--gradient_accumulate_steps",
        help="Forward passes whose gradients make one step.",
    ),
]
LowMemory: TypeAlias = Annotated[
    bool | None,
    typer.Option(
        "--low-memory/--no-low-memory",
        "--low_memory",
        "--low_gpu_mem_usage",
        help="Take the least memory of the device: one sample at a time; slower, the same result.",
        show_default=False,
    ),
]
Dataset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--dataset",
        help="Calibration text: a .txt/.jsonl/.json/.parquet file, a hub dataset, or "
        "'embedded'; several with commas, options with colons (see docs/data.md).",
    ),
]
Format: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--format",
        help="Layout on disk: auto_round, auto_gptq, auto_awq, …; or several, by commas.",
    ),
]
Seed: TypeAlias = Annotated[int | None, typer.Option("--seed", help="Seed of every random choice.")]
RecipeName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Built-in recipe (see 'recipes list') or YAML file; 'default', or 'demo' for the "
        "embedded model.",
        show_default=False,
    ),
]
Settings: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Set one key of the recipe; repeatable."),
]
Device: TypeAlias = Annotated[
    str,
    typer.Option(
        "--device",
        help="auto, cpu, or another kind that 'doctor' lists; NAME:1 is the second of a kind.",
    ),
]
MaxMemory: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--max-memory",
        "--max_memory",
        metavar="SIZE",
        help="Memory to use at most, such as 8GB: what exceeds it goes to the disk, and a plan "
        "that cannot keep to it is refused. By default most of what is free.",
        show_default=False,
    ),
]
Backend: TypeAlias = Annotated[
    str,
    typer.Option(
        "--backend", help="Kernel for packed layers, by name (see 'kernels'); auto: the fastest."
    ),
]
ModelArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        metavar="[MODEL]",
        help="Model folder or hub id; without one, the embedded SmolLM2-135M.",
        show_default=False,
    ),
]
ModelOption: TypeAlias = Annotated[
    str | None, typer.Option("--model", help="The same as MODEL.", show_default=False)
]

#: Which key of a recipe each option sets.
PATHS = {
    "bits": "scheme.bits",
    "group_size": "scheme.group_size",
    "sym": "scheme.sym",
    "iters": "tuning.iters",
    "lr": "tuning.lr",
    "minmax_lr": "tuning.minmax_lr",
    "batch_size": "tuning.batch_size",
    "gradient_accumulate_steps": "tuning.gradient_accumulate_steps",
    "low_memory": "tuning.low_memory",
    "nsamples": "calibration.nsamples",
    "seqlen": "calibration.seqlen",
    "dataset": "calibration.dataset",
    "format": "output.format",
    "seed": "seed",
}
#: The same for the options of ``allocate`` alone.
ALLOCATE_PATHS = {
    "avg_bits": "allocate.avg_bits",
    "target_size": "allocate.target_size",
    "max_kl": "allocate.max_kl",
    "options": "allocate.options",
    "save": "allocate.scores",
}


def recipe_for(name: str | None, model: str | None) -> str:
    """Return the recipe that was named, or the one for a model that was or was not."""
    if name is not None:
        return name
    return "demo" if model is None else "default"


def resolve_recipe(
    name: str, flags: Mapping[str, object], *, overrides: Sequence[str] | None
) -> Recipe:
    """Load a recipe with the options that were given on the command line."""
    from autoround.recipe.load import OverrideSource, load_recipe

    values: dict[str, object] = {
        (PATHS | ALLOCATE_PATHS)[flag]: OverrideSource(value, _spell(flag, value))
        for flag, value in flags.items()
        if value is not None
    }
    return load_recipe(name, values=values, overrides=overrides or ())


def _spell(flag: str, value: object) -> str:
    """Write an option the way it was typed, for error messages."""
    if flag == "sym":
        return "--sym" if value else "--asym"
    if flag == "low_memory":
        return "--low-memory" if value else "--no-low-memory"
    return f"--{flag.replace('_', '-')} {value}"


def as_bytes(size: str | None) -> int | None:
    """Read the value of ``--max-memory``.

    Raises:
        UsageError: it is not a size.
    """
    from autoround.errors import UsageError
    from autoround.recipe.values import parse_size

    try:
        return None if size is None else parse_size(size)
    except ValueError as error:
        raise UsageError(f"--max-memory {size}: {error}") from error


@dataclass
class Invocation:
    """What was typed, and what to tell when it ends before it is done."""

    arguments: list[str]
    hint: str = ""

    def to_resume(self) -> str:
        """Return the command line that goes on."""
        others = [word for word in self.arguments if word not in ("--resume", "--restart")]
        return shlex.join(["autoround", *others, "--resume"])


def one_model(positional: str | None, option: str | None) -> str | None:
    """Return the model that was named, in either way.

    Raises:
        UsageError: two different ones were.
    """
    from autoround.errors import UsageError

    if positional is not None and option is not None and positional != option:
        raise UsageError(f"two models are named: {positional!r} and --model {option!r}; name one")
    return positional if positional is not None else option
