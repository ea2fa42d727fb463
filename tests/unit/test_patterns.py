"""Regular expressions from files: those of Python, ended when they take too long."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoround.patterns import LONGEST, PatternError, compile_pattern, matches

NAME = "model.layers.12.mlp.experts.7.down_proj"


@pytest.mark.parametrize(
    "pattern",
    [
        r".*mlp.*",
        r"model\.layers\.(1|12)\..*",
        r"down_proj$",
        r"^down",
        r"layers\.\d+\.mlp",
        r"(?!.*lm_head).*proj",
        r"",
        r"re",
        r"[a-z]+\.[a-z]+",
    ],
)
def test_they_mean_what_they_mean_to_python(pattern: str) -> None:
    assert matches(pattern, NAME) == (re.match(pattern, NAME) is not None)
    assert matches(pattern, NAME, anywhere=True) == (re.search(pattern, NAME) is not None)


@given(st.lists(st.sampled_from(["a", "b", ".", "*?", "+", "(a|b)", "[ab]", "^", "$"]), max_size=6))
def test_any_of_them_means_what_it_means_to_python(parts: list[str]) -> None:
    pattern = "".join(parts)
    try:
        wanted = re.search(pattern, "abba") is not None
    except re.error:
        return
    try:
        got = matches(pattern, "abba", anywhere=True)
    except PatternError:
        return
    assert got == wanted


@pytest.mark.parametrize("pattern", [r"(?:a|aa)+$", r".*(?:l|a|aa|la)*(?:a|aa)+$"])
def test_what_takes_too_long_is_an_error(pattern: str) -> None:
    started = time.perf_counter()
    with pytest.raises(PatternError, match=r"takes more than 0\.2 s"):
        matches(pattern, "a" * 60 + "z", seconds=0.2)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize("pattern", ["(", "[", "*", "(?P<x", "a{2,1}", "x" * (LONGEST + 1)])
def test_what_is_none_is_an_error(pattern: str) -> None:
    with pytest.raises(PatternError, match="regular expression"):
        compile_pattern(pattern)
