"""Options that several commands share, and how they become a recipe."""

from __future__ import annotations

import functools
import inspect
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from autoround.recipe.flags import (
    RUN_ALIASES,
    RUN_FLAGS,
    Flag,
    choose_spelling,
    option_spellings,
)

if TYPE_CHECKING:
    from autoround.recipe.schema import Recipe

Command: TypeAlias = Callable[..., None]
#: Values of options by the names of their flags; None for those that were not given.
FlagValues: TypeAlias = dict[str, Any]


def complete_recipes(incomplete: str) -> list[str]:
    """Return the built-in recipes that a word may become, for completion in a shell.

    Args:
        incomplete: the letters that are typed.
    """
    from autoround.recipe.find import builtin_names

    return [name for name in builtin_names() if name.startswith(incomplete)]


RecipeName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        help="Built-in recipe (see 'recipes list') or YAML file; 'default', or 'demo' for the "
        "embedded model.",
        show_default=False,
        autocompletion=complete_recipes,
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
StreamHub: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--stream-hub",
        "--stream_hub",
        help="For models larger than the disk: fetch each file of weights when it is read, and "
        "delete it when no later block needs it.",
    ),
]
Engines: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--for",
        metavar="ENGINE",
        help="Say what this serving engine or loader does with every format: vllm, sglang, "
        "llama.cpp, mlx, transformers, gptqmodel, auto-round or compressed-tensors; repeatable, or "
        "several with commas.",
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
Revision: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--revision",
        help="Branch, tag or commit of a model on the hub; the same as owner/name@REVISION.",
        show_default=False,
    ),
]


def with_flags(groups: Mapping[str, Sequence[Flag]]) -> Callable[[Command], Command]:
    """Give a command the options of flags, which it takes as one mapping of their values.

    Typer reads options off a signature, so the command gets one with a parameter for each flag
    in place of the parameter that takes their values. Other names of flags, and of what else a
    run takes, become options too, which ``--help`` leaves out.

    Args:
        groups: flags, by the keyword-only parameter that takes their values.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def command_with_flags(*arguments: Any, **options: Any) -> None:
            values = {
                name: {flag.name: _pop_value(options, flag) for flag in flags}
                for name, flags in groups.items()
            }
            for name, aliases in shared.items():
                options[name] = _pop_shared(options, name, aliases, defaults[name])
            command(*arguments, **options, **values)

        # Annotations are texts until somebody evaluates them, and are the command's own module's.
        signature = inspect.signature(command, eval_str=True)
        parameters: list[inspect.Parameter] = []
        shared, defaults = {}, {}
        for parameter in signature.parameters.values():
            flags = groups.get(parameter.name)
            parameters += [parameter] if flags is None else map(_as_parameter, flags)
            aliases = RUN_ALIASES.get(_argument_of(parameter.name), ())
            if flags is None and aliases:
                shared[parameter.name], defaults[parameter.name] = aliases, parameter.default
        hidden = [
            _hidden(alias, flag.kind)
            for flags in groups.values()
            for flag in flags
            for alias in flag.aliases
        ]
        hidden += [_hidden(alias, str) for aliases in shared.values() for alias in aliases]
        parameters += hidden
        command_with_flags.__signature__ = signature.replace(  # type: ignore[attr-defined]
            parameters=parameters
        )
        command_with_flags.__annotations__ = {p.name: p.annotation for p in parameters}
        return command_with_flags

    return decorate


def _as_parameter(flag: Flag) -> inspect.Parameter:
    """Return a parameter that typer makes the option of a flag of."""
    return inspect.Parameter(
        flag.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, *flag.options, help=flag.help),
        annotation=flag.kind | None,
    )


#: Parameters of commands that have another name than the argument in Python.
_PARAMETERS = {"model_option": "model"}


def _argument_of(parameter: str) -> str:
    """Return the name in the table of aliases of a command's parameter; the MODEL has none."""
    return "" if parameter == "model" else _PARAMETERS.get(parameter, parameter)


def _hidden(alias: str, kind: type) -> inspect.Parameter:
    """Return a parameter for another name of an option, which the help leaves out."""
    return inspect.Parameter(
        alias,
        inspect.Parameter.KEYWORD_ONLY,
        default=typer.Option(None, *option_spellings(alias), hidden=True),
        annotation=kind | None,
    )


