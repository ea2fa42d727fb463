"""Types of a file's tensors; the cases are worked out from llama.cpp's rules by hand."""

from __future__ import annotations

import pytest

from autoround.core.grids.gguf_types import GGUF_TYPES
from autoround.formats.gguf.file_types import BASES
from autoround.formats.gguf.type_mix import (
    Traits,
    block_of,
    kind_for,
    kind_of,
    more_bits,
    scheme_of,
)
from autoround.types import Scheme

PLAIN = Traits("llama", 32, 1, 0, tied=False)
SHARED = PLAIN._replace(sharing=4)
EIGHT = PLAIN._replace(experts=8)


def chosen(file_type: str, name: str, layer: int, traits: Traits = PLAIN, width: int = 1024) -> str:
    full = f"blk.{layer}.{name}.weight" if layer >= 0 else f"{name}.weight"
    return kind_for(file_type, full, shape=(512, width), layer=layer, traits=traits)


@pytest.mark.parametrize("file_type", list(BASES))
def test_ordinary_matrices_get_the_base_type_and_norms_none(file_type: str) -> None:
    for name in ("attn_q", "ffn_gate", "ffn_up"):
        assert chosen(file_type, name, 12) == BASES[file_type]
    assert kind_for(file_type, "blk.0.attn_norm.weight", shape=(64,), layer=0, traits=PLAIN) == (
        "f32"
    )
    assert chosen(file_type, "ffn_gate_inp", 3) == "f32"
    head = "q8_0" if file_type == "q8_0" else "q6_k"
    assert chosen(file_type, "output", -1) == head
    assert chosen(file_type, "token_embd", -1) == BASES[file_type]
    assert chosen(file_type, "token_embd", -1, PLAIN._replace(tied=True)) == head


@pytest.mark.parametrize(
    ("file_type", "name", "layers", "kind"),
    [
        ("q4_k_m", "attn_v", [0, 3, 6, 9, 28, 31], "q6_k"),
        ("q4_k_m", "attn_v", [4, 5, 7, 26], "q4_k"),
        ("q4_k_m", "ffn_down", [0, 3, 6, 28], "q6_k"),
        ("q5_k_m", "ffn_down", [0, 6], "q6_k"),
        ("q5_k_m", "ffn_down", [4, 5], "q5_k"),
        ("q5_k_s", "attn_v", [0, 31], "q5_k"),
        ("q4_k_s", "attn_v", [0, 3], "q5_k"),
        ("q4_k_s", "attn_v", [4], "q4_k"),
        ("q4_k_s", "ffn_down", [0, 3], "q5_k"),
        ("q4_k_s", "ffn_down", [4], "q4_k"),
        ("q3_k_m", "attn_v", [0, 1], "q5_k"),
        ("q3_k_m", "attn_v", [2, 31], "q4_k"),
        ("q3_k_m", "ffn_down", [0, 1], "q5_k"),
        ("q3_k_m", "ffn_down", [2], "q4_k"),
        ("q3_k_m", "attn_output", [9], "q4_k"),
        ("q3_k_l", "attn_output", [9], "q5_k"),
        ("q3_k_l", "ffn_down", [9], "q5_k"),
        ("q3_k_s", "ffn_down", [0], "q3_k"),
        ("q2_k_s", "attn_v", [0], "q2_k"),
        ("q2_k_s", "ffn_down", [0, 3], "q4_k"),
        ("q2_k_s", "ffn_down", [4], "q2_k"),
        ("q6_k", "ffn_down", [0], "q6_k"),
    ],
)
def test_sensitive_matrices_get_more(
    file_type: str, name: str, layers: list[int], kind: str
) -> None:
    assert {chosen(file_type, name, layer) for layer in layers} == {kind}


def test_heads_that_share_values_and_experts_change_the_rules() -> None:
    assert chosen("q2_k_s", "attn_v", 9, SHARED) == "q4_k"
    assert chosen("q4_k_m", "attn_v", 9, EIGHT) == "q8_0"
    assert chosen("q4_k_m", "attn_k", 9, EIGHT) == "q8_0"
    assert chosen("q4_k_m", "attn_output", 9, EIGHT) == "q5_k"
    large = SHARED._replace(layers=80, sharing=8)
    assert chosen("q4_k_m", "attn_v", 11, large) == "q5_k"


def test_rows_that_do_not_fit_fall_back() -> None:
    wanted = {
        "q2_k_s": "q4_0",
        "q3_k_s": "q4_0",
        "q4_k_s": "q5_0",
        "q5_k_s": "q5_1",
        "q6_k": "q8_0",
    }
    for file_type, kind in wanted.items():
        assert chosen(file_type, "attn_q", 9, width=576) == kind
        assert chosen(file_type, "attn_q", 9, width=100) == "f16"
    assert chosen("q4_0", "attn_q", 9, width=100) == "f16"
    assert chosen("q4_k_m", "output", -1, width=576) == "q8_0"


def test_more_bits_go_to_both_ends_and_every_third() -> None:
    assert [layer for layer in range(16) if more_bits(layer, 16)] == [0, 1, 4, 7, 10, 13, 14, 15]


@pytest.mark.parametrize("kind", list(GGUF_TYPES))
def test_schemes_and_types_name_each_other(kind: str) -> None:
    scheme = scheme_of(kind)
    assert scheme is not None
    assert kind_of(scheme) == kind
    assert block_of(kind) == GGUF_TYPES[kind].block
    assert scheme.bits == GGUF_TYPES[kind].bits


def test_other_schemes_have_no_type() -> None:
    assert scheme_of("f16") is None
    assert kind_of(Scheme(4, 128, True)) is None
    assert kind_of(Scheme(4, 32, False)) is None
