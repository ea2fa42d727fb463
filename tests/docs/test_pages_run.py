"""What the pages show is run: each page's commands and Python, in the order of the page.

Models and recipes are tiny; a page's folder has what its commands name: a model, texts. Commands
that need a network, a GPU or a container are told by their first words, with the reason.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from _pytest.monkeypatch import MonkeyPatch

from autoround.cli.main import run
from autoround.model.files import embedded
from autoround.recipe import find

from ..quick import write_quick_recipes, write_wide_model
from ..runs import even_device
from ..tiny import make_tokenizer
from .pages import ROOT, code_blocks

__all__ = ["even_device"]
PAGES = (
    "install.md",
    "quickstart.md",
    "plan.md",
    "quantize.md",
    "low-memory.md",
    "evaluation.md",
    "convert.md",
    "sharing.md",
    "troubleshooting.md",
)
#: Those whose commands take more than a few seconds.
LONG_PAGES = ("quickstart.md", "quantize.md", "evaluation.md", "sharing.md")
SHELL = ("sh", "bash", "console")
#: First words of commands that no test can run as they stand, and why.
NOT_RUN = {
    "pip install": "the packaging checks install the project",
    "docker": "needs a container runtime",
    "autoround push": "needs an account and a network",
    "autoround eval out --tasks arc_easy": "needs lm-eval and a network",
    "autoround eval out --tasks task.yaml": "needs lm-eval",
}
TEXT = "".join(f"Line {n}: the quick brown fox jumps over the lazy dog. " for n in range(200))

QUESTION = '{"question": "Two plus two?", "choices": ["three", "four"], "answer": 1}\n'


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a tiny model, and built-in recipes that do little."""
    model = write_wide_model(tmp_path_factory.mktemp("pages") / "model")
    make_tokenizer(use_regex=True).save_pretrained(model)
    return model, write_quick_recipes(tmp_path_factory.mktemp("recipes"))


@pytest.fixture
def place(parts: tuple[Path, Path], tmp_path: Path, monkeypatch: MonkeyPatch) -> Path:
    """Return a folder with all that a page's commands name; it is the current one."""
    model, recipes = parts
    monkeypatch.setattr(find, "_builtin_folder", lambda: recipes)
    monkeypatch.setattr("autoround.request.embedded_model", lambda: model)
    monkeypatch.setattr(embedded, "embedded_model", lambda: model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "model").symlink_to(model)
    (tmp_path / "book.txt").write_text(TEXT)
    (tmp_path / "questions.jsonl").write_text(QUESTION * 3)
    records = [json.dumps({"text": TEXT[n : n + 400]}) for n in range(0, 4000, 50)]
    (tmp_path / "calib.jsonl").write_text("\n".join(records) + "\n")
    return tmp_path


def steps(page: Path) -> Iterator[tuple[str, str, list[str]]]:
    """Yield what a page shows, in order: python or shell, the text, and what is to be printed."""
    for language, text in code_blocks(page):
        if language == "python":
            yield "python", text, []
        elif language in SHELL:
            yield from (("shell", *step) for step in _commands(text, printed=language == "console"))


def _commands(text: str, *, printed: bool) -> Iterator[tuple[str, list[str]]]:
    """Yield the commands of a block and the lines below each that it prints."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    if not printed:
        yield from ((line, []) for line in lines if line and not line.startswith("#"))
        return
    for part in re.split(r"^\$ ", "\n".join(lines), flags=re.MULTILINE)[1:]:
        command, *expected = part.splitlines()
        yield command, [line for line in expected if line]


def why_not_run(command: str) -> str:
    """Return why a command is not run; empty where it is."""
    return next((why for words, why in NOT_RUN.items() if command.startswith(words)), "")


def is_in(line: str, output: str) -> bool:
    """Tell whether a line was printed; an ellipsis stands for anything in one line."""
    return re.search(".*".join(map(re.escape, line.split("…"))), output) is not None


def run_command(command: str, expected: list[str]) -> None:
    """Run a command of ours in this process, and hold it to what the page says it prints."""
    command, _, target = re.sub(r"\s+#\s.*$", "", command).partition(" > ")
    words = shlex.split(command)
    assert words[0] == "autoround", f"{command}: no command of ours, and not in NOT_RUN"
    printed, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(errors):
        code = run(words[1:])
    output = printed.getvalue() + errors.getvalue()
    failing = any(line.startswith("error: ") for line in expected)
    assert (code != 0) == failing, f"{command}: code {code}\n{output}"
    missing = [line for line in expected if not is_in(line, output)]
    assert not missing, f"{command} printed:\n{output}\nand the page says: {missing}"
    if target:
        Path(target.strip()).write_text(printed.getvalue())


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG_PAGES)) for n in PAGES]
)
def test_what_a_page_shows_runs(name: str, place: Path, even_device: None) -> None:
    names: dict[str, object] = {}
    count = 0
    for kind, text, expected in steps(ROOT / "docs" / name):
        if kind == "python":
            exec(compile(text, name, "exec"), names)
        elif why_not_run(text):
            continue
        else:
            run_command(text, expected)
        count += 1
    assert count >= 2


def test_commands_that_are_not_run_are_shown_somewhere() -> None:
    shown = [text for name in PAGES for _, text, _ in steps(ROOT / "docs" / name)]
    assert [w for w in NOT_RUN if not any(text.startswith(w) for text in shown)] == []


def test_a_page_that_says_what_is_not_printed_fails(place: Path) -> None:
    with pytest.raises(AssertionError, match="the page says"):
        run_command("autoround plan none", ["error: something else"])
    with pytest.raises(AssertionError, match="code"):
        run_command("autoround plan none", [])
    with pytest.raises(AssertionError, match="no command of ours"):
        run_command("rm out", [])
    assert is_in("error: … is not", "error: a is not b")
    assert not is_in("error: … is not", "error: a is\nnot b")
