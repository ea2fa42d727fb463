"""Hostile tokenizers and templates through every command: it does its work, or says why not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autoround import confined
from autoround.cli.main import run
from autoround.types import Scheme

from ..hostile import LONG, TEMPLATES, TOKENIZERS
from ..runs import even_device
from ..tiny_quantized import write_quantized

__all__ = ["even_device"]

CASES = {**TOKENIZERS, **TEMPLATES}
#: Tried by every run of the tests, in the commands that are quick; the others take minutes.
FEW = (
    *("truncated", "an unknown token that is missing", "ids beyond the embeddings"),
    *("a text times a thousand, five times", "repeats inside repeats", "code of its own"),
    *("no Jinja", "loops inside loops", "a text of 10^11 letters", "an error of its own"),
    *("nothing", "a terminal's escapes"),
)
#: Commands that only read weights take no notice of a tokenizer.
CARELESS = ("inspect", "convert")
COMMANDS = ("plan", "quantize", "eval", "generate", *CARELESS)
QUICK = ("plan", "eval", "generate")
PAIRS = [
    pytest.param(name, command, marks=[] if quick else [pytest.mark.slow])
    for name in CASES
    for command in COMMANDS
    for quick in [name == FEW[0] or (name in FEW and command in QUICK)]
]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch, even_device: None) -> None:
    monkeypatch.setattr(confined, "SECONDS", 1)
    monkeypatch.setattr(confined, "STARTING_SECONDS", 4)
    monkeypatch.setattr(confined, "MEMORY", 1 << 30)
    # On a busy machine a second of a processor takes long.
    monkeypatch.setattr(confined, "PATIENCE", 1000)


@pytest.fixture(scope="module")
def quantized(tmp_path_factory: pytest.TempPathFactory, checkpoint: Callable[[str], Path]) -> Path:
    folder = tmp_path_factory.mktemp("quantized") / "m"
    source = checkpoint("llama")
    write_quantized(source, folder, lambda name: None if "head" in name else Scheme(4, 32, True))
    for path in source.iterdir():
        if not (folder / path.name).exists() and path.suffix != ".safetensors":
            shutil.copy(path, folder)
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """Return a file of conversations, which go through the chat template."""
    turns = [
        {"role": "user", "content": "say something aloud"},
        {"role": "assistant", "content": "words " * 20},
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text((json.dumps({"messages": turns}) + "\n") * 8)
    return path


def words_of(command: str, folder: Path, chats: Path, out: Path) -> list[str]:
    calibrating = [str(folder), "--dataset", str(chats), "--nsamples", "4", "--seqlen", "16"]
    calibrating += ["--iters", "1", "--group-size", "32", "--device", "cpu"]
    return {
        "plan": ["plan", *calibrating],
        "quantize": ["quantize", *calibrating, "-o", str(out)],
        "eval": ["eval", str(folder), "--max-tokens", "40", "--seqlen", "20", "--device", "cpu"],
        "generate": ["generate", str(folder), "some words", "--max-new-tokens", "2"],
        "inspect": ["inspect", str(folder)],
        "convert": ["convert", str(folder), "--to", "auto_gptq", "-o", str(out)],
    }[command]


@pytest.mark.parametrize(("name", "command"), PAIRS)
def test_a_command_ends_with_a_result_or_a_sentence(
    name: str,
    command: str,
    quantized: Path,
    chats: Path,
    checkpoint: Callable[[str], Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, out = tmp_path / "m", tmp_path / "out"
    plain = command in ("plan", "quantize")
    shutil.copytree(checkpoint("llama") if plain else quantized, folder)
    CASES[name](folder)
    code = run(words_of(command, folder, chats, out))
    _, err = capfd.readouterr()
    assert "did not foresee" not in err, err
    assert "Traceback" not in err, err
    assert "\x1b[2J" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert bool(errors) == bool(code), err
    assert code in (0, 2, 4, 5, 7), err
    if code:
        assert not out.exists(), "something stands under the output's name"
    if command in CARELESS and name not in LONG and name != "a file of 200 MiB":
        assert code == 0, err


@pytest.mark.parametrize("command", ["eval", "generate"])
def test_ids_that_the_model_does_not_know_are_refused(
    command: str, quantized: Path, chats: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "m"
    shutil.copytree(quantized, folder)
    CASES["ids beyond the embeddings"](folder)
    assert run(words_of(command, folder, chats, tmp_path / "out")) == 5
    assert "outside the model's vocabulary" in capfd.readouterr().err
