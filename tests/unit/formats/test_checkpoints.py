"""Reading what GPTQ and AWQ checkpoints of other programs say."""

from __future__ import annotations

import re
from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.formats.checkpoints import packed_layers
from autoround.formats.format import PackedLayer
from autoround.types import Scheme

SHAPES = {name: (64, 64) for name in ("h.0.q", "h.0.k", "h.1.q", "lm_head")}
TENSORS = ["h.0.q.qweight", "h.0.k.qweight", "h.1.q.weight", "lm_head.weight"]
GPTQ: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": True}
AWQ: dict[str, Any] = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True}
W4 = Scheme(4, 32, True)


def test_the_files_say_which_layers_are_quantized() -> None:
    found = packed_layers(GPTQ, SHAPES, TENSORS)
    assert found == dict.fromkeys(("h.0.q", "h.0.k"), PackedLayer(W4, "auto_round:auto_gptq"))


@pytest.mark.parametrize(
    ("keys", "bare", "indexed"),
    [
        ({}, "auto_round:auto_gptq", "gptq"),
        ({"checkpoint_format": "gptq_v2"}, "auto_round", "gptq_v2"),
        ({"format": "gptq_v2"}, "auto_round", "gptq_v2"),
    ],
)
def test_an_index_of_groups_may_be_there_or_not(
    keys: dict[str, Any], bare: str, indexed: str
) -> None:
    found = packed_layers({**GPTQ, **keys}, SHAPES, [*TENSORS, "h.0.k.g_idx"])
    assert (found["h.0.q"].packing, found["h.0.k"].packing) == (bare, indexed)


def test_dynamic_rules_set_schemes() -> None:
    rules = {"-:nothing": {}, r"+:.*\.k$": {"bits": 8, "group_size": -1}, ".*q": {"sym": False}}
    found = packed_layers({**GPTQ, "dynamic": rules}, SHAPES, TENSORS)
    assert found["h.0.k"].scheme == Scheme(8, -1, True)
    assert found["h.0.q"].scheme == Scheme(4, 32, False)


@pytest.mark.parametrize("zero_point", [True, False])
def test_awq_says_whether_it_has_zero_points(zero_point: bool) -> None:
    found = packed_layers({**AWQ, "zero_point": zero_point}, SHAPES, TENSORS)
    assert found["h.0.q"] == PackedLayer(Scheme(4, 32, not zero_point), "awq")


def test_old_awq_configs_have_other_names() -> None:
    keys = {"quant_method": "awq", "w_bit": 4, "q_group_size": 32}
    assert packed_layers(keys, SHAPES, TENSORS)["h.0.q"].scheme == Scheme(4, 32, False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({}, "quant_method is None; legal: auto-round, gptq, awq"),
        ({"quant_method": "fp8"}, "quant_method is 'fp8'"),
        ({**AWQ, "version": "gemv"}, "AWQ version 'gemv' cannot be read; legal: gemm"),
        ({**GPTQ, "checkpoint_format": "marlin"}, "checkpoint_format 'marlin' cannot be read"),
        ({**GPTQ, "bits": 9}, "bits of layer h.0.q is 9; legal: 2, 3, 4, 5, 6, 7, 8"),
        ({**GPTQ, "bits": "four"}, "bits of layer h.0.q is 'four'"),
        ({**GPTQ, "group_size": -3}, "group_size of layer h.0.q is -3"),
        ({**GPTQ, "transform_config": {"u": {}}}, "transform_config says that inputs of layers"),
        ({**GPTQ, "dynamic": ["a"]}, "dynamic is not a table"),
        ({**GPTQ, "dynamic": {"(": {}}}, "dynamic rule '(' is not a regex"),
        ({**GPTQ, "dynamic": {".*": 4}}, "dynamic rule '.*' is not a table"),
    ],
)
def test_what_cannot_be_read_is_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=re.escape(words)):
        packed_layers(config, SHAPES, TENSORS)
