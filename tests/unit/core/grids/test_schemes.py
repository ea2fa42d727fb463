from __future__ import annotations

import pytest

from autoround.core.grids.gguf_types import GGUF_TYPES, scheme_of_type
from autoround.core.grids.levels import AsymmetricLevels, SymmetricLevels
from autoround.core.grids.scales import HALF
from autoround.core.grids.schemes import scheme_levels, scheme_scales
from autoround.types import Scheme


def test_plain_schemes_have_integers_and_float16() -> None:
    assert scheme_levels(Scheme(4, 32, True)) == SymmetricLevels(4)
    assert scheme_levels(Scheme(3, 32, False)) == AsymmetricLevels(3)
    assert scheme_levels(Scheme(3, 32, False), lowest_zero=1) == AsymmetricLevels(3, 1)
    assert scheme_scales(Scheme(4, 32, True)) == HALF


@pytest.mark.parametrize("name", sorted(name for name, kind in GGUF_TYPES.items() if kind.nested))
def test_block_types_have_scales_of_their_own(name: str) -> None:
    kind, scheme = GGUF_TYPES[name], scheme_of_type(name)
    assert scheme_scales(scheme) == kind.nested
    assert scheme_levels(scheme).count == 2**kind.bits
    assert scheme_levels(scheme).fixed_zero == kind.sym
