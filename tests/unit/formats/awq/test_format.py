"""AWQ holds one scheme of 4 bits, and is read by the names of its tensors."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.formats.awq.format import FORMATS
from autoround.types import Scheme

from .._plans import plan_of, read_back, schemes

AWQ = FORMATS[0]


@pytest.mark.parametrize("sym", [True, False])
@pytest.mark.parametrize("size", [32, -1])
def test_what_is_written_reads_back_as_planned(sym: bool, size: int) -> None:
    scheme = Scheme(4, size, sym)
    plan = plan_of([scheme, None, scheme], [scheme, scheme, scheme])
    assert read_back(AWQ, plan) == schemes(plan)


def test_only_one_scheme_of_four_bits_is_held() -> None:
    layout = AWQ.layouts[0]
    four, wide = Scheme(4, 32, True), Scheme(4, 64, True)
    assert AWQ.unfit(layout, {four: ""}) == ""
    assert AWQ.unfit(layout, {four: "", wide: "layers[0]"}) == (
        "W4 g32 sym and W4 g64 sym in one model: its config has one scheme for all layers"
    )
    assert AWQ.unfit(layout, {Scheme(8, 32, True): "layers[1]"}) == (
        "W8 g32 sym of layers[1]: it holds 4 bits only, not 8"
    )
    assert "keep the head in 16 bit" in AWQ.headless()


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"version": "gemv"}, "AWQ version 'gemv' cannot be read; legal: gemm"),
        ({"bits": "four"}, "bits of the model is 'four'"),
        ({"group_size": "many"}, "group_size of the model is 'many'"),
        ({"zero_point": "some"}, "zero_point of the model is 'some', which is neither"),
        ({"version": "Marlin"}, "AWQ version 'marlin' cannot be read; legal: gemm"),
    ],
)
def test_configs_that_cannot_be_read_are_refused(config: dict[str, Any], words: str) -> None:
    whole = {"quant_method": "awq", "bits": 4, "group_size": 32, **config}
    with pytest.raises(FormatError, match=words):
        AWQ.packed_layers(whole, {"a": (8, 8)}, {"a.qweight"})


def test_old_and_new_words_mean_the_same() -> None:
    tensors = {"a.qweight", "b.weight"}
    shapes = {"a": (8, 32), "b": (8, 32)}
    old = {"w_bit": 4, "q_group_size": 32, "version": "GEMM", "zero_point": True}
    new = {"bits": 4, "group_size": 32}
    found = [AWQ.packed_layers(config, shapes, tensors) for config in (old, new)]
    assert found[0] == found[1]
    assert {name: held.scheme for name, held in found[0].items()} == {"a": Scheme(4, 32, False)}
