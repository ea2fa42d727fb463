"""Checkpoints of the compressed-tensors library read back as they were planned."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.formats.compressed_tensors.format import FORMATS
from autoround.types import Scheme

from .._plans import plan_of, read_back, schemes

W4, W8 = Scheme(4, 32, True), Scheme(8, -1, False)


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
@pytest.mark.parametrize(
    "blocks", [[[W4, W4, W4]], [[W4, None, W4]], [[W4, W8, None], [W8, W4, W8]]]
)
@pytest.mark.parametrize("head", [None, W8])
def test_what_is_written_reads_back_as_planned(
    one: Any, blocks: list[list[Scheme | None]], head: Scheme | None
) -> None:
    plan = plan_of(*blocks, head=head)
    assert read_back(one, plan) == schemes(plan)


def test_both_names_are_of_one_format() -> None:
    first, second = FORMATS
    assert (first.name, second.name) == ("compressed-tensors", "llm_compressor")
    assert first.layouts == second.layouts
    assert all(one.reads({"quant_method": "compressed-tensors"}) for one in FORMATS)
