from __future__ import annotations

from pathlib import Path

import pytest

from autoround.model.files.side_files import side_files
from autoround.model.files.source import INDEX

CARRIED = (
    *("tokenizer.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "qwen.tiktoken"),
    *("LICENSE", "LICENSE.txt", "LICENCE.md", "license.md", "License", "NOTICE", "Notice.txt"),
    *("COPYING", "USE_POLICY.md"),
)
LEFT = ("config.json", INDEX, "plan.json", "model.safetensors", "README.md", "modeling.py", "a.bin")


def test_tokenizer_and_licence_are_carried_over(tmp_path: Path) -> None:
    for name in (*CARRIED, *LEFT):
        (tmp_path / name).touch()
    (tmp_path / "LICENSES").mkdir()
    (tmp_path / "original").mkdir()
    (tmp_path / "original" / "params.json").touch()
    # Each of them once, whatever number of patterns it fits.
    assert sorted(path.name for path in side_files(tmp_path)) == sorted(CARRIED)


@pytest.mark.parametrize("name", LEFT)
def test_nothing_else_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert side_files(tmp_path) == []
