"""Blocks run one by one: what agrees with the class's own forward, and what is found not to."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.model.probe.block_check import check_blocks
from autoround.model.probe.observe import observe

from ._toys import HRM, SHARING, copy_of

FINE: list[tuple[str, dict[str, Any]]] = [
    ("llama", {}),
    ("gpt2", {}),
    ("mixtral", {}),
    ("gemma3_text", {"num_hidden_layers": 12}),
    ("gemma4_text", {"num_hidden_layers": 12}),
    ("qwen3_next", {"num_hidden_layers": 8}),
    # These return a tuple with entries that nothing reads.
    ("bamba", {"num_hidden_layers": 4}),
    ("qwen3_vl", {}),
]


@pytest.mark.parametrize(("kind", "options"), FINE)
def test_blocks_that_can_be_run_one_by_one(kind: str, options: dict[str, Any]) -> None:
    copy = copy_of(kind, **options)
    assert check_blocks(copy, observe(copy)).why_not == ""


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("gemma4_text", SHARING, "state that one block leaves for another"),
    ("gemma3n_text", {"num_hidden_layers": 10}, "first axes must be samples and tokens"),
    ("hrm_text", HRM, "runs 6 times"),
]


@pytest.mark.parametrize(("kind", "options", "words"), WRONG)
def test_blocks_that_cannot(kind: str, options: dict[str, Any], words: str) -> None:
    copy = copy_of(kind, **options)
    assert words in check_blocks(copy, observe(copy)).why_not


def test_streams_of_a_token_are_counted() -> None:
    one = copy_of("llama")
    assert check_blocks(one, observe(one)).streams == 1
    several = copy_of("deepseek_v4", num_hidden_layers=4)
    check = check_blocks(several, observe(several))
    assert check.why_not == ""
    assert check.streams == several.model.config.hc_mult > 1
