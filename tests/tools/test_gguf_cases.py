"""Every architecture that is written is one that the check against llama.cpp runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import transformers

from autoround.gguf.architectures import ARCHITECTURES

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cases() -> Iterator[Any]:
    # The scripts stand beside each other, and import each other so.
    sys.path.insert(0, str(ROOT / "tools" / "clients"))
    import gguf_cases

    yield gguf_cases.CASES
    sys.path.pop(0)


def test_every_row_has_a_plain_case_and_options(cases: Any) -> None:
    plain = {c.name: c for c in cases if c.wanted == "written" and ", " not in c.name}
    assert set(plain) >= set(ARCHITECTURES) - {"gpt2"}
    for kind in set(ARCHITECTURES) & set(plain):
        assert getattr(transformers, plain[kind].config).model_type == kind
        assert any(c.name.startswith(f"{kind}, ") for c in cases)


def test_the_table_in_the_docs_has_every_row() -> None:
    page = (ROOT / "docs" / "formats.md").read_text("utf-8")
    assert [kind for kind in ARCHITECTURES if f"| `{kind}` | " not in page] == []
