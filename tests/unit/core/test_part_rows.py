"""The matrices of a stacked expert share its rows out among them."""

from __future__ import annotations

import pytest

from autoround.core.part_rows import part_rows


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_every_row_is_in_one_part(parts: int, interleaved: bool) -> None:
    rows = list(range(12))
    cut = [rows[part_rows(12, part, parts, interleaved=interleaved)] for part in range(parts)]
    assert sorted(row for own in cut for row in own) == rows
    assert {len(own) for own in cut} == {12 // parts}
    assert cut[0][1] - cut[0][0] == (parts if interleaved else 1)
