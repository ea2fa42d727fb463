"""Every command that the documents and the help texts show parses against the real command line.

Commands are parsed, not run: an unknown command or option, a value of the wrong type, and a wrong
number of arguments are mistakes; whether a file named in one exists is not asked.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from autoround.cli.main import app, run
from autoround.recipe.flags import RUN_FLAGS

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
#: History: what was typed then need not parse now.
HISTORY = ("CHANGELOG.md", "log.md")
FENCE = re.compile(r"^(```|~~~)", re.MULTILINE)
#: Code in a line of text; its words may go over to the next line.
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
#: What follows a command of ours in a shell.
SHELL_END = re.compile(r"[|;&<>]")
COMMAND = "autoround"


def code_of(text: str) -> tuple[list[str], list[str]]:
    """Return the lines of code blocks, continued ones joined, and the pieces of inline code."""
    blocks, prose = [], []
    inside = False
    for line in text.splitlines():
        if FENCE.match(line.lstrip()):
            inside = not inside
            continue
        (blocks if inside else prose).append(line)
    joined = re.sub(r"\\\n\s*", " ", "\n".join(blocks))
    return joined.splitlines(), INLINE.findall("\n".join(prose))


def words_of(line: str) -> list[str] | None:
    """Return the words after the program's name; None where a line is no command of ours."""
    try:
        lexer = shlex.shlex(line.strip().removeprefix("$ "), posix=True, punctuation_chars="|;&<>")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError:  # prose with one apostrophe
        return None
    if not words or words[0] != COMMAND:
        return None
    end = next((i for i, word in enumerate(words) if SHELL_END.match(word)), len(words))
    return words[1:end]


def expand(words: list[str]) -> list[str]:
    """Drop ellipses, which leave the rest to the reader, and brackets around what is optional."""
    return [word.strip("[]") for word in words if word not in ("…", "...")]


def mistake(words: list[str]) -> str:
    """Parse a command line; return what is wrong with it, empty for nothing."""
    command = typer.main.get_command(app)
    arguments = list(words)
    context = command.make_context(COMMAND, [], resilient_parsing=True)
    try:
        while hasattr(command, "commands") and arguments and not arguments[0].startswith("-"):
            name = arguments.pop(0)
            if name not in command.commands:
                return f"there is no command {name!r}"
            command = command.commands[name]
            context = type(context)(command, info_name=name, parent=context)
        if hasattr(command, "commands"):
            # No command, or options of the program itself, such as --version.
            known = {option for p in command.params for option in p.opts} | {"--help"}
            unknown = [word for word in arguments if word not in known]
            return f"there is no option {unknown[0]!r}" if unknown else ""
        if "--help" not in arguments:
            command.parse_args(context, arguments)
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        return str(error.format_message())
    return ""


def shown(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of a document as they are written, and their words.

    Those in code blocks are whole. One in a line of text may be the name of a command alone, or
    leave out what the text is not about; then only what it does name counts.
    """
    blocks, inline = code_of(path.read_text(encoding="utf-8"))
    for line in blocks:
        words = words_of(line)
        if words is not None:
            yield line.strip(), expand(words)
    for piece in inline:
        words = words_of(" ".join(piece.split()))
        if words is not None and words and not is_synopsis(piece):
            yield piece, expand(words)


def is_synopsis(piece: str) -> bool:
    """Tell whether inline code shows a choice (`a | b`) or a pattern, and no command."""
    return any(mark in piece for mark in ("|", "…", "..."))


def is_partial(line: str, problem: str, *, inline: bool) -> bool:
    """Tell whether all that is wrong with inline code is what it leaves out."""
    return inline and problem.startswith(("Missing argument", "Missing option"))


def examples() -> Iterator[tuple[str, str]]:
    """Yield each command with its help text, sub-commands too."""
    command = typer.main.get_command(app)
    pending = [("", command)]
    while pending:
        name, one = pending.pop()
        yield name, one.help or ""
        pending += [(f"{name} {k}".strip(), c) for k, c in getattr(one, "commands", {}).items()]


@pytest.mark.parametrize(
    "path", [p for p in DOCUMENTS if p.name not in HISTORY], ids=lambda path: path.name
)
def test_commands_of_documents_parse(path: Path) -> None:
    _, inline = code_of(path.read_text(encoding="utf-8"))
    problems = []
    for line, words in shown(path):
        problem = mistake(words)
        if problem and not is_partial(line, problem, inline=line in inline):
            problems.append(f"{line}: {problem}")
    assert not problems, "\n".join([f"{path.name} shows commands that do not parse:", *problems])


@pytest.mark.parametrize(("name", "text"), list(examples()), ids=lambda value: str(value)[:20])
def test_examples_of_help_texts_parse(name: str, text: str) -> None:
    joined = re.sub(r"\\\n\s*", " ", text.partition("Examples:")[2])
    commands = [words for words in map(words_of, joined.splitlines()) if words is not None]
    assert commands, f"the help of {name or COMMAND!r} has no examples"
    assert not [problem for problem in map(mistake, map(expand, commands)) if problem]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("autoround quantize MODEL --outptu OUT", "--outptu"),
        ("autoround quantise MODEL", "there is no command 'quantise'"),
        ("autoround recipes lst", "there is no command 'lst'"),
        ("autoround plan MODEL OTHER", "unexpected extra argument"),
        ("autoround plan MODEL --bits four", "--bits"),
        ("autoround generate OUT", "Missing argument"),
        ("autoround --versoin", "--versoin"),
    ],
)
def test_mistakes_are_found(line: str, part: str) -> None:
    words = words_of(line)
    assert words is not None
    assert part in mistake(words)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("autoround plan m --json > plan.json", ["plan", "m", "--json"]),
        ("$ autoround doctor   # a quote in a comment isn't one", ["doctor"]),
        ("$ autoround doctor   # what runs here", ["doctor"]),
        ("autoround generate out 'a # b' | head", ["generate", "out", "a # b"]),
        ("autoround-light --model m", None),
        ("import autoround", None),
    ],
)
def test_words_of_a_line(line: str, words: list[str] | None) -> None:
    assert words_of(line) == words


def test_documents_show_commands() -> None:
    names = {words[0] for path in DOCUMENTS for _, words in shown(path)}
    assert len(names) >= 9  # else the search for them is what is broken


def test_quick_commands_of_documents_run() -> None:
    quick = {
        tuple(words)
        for path in DOCUMENTS
        for _, words in shown(path)
        if words[:2] in (["recipes", "list"], ["recipes", "show"])
    }
    assert all(run(list(words)) == 0 for words in quick)


def test_all_flags_parse() -> None:
    values = {int: "4", float: "0.5", str: "x", Path: "x"}
    for command in ("quantize", "plan"):
        for flag in RUN_FLAGS:
            for option in (word for given in flag.options for word in given.split("/")):
                value = [] if flag.kind is bool else [values[flag.kind]]
                assert mistake([command, "MODEL", option, *value]) == ""
