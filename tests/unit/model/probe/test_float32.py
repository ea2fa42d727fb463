"""Which tensors code takes in float32 beside bfloat16: tried, on a small copy."""

from __future__ import annotations

import re
from typing import Any

import pytest

from autoround.model.blocks import decoder_blocks
from autoround.model.probe.float32 import computed_in_float32

from ._toys import built

CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("llama", {"num_hidden_layers": 3}, set()),
    (
        "deepseek_v3",
        {"num_hidden_layers": 5, "first_k_dense_replace": 1},
        {"mlp.gate.e_score_correction_bias"},
    ),
    ("nemotron_h", {}, {"mixer.A_log", "mixer.D", "mixer.dt_bias"}),
]


@pytest.mark.parametrize(("kind", "options", "wanted"), CASES)
def test_what_is_taken_and_what_would_be_handed_on(
    kind: str, options: dict[str, Any], wanted: set[str]
) -> None:
    model = built(kind, **options)
    names = [name for name, tensor in model.state_dict().items() if tensor.dim() < 2]
    taken = computed_in_float32(model, decoder_blocks(model), names)
    leaves = {re.sub(r".*\.\d+\.", "", name) for name in taken}
    assert wanted <= leaves
    # The norm before a layer hands its dtype on to it.
    assert not any(name.endswith("input_layernorm.weight") for name in taken)


def test_nothing_is_tried_where_nothing_is_wide() -> None:
    assert computed_in_float32(built("llama"), ["model.layers.0"], []) == frozenset()
