"""Every family of models through a whole run, and models with a vision tower on images too.

A few that differ most are in the fast suite; all of them are what docs/models.md is made of.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ..families import MEDIA, come_back, go_through
from ..runs import even_device
from ..zoo import FAMILIES

__all__ = ["even_device"]

#: One with stacked experts cut apart, one whose experts are turned and interleaved, one whose
#: tower adds to the stream between blocks, one with cross-attention that text alone skips.
QUICK = ("deepseek_v3", "gpt_oss", "qwen3_vl", "mllama")
REST = [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in FAMILIES]

#: One whose experts and router files call otherwise, one whose experts have biases beside them, one
#: whose tower and decoder both are renamed, one with layers stored turned and a tied head.
LOADED = ("mixtral", "gpt_oss", "kimi_k25", "gpt2")
REST_LOADED = [pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES if n not in LOADED]


@pytest.mark.parametrize("name", REST)
def test_a_family_goes_through(name: str, tmp_path: Path) -> None:
    found = go_through(name, tmp_path)
    assert found.difference < 1e-5
    # The weights are other ones than the original's, and not by much.
    assert found.change > 1e-3
    assert found.losses[1] <= found.losses[0]
    if FAMILIES[name].kind == "moe":
        assert found.experts == 4
    assert bool(found.images) == (name in MEDIA)


@pytest.mark.parametrize("name", [*LOADED, *REST_LOADED])
def test_a_family_is_loaded_and_saved_either_way(
    name: str, quantized_family: Callable[[str], Path], tmp_path: Path
) -> None:
    come_back(quantized_family(name), tmp_path)


def test_every_family_is_in_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")
    for family in FAMILIES.values():
        assert f"| `{family.name}` |" in text, f"run tools/models_table.py: {family.name}"


def test_there_are_enough_of_each_kind() -> None:
    kinds = [family.kind for family in FAMILIES.values()]
    assert len(kinds) >= 35
    assert kinds.count("moe") >= 6
    assert kinds.count("vision") >= 12
