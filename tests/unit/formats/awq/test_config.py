"""The config of AWQ checkpoints has one scheme, and names what is kept."""

from __future__ import annotations

import re

import pytest

from autoround.formats.awq.config import config
from autoround.types import Scheme

from .._plans import plan_of


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize(("size", "key"), [(64, 64), (-1, -1), (0, -1)])
def test_the_scheme_is_in_the_words_of_awq(sym: bool, size: int, key: int) -> None:
    found = config(plan_of([Scheme(4, size, sym)] * 3))
    assert (found["quant_method"], found["version"]) == ("awq", "gemm")
    assert (found["bits"], found["group_size"], found["zero_point"]) == (4, key, not sym)
    assert found["modules_to_not_convert"] == ["lm_head"]
    assert "dynamic" not in found


def test_kept_layers_are_named_by_their_whole_names() -> None:
    scheme = Scheme(4, 32, False)
    found = config(plan_of([scheme, None, scheme], [scheme, scheme, scheme]))
    kept = "model.layers.0.mlp.up_proj"
    assert found["modules_to_not_convert"] == [kept, "lm_head"]
    (rule,) = found["dynamic"]
    assert rule.startswith("-:")
    assert re.match(rule[2:], kept)
    assert not re.match(rule[2:], "model.layers.0.mlp.up_proj2")
