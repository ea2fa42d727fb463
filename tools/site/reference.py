"""The pages of the site that are made from the code: commands, built-in recipes, Python."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from autoround.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
#: Objects on the page about Python, below the heading they come under.
PYTHON_API = {
    "Quantize": [
        "autoround.api.quantize",
        "autoround.api.plan",
        "autoround.api.allocate",
        "autoround.types.Destination",
        "autoround.auto_round.AutoRound",
    ],
    "Load": [
        "autoround.inference.load.load",
        "autoround.inference.hf_quantizer.AutoRoundConfig",
        "autoround.inference.hook.use_for_transformers",
    ],
    "Results": [
        "autoround.types.Plan",
        "autoround.types.Estimate",
        "autoround.types.RunResult",
        "autoround.types.BlockResult",
        "autoround.types.EvalResult",
    ],
    "Events": ["autoround.events"],
    "Errors": ["autoround.errors"],
    "For backends, kernels and formats": [
        "autoround.device.protocol",
        "autoround.formats.format",
    ],
}


def commands() -> Iterator[tuple[str, Any]]:
    """Yield each command of the program with its full name, those with sub-commands left out."""
    pending = [("autoround", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop(0)
        inside = getattr(command, "commands", {})
        pending = [(f"{name} {key}", sub) for key, sub in inside.items()] + pending
        if not inside:
            yield name, command


def command_page() -> str:
    """Return the page with every command, its arguments, options and examples."""
    parts = [
        "# Commands\n",
        "Made from the program itself; `autoround COMMAND --help` prints the same. Every command\n"
        "takes `--debug`, too, which shows where an error comes from. All have the same\n"
        "[exit codes](exit-codes.md).\n",
    ]
    for name, command in commands():
        parts += [f"## {name}\n", _help_text(command.help or ""), *_tables(command)]
    return "\n".join(parts)


def recipe_page() -> str:
    """Return the page with the text of every built-in recipe."""
    parts = [
        "# Built-in recipes\n",
        "The files as they are shipped. What a file leaves out has the value of `default`;\n"
        "[recipes](recipes.md#keys) has every key. `autoround recipes copy NAME FILE` writes one\n"
        "into a file of yours.\n",
    ]
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        parts += [f"## {path.stem}\n", f"```yaml\n{path.read_text('utf-8').rstrip()}\n```\n"]
    return "\n".join(parts)


def python_page() -> str:
    """Return the page whose objects mkdocstrings fills in from their docstrings."""
    parts = [
        "# Python\n",
        "`import autoround` has `quantize`, `plan`, `load`, `AutoRound`, `AutoRoundConfig`,\n"
        "`Destination` and `use_for_transformers`; the other names are imported from the modules\n"
        "named here. [Upgrading](upgrading.md#what-is-public) says what may be relied on.\n",
    ]
    for heading, names in PYTHON_API.items():
        parts.append(f"## {heading}\n")
        parts += [f"::: {name}\n    options:\n      heading_level: 3\n" for name in names]
    return "\n".join(parts)


def _help_text(text: str) -> str:
    """Write a command's help as Markdown: what is indented is code, the rest are paragraphs."""
    parts = []
    for paragraph in inspect.cleandoc(text).replace("\b\n", "").split("\n\n"):
        lines = paragraph.splitlines()
        code = [line.removeprefix("  ") for line in lines if line.startswith("  ")]
        parts.append("\n".join(_escape(line) for line in lines if not line.startswith("  ")) + "\n")
        if code:
            parts.append("```sh\n" + "\n".join(code) + "\n```\n")
    return "\n".join(parts)


def _tables(command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    parts = []
    if arguments:
        rows = [f"| `{p.metavar or p.name.upper()}` | {_escape(p.help or '')} |" for p in arguments]
        parts.append("\n".join(["| argument | |", "|---|---|", *rows]) + "\n")
    if options:
        rows = [f"| {_spellings(p)} | {_escape(p.help or '')}{_default(p)} |" for p in options]
        parts.append("\n".join(["| option | |", "|---|---|", *rows]) + "\n")
    return parts


def _spellings(parameter: Any) -> str:
    return ", ".join(f"`{text}`" for text in [*parameter.opts, *parameter.secondary_opts])


def _default(parameter: Any) -> str:
    shown = parameter.show_default and not parameter.is_flag and parameter.default is not None
    return f" Default: `{parameter.default}`." if shown else ""


def _escape(text: str) -> str:
    """Keep what Markdown and HTML would take for their own marks."""
    return re.sub(r"([|*_<\[])", r"\\\1", " ".join(text.split()))
