from __future__ import annotations

from pathlib import Path

import pytest

from autoround.evaluate.generate import generate

from .conftest import Command


def test_the_text_is_continued(autoround: Command, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = autoround("quantize", model, "--recipe", "rtn", "--group-size", 32, "-o", out)
    assert done.code == 0
    done = autoround("generate", out, "the fox", "--max-new-tokens", 8, "--no-chat")
    assert (done.code, done.err) == (0, "")
    assert done.out == generate(out, "the fox", max_new_tokens=8) + "\n"
    assert done.out.strip()


def test_a_conversation(autoround: Command, model: Path) -> None:
    for flag in (["--chat"], []):  # the tokenizer has a template
        done = autoround("generate", model, "hello", *flag, "--max_new_tokens", 4)
        assert (done.code, done.err) == (0, "")
        assert done.out == generate(model, "hello", chat=True, max_new_tokens=4) + "\n"


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["./gone", "hello"], 4),
        (["MODEL", ""], 2),
        (["MODEL", "hello", "--max-new-tokens", "0"], 2),
        (["MODEL", "hello", "--device", "tpu"], 6),
        (["MODEL", "hello", "--backend", "abacus"], 2),
        (["MODEL"], 2),
    ],
)
def test_what_cannot_be_continued(
    autoround: Command, model: Path, arguments: list[str], code: int
) -> None:
    done = autoround("generate", *(model if word == "MODEL" else word for word in arguments))
    assert done.code == code
    assert "Traceback" not in done.err
