"""Values that travel between the rooms, and the names they are known by."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import pytest
import torch

from autoround.types import BlockPlan, LayerPlan, Plan, Scheme

from ..tiny_quantized import make_plan

W4 = Scheme(4, 32, True)
PLAIN = LayerPlan("m.0.mlp.up", (8, 32), W4, block="m.0")
STACKED = LayerPlan(
    "m.0.experts.gate_up", (16, 32), W4, experts=2, files=("f.{}.a", "f.{}.b"), block="m.0"
)
HEAD = LayerPlan("lm_head", (8, 32), None, "outside")
BLOCK = BlockPlan(0, "m.0", (PLAIN, STACKED, replace(PLAIN, name="m.0.gate", scheme=None)))


@pytest.mark.parametrize(
    ("scheme", "words"),
    [
        (Scheme(4, 128, True), "W4 g128 sym"),
        (Scheme(3, -1, False), "W3 channel asym"),
        (Scheme(8, 0, True), "W8 tensor sym"),
        (Scheme(4, 32, False, "q4_k"), "Q4_K"),
    ],
)
def test_a_scheme_in_words(scheme: Scheme, words: str) -> None:
    assert str(scheme) == words


def test_a_layer_is_a_module_and_stacked_experts_are_a_parameter() -> None:
    assert (PLAIN.tensor, PLAIN.path, PLAIN.param) == (
        "m.0.mlp.up.weight",
        "mlp.up",
        "mlp.up.weight",
    )
    assert (STACKED.tensor, STACKED.param) == ("m.0.experts.gate_up", "experts.gate_up")
    assert (HEAD.tensor, HEAD.path, HEAD.param) == ("lm_head.weight", "lm_head", "lm_head.weight")


def test_names_and_number_of_the_matrices_in_files() -> None:
    assert (PLAIN.file, PLAIN.parts) == ("m.0.mlp.up", 1)
    assert replace(PLAIN, files=("f.up",)).file == "f.up"
    assert STACKED.parts == 2
    # Names of files are no parts where nothing is stacked.
    assert replace(PLAIN, files=("f.up",)).parts == 1


def test_a_block_knows_what_gets_a_scheme_and_its_tensors_inside() -> None:
    assert BLOCK.quantized == (PLAIN, STACKED)
    assert BLOCK.quantized_tensors == {"m.0.mlp.up.weight", "m.0.experts.gate_up"}
    one = torch.ones(1)
    found = BLOCK.by_param({"m.0.mlp.up.weight": one, "m.0.m.0.x": one})
    assert list(found) == ["mlp.up.weight", "m.0.x"]


def test_a_plan_lists_blocks_first_and_why_the_rest_is_kept() -> None:
    plan = replace(make_plan((BLOCK,)), kept=(HEAD,))
    assert plan.layers == (*BLOCK.layers, HEAD)
    assert plan.unquantized == {"m.0.gate": "", "lm_head": "outside"}


def test_passes_are_the_plan_itself_and_those_after_it() -> None:
    second: Plan = replace(make_plan((BLOCK,)), dtype="float16")
    plan = replace(make_plan((BLOCK,)), further=(second,))
    assert [one.dtype for one in plan.passes] == ["float32", "float16"]
    assert all(one.further == () for one in plan.passes)
    assert make_plan((BLOCK,)).passes == (make_plan((BLOCK,)),)


def test_values_are_frozen() -> None:
    for value in (W4, PLAIN, BLOCK, make_plan((BLOCK,))):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, dataclasses.fields(value)[0].name, None)
    assert len({W4, Scheme(4, 32, True), Scheme(4, 32, False)}) == 2
