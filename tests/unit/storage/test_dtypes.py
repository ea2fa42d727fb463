"""Names of dtypes say what torch does of them."""

from __future__ import annotations

import pytest
import torch

from autoround.storage.dtypes import ITEM_BYTES, SAFETENSORS, is_floating


@pytest.mark.parametrize("name", ITEM_BYTES)
def test_bytes_and_kind_are_those_of_torch(name: str) -> None:
    dtype = getattr(torch, name)
    assert str(dtype) == f"torch.{name}"
    assert ITEM_BYTES[name] == dtype.itemsize
    assert is_floating(name) == dtype.is_floating_point


def test_what_can_be_read_has_a_size() -> None:
    assert set(SAFETENSORS.values()) == set(ITEM_BYTES)
