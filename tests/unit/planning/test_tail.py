"""Seconds behind the blocks: they grow with matrices, weights, bytes, formats and a vocabulary."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autoround.planning.tail import (
    BYTE_RATE,
    CHECK_RATE,
    FOLDER_SECONDS,
    LOAD_RATE,
    LOAD_SECONDS,
    MATRIX_SECONDS,
    ROUND_RATE,
    TOKEN_SECONDS,
    load_seconds,
    tail_seconds,
)
from autoround.types import BlockPlan, LayerPlan, OutputPlan, Plan, Scheme

PACKED = OutputPlan("auto_round", "auto_round:auto_gptq", "bfloat16")
GGUF = OutputPlan("gguf:q4_0", "gguf", "float16")
DENSE = OutputPlan("fake", "fake", "bfloat16")
SCHEME = Scheme(4, 32, True)
#: One reading and one run of two matrices of 32 × 64, one of them two experts.
CHECK = 3 * MATRIX_SECONDS + 2 * 32 * 64 / CHECK_RATE


def made(*outputs: OutputPlan) -> Plan:
    layers = (
        LayerPlan("h.0.q", (32, 64), SCHEME),
        LayerPlan("h.0.up", (32, 64), SCHEME, experts=2),
        LayerPlan("h.0.gate", (8, 64), None, "a router"),
    )
    head = LayerPlan("lm_head", (1000, 64), None, "outside the decoder blocks")
    return Plan(
        "model", "Toy", (BlockPlan(0, "h.0", layers),), (head,), {}, outputs, "bfloat16", "cpu", ""
    )


def test_packed_layers_are_read_back_and_loaded() -> None:
    assert tail_seconds(made(PACKED), 0) == pytest.approx(FOLDER_SECONDS + 2 * CHECK)
    assert tail_seconds(made(DENSE), 0) == pytest.approx(FOLDER_SECONDS + CHECK)


def test_bytes_and_formats_count() -> None:
    one = tail_seconds(made(PACKED), 0)
    assert tail_seconds(made(PACKED), 10 * BYTE_RATE) == pytest.approx(one + 10)
    assert tail_seconds(made(PACKED, PACKED), 0) == pytest.approx(2 * one)


def test_a_gguf_file_has_a_vocabulary_and_rounds_what_is_outside() -> None:
    more = 1000 * TOKEN_SECONDS + 1000 * 64 / ROUND_RATE
    assert tail_seconds(made(GGUF), 0) == pytest.approx(FOLDER_SECONDS + CHECK + more)
    bare = replace(made(GGUF), kept=())
    assert tail_seconds(bare, 0) == pytest.approx(FOLDER_SECONDS + CHECK)


def test_a_small_model_has_a_small_tail() -> None:
    # A fixed 3 seconds made probes of runs of 5 seconds too high by half.
    assert tail_seconds(made(PACKED), 2e6) < 0.2


def test_models_for_a_gate_are_loaded_by_their_bytes() -> None:
    assert load_seconds(2 * LOAD_RATE) == LOAD_SECONDS + 2
