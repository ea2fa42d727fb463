"""Windows: which layers have one, and what a file says where llama.cpp has them or not."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.gguf.architectures import Architecture
from autoround.gguf.windows import sliding_layers, window_plan

CONFIG: dict[str, Any] = {
    "num_hidden_layers": 4,
    "max_position_embeddings": 512,
    "sliding_window": 64,
}
MIXED = ["sliding_attention", "full_attention"] * 2
NONE = Architecture("llama")
SECOND = Architecture("gemma2", windows=2, windowless=True)
LISTED = Architecture("olmo2", windows="listed")


def stated(config: dict[str, Any], arch: Architecture) -> dict[str, Any]:
    plan = window_plan(config, arch)
    assert plan.notes == []
    return {f.key.removeprefix("attention.sliding_"): f.value for f in plan.fields}


def test_layers_with_a_window_are_told_by_kinds_or_all_of_them() -> None:
    assert sliding_layers(CONFIG) == [True] * 4
    assert sliding_layers({**CONFIG, "layer_types": MIXED}) == [True, False] * 2
    assert sliding_layers({**CONFIG, "use_sliding_window": False}) == [False] * 4
    assert sliding_layers({**CONFIG, "sliding_window": None}) == [False] * 4


@pytest.mark.parametrize("kinds", [None, MIXED])
def test_a_window_that_llama_cpp_lacks_is_noted_with_what_is_exact(kinds: Any) -> None:
    plan = window_plan({**CONFIG, "layer_types": kinds}, NONE)
    assert plan.fields == []
    assert "up to 64 tokens" in plan.notes[0]
    # One that holds the whole context never cuts anything.
    assert window_plan({**CONFIG, "sliding_window": 512}, NONE) == ([], [])
    assert window_plan({**CONFIG, "sliding_window": None}, NONE) == ([], [])


def test_a_window_is_written_where_llama_cpp_has_it() -> None:
    assert stated({**CONFIG, "layer_types": MIXED}, SECOND) == {"window": 64}
    listed = stated({**CONFIG, "layer_types": MIXED}, LISTED)
    assert listed == {"window": 64, "window_pattern": [True, False] * 2}


def test_other_layers_than_those_of_llama_cpp_are_refused() -> None:
    with pytest.raises(FormatError, match="every 2th layer to have full attention"):
        window_plan(CONFIG, SECOND)


def test_no_window_is_one_that_holds_the_context() -> None:
    assert stated({**CONFIG, "sliding_window": None}, SECOND) == {"window": 512}
    bases = Architecture("gemma3", windows=2)
    with pytest.raises(FormatError, match="layer_types"):
        window_plan({**CONFIG, "sliding_window": None}, bases)
