"""Checkpoints as auto-round writes them: the packing follows the schemes."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.formats.auto_round.format import AUTO_ROUND, FORMATS
from autoround.formats.format import Weight
from autoround.types import Scheme

from .._plans import output_of, plan_of, read_back, schemes

SYM, ASYM = Scheme(4, 32, True), Scheme(3, 32, False)


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize("head", [None, SYM])
def test_what_is_written_reads_back_as_planned(one: Any, head: Scheme | None) -> None:
    plan = plan_of([SYM, None, SYM], [SYM, SYM, SYM], head=head)
    assert read_back(one, plan) == schemes(plan)


def test_mixed_schemes_read_back_as_planned() -> None:
    plan = plan_of([SYM, ASYM, Scheme(8, -1, False)], [None, SYM, ASYM], head=Scheme(8, 64, True))
    assert read_back(AUTO_ROUND, plan) == schemes(plan)


def test_zero_points_are_stored_as_they_are_once_any_may_be_0() -> None:
    assert output_of(AUTO_ROUND, plan_of([SYM] * 3)).packing == "auto_round:auto_gptq"
    assert output_of(AUTO_ROUND, plan_of([SYM, ASYM, SYM])).packing == "auto_round"
    assert AUTO_ROUND.layout_for([ASYM]).lowest_zero == 0


def test_asymmetric_weights_of_4_bits_stand_as_engines_read_them() -> None:
    scheme = Scheme(4, 32, False)
    fitting, wide = Weight((64, 128), scheme), Weight((64, 48), scheme)

    def packing(*weights: Weight) -> str:
        return AUTO_ROUND.layout_for({x.scheme for x in weights}, weights).name

    assert packing(fitting) == "auto_round:auto_awq"
    assert packing(fitting, Weight((64, 128), SYM)) == "auto_round:auto_awq"
    # No layout holds widths that are no multiple of 32; groups that do not divide are AWQ's limit.
    assert packing(fitting, wide) == "auto_round:auto_awq"
    uneven = Weight((64, 96), Scheme(4, 64, False))
    assert packing(fitting, uneven) == "auto_round"
    assert packing(fitting, Weight((64, 128), Scheme(8, 32, True))) == "auto_round"
    assert packing(Weight((64, 128), SYM)) == "auto_round:auto_gptq"
    # Where nothing is known of the weights, all are held.
    assert AUTO_ROUND.layout_for({scheme}).name == "auto_round"


def test_a_packing_that_is_named_is_the_one_there_is() -> None:
    for one in FORMATS[1:]:
        assert [layout.name for layout in one.layouts] == [one.name]
        assert one.layout_for([ASYM]) is one.layouts[0]


def test_unquantized_tensors_keep_the_dtype_of_the_model() -> None:
    assert AUTO_ROUND.kept_dtype("bfloat16", chosen=False) == "bfloat16"
    assert AUTO_ROUND.reads({"quant_method": "auto-round"})
    assert not AUTO_ROUND.reads({"quant_method": "gptq"})
