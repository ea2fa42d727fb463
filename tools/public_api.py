"""Write docs/public-api.txt, the list of what is public: python -m tools.public_api [--check].

With --check it writes nothing, prints what differs, and ends with 1 where anything does.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

import autoround
from autoround import api, errors, events, types
from autoround.cli.main import app
from autoround.device import kernels
from autoround.device import registry as devices
from autoround.formats import registry as formats
from autoround.recipe.schema import Recipe
from autoround.recipe.section import Section

PAGE = Path(__file__).resolve().parents[1] / "docs" / "public-api.txt"
HEAD = """\
What is public, one line a name. Written by `python -m tools.public_api`; a test compares it with
the code. What may change, and how: docs/upgrading.md.
"""
#: What calls return and take, beside the names of the package itself.
TYPES = ("Plan", "Estimate", "RunResult", "BlockResult", "EvalResult", "Destination")


def python_lines() -> Iterator[str]:
    """Yield each public name with its signature."""
    names = {autoround: set(autoround.__all__), api: set(api.__all__) - set(autoround.__all__)}
    for module, public in names.items():
        for name in sorted(public):
            value = getattr(module, name)
            if inspect.isclass(value):
                yield f"{module.__name__}.{name}{_signature(value.__init__, drop_self=True)}"
                yield from _methods(f"{module.__name__}.{name}", value)
            elif callable(value):
                yield f"{module.__name__}.{name}{_signature(value)}"
            else:
                yield f"{module.__name__}.{name}"


def type_lines() -> Iterator[str]:
    """Yield each field of what calls return, and of each event."""
    for name in TYPES:
        yield from _fields(f"autoround.types.{name}", getattr(types, name))
    for name, value in sorted(vars(events).items()):
        if dataclasses.is_dataclass(value) and value.__module__ == events.__name__:
            yield from _fields(f"autoround.events.{name}", value)


def error_lines() -> Iterator[str]:
    """Yield each error with its exit code."""
    for name, value in sorted(vars(errors).items()):
        if inspect.isclass(value) and issubclass(value, errors.AutoRoundError):
            yield f"autoround.errors.{name} {value.exit_code}"


def command_lines() -> Iterator[str]:
    """Yield each command with its arguments, and each of its options."""
    pending = [("autoround", typer.main.get_command(app))]
    while pending:
        name, command = pending.pop(0)
        inside = getattr(command, "commands", {})
        pending = [(f"{name} {key}", sub) for key, sub in sorted(inside.items())] + pending
        arguments = [p.name.upper() for p in command.params if p.param_type_name == "argument"]
        if not inside:
            yield " ".join([name, *arguments])
        for parameter in command.params:
            if parameter.param_type_name == "option":
                yield f"{name} {', '.join([*parameter.opts, *parameter.secondary_opts])}"


def recipe_lines(section: type[Section] = Recipe, prefix: str = "") -> Iterator[str]:
    """Yield each key of a recipe with its default."""
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section):
            yield from recipe_lines(kind, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name} = {field.get_default(call_default_factory=True)!r}"


def entry_point_lines() -> Iterator[str]:
    """Yield the groups under which other packages add to this one."""
    yield from sorted((devices.GROUP, kernels.GROUP, formats.GROUP))


def public_api() -> str:
    """Return the whole list."""
    parts = {
        "Python": python_lines(),
        "Fields": type_lines(),
        "Errors and exit codes": error_lines(),
        "Commands": command_lines(),
        "Recipe keys": recipe_lines(),
        "Entry points": entry_point_lines(),
    }
    sections = [
        f"\n== {title}\n" + "".join(f"{line}\n" for line in part) for title, part in parts.items()
    ]
    return HEAD + "".join(sections)


class _Name:
    """A text that stands in a signature as it is."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __repr__(self) -> str:
        return self._name


def _signature(function: Any, *, drop_self: bool = False) -> str:
    signature = inspect.signature(function)
    parameters = list(signature.parameters.values())[int(drop_self) :]
    shown = [
        # Functions have addresses in their texts.
        p.replace(annotation=_plain(p.annotation), default=_plain(p.default, texts=False))
        for p in parameters
    ]
    returned = _plain(signature.return_annotation)
    return str(signature.replace(parameters=shown, return_annotation=returned)).removesuffix(
        " -> None"
    )


def _plain(value: Any, *, texts: bool = True) -> Any:
    """Return what is shown as a bare name: annotations, which are texts, and functions."""
    if inspect.isfunction(value):
        return _Name(value.__name__)
    return _Name(value) if texts and isinstance(value, str) else value


def _methods(name: str, value: type) -> Iterator[str]:
    """Yield the public methods that a class of ours defines itself."""
    fields = (
        {field.name for field in dataclasses.fields(value)}
        if dataclasses.is_dataclass(value)
        else set()
    )
    for key, method in sorted(vars(value).items()):
        if inspect.isfunction(method) and not key.startswith("_") and key not in fields:
            yield f"{name}.{key}{_signature(method, drop_self=True)}"


def _fields(name: str, value: Any) -> Iterator[str]:
    for field in dataclasses.fields(value):
        yield f"{name}.{field.name}: {field.type}"


def main(arguments: list[str]) -> int:
    """Write or check the list; returns the exit code."""
    wanted = public_api()
    text = PAGE.read_text(encoding="utf-8") if PAGE.is_file() else ""
    if "--check" in arguments:
        lines = difflib.unified_diff(
            text.splitlines(), wanted.splitlines(), "list", "code", "", "", 0, ""
        )
        print("\n".join(lines))
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