def _pop_value(options: dict[str, Any], flag: Flag) -> Any:
    """Take the value of a flag out of options, by whichever of its names it was given."""
    spellings = {name: options.pop(name) for name in (flag.name, *flag.aliases)}
    return choose_spelling(spellings, flag.name, flag.aliases, typed=_as_option)


def _pop_shared(
    options: dict[str, Any], parameter: str, aliases: Sequence[str], default: Any
) -> Any:
    """Take the value of an option that is no flag, by whichever of its names it was given."""
    name, value = _argument_of(parameter), options.pop(parameter)
    spellings = {alias: options.pop(alias) for alias in aliases}
    # What is the default was not typed, as far as this goes.
    spellings[name] = None if value == default else str(value)
    chosen = choose_spelling(spellings, name, aliases, typed=_as_option)
    if chosen is None:
        return value
    return Path(chosen) if name == "output_dir" else chosen


def _as_option(name: str) -> str:
    return option_spellings(name)[0]


def resolve_recipe(
    name: str | None,
    model: str | None,
    flags: Mapping[str, Any],
    *,
    overrides: Sequence[str] | None,
) -> Recipe:
    """Load a recipe with the options that were given on the command line.

    Args:
        name: built-in recipe or file; None for ``default``, or ``demo`` without a model.
        model: the model that was named, if one was.
        flags: values by names of ``RUN_FLAGS``; None for those not given.
        overrides: ``PATH=VALUE`` texts of ``--set``, which win over flags.

    Raises:
        RecipeError: one line for each mistake, with the words that were typed.
    """
    # Not at the top of the module: pydantic and yaml would slow down every --help.
    from autoround.recipe.arguments import read_arguments
    from autoround.recipe.load import load_recipe

    changes = read_arguments(RUN_FLAGS, flags, typed=Flag.as_typed)
    if name is None:
        name = "demo" if model is None else "default"
    return load_recipe(
        name, values=changes.values, additions=changes.additions, overrides=overrides or ()
    )


def parse_max_memory(size: str | None) -> int | None:
    """Return the value of ``--max-memory`` in bytes, None where it was not given.

    Raises:
        UsageError: it is not a size.
    """
    from autoround.errors import UsageError
    from autoround.recipe.values import parse_size

    try:
        return None if size is None else parse_size(size)
    except ValueError as error:
        raise UsageError(f"--max-memory {size}: {error}") from error


def parse_engines(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the serving engines that ``--for`` names; none where it was not given.

    Raises:
        UsageError: one is not known.
    """
    if not names:
        return ()
    from autoround.planning.serving.table import check_engines

    return check_engines(names)


@dataclass
class Invocation:
    """What was typed, and what to tell when it ends before it is done.

    Attributes:
        arguments: the words of the command line, without the program's name.
        hint: how to go on; empty where nothing is kept to go on with.
    """

    arguments: list[str]
    hint: str = ""

    def resume_command(self) -> str:
        """Return the command line that goes on with the interrupted run."""
        others = [word for word in self.arguments if word not in ("--resume", "--restart")]
        return shlex.join(["autoround", *others, "--resume"])


def choose_model(
    positional: str | None, option: str | None, revision: str | None = None
) -> str | None:
    """Return the model that was named, as an argument or by ``--model``; None for neither.

    Args:
        positional: the argument.
        option: the value of ``--model``.
        revision: the value of ``--revision``.

    Raises:
        UsageError: two different ones were, or it has no revisions.
    """
    from autoround.errors import UsageError

    if positional is not None and option is not None and positional != option:
        raise UsageError(f"two models are named: {positional!r} and --model {option!r}; name one")
    model = positional if positional is not None else option
    if model is None and revision is not None:
        raise UsageError(f"--revision {revision}: no model is named; add a hub id, owner/name")
    return None if model is None else at_revision(model, revision)


def at_revision(model: str, revision: str | None) -> str:
    """Return a model's name with the value of ``--revision`` in it, where that was given.

    Raises:
        UsageError: the model is none of the hub, or is named with another revision.
    """
    from autoround.errors import UsageError

    if revision is None:
        return model
    from autoround.model.files.hub import parse_hub_name

    name = None if os.path.exists(os.path.expanduser(model)) else parse_hub_name(model)
    if name is None:
        raise UsageError(
            f"--revision {revision}: {model!r} is no hub id such as owner/name; leave it out"
        )
    if name.revision is not None and name.revision != revision:
        raise UsageError(
            f"two revisions are named: {name.revision!r} and --revision {revision!r}; name one"
        )
    return f"{name.repo}@{revision}"
