"""Tables of addresses: kept as long as a recording reads them, filled when it is made."""

from __future__ import annotations

import weakref
from typing import Any

import pytest
import torch

from autoround_backends import _address_tables
from autoround_backends._address_tables import AddressTables, signed

CPU = torch.device("cpu")


def test_tables_that_a_recording_reads_are_not_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_address_tables, "TABLES", 1)
    tables = AddressTables(CPU)
    lost = weakref.ref(tables.get([[1, 2], [3, 4]]))
    with tables.keeping() as kept:
        read = tables.get([[5]])
        again = tables.get([[5]])
    assert again is read
    tables.get([[6]])
    assert lost() is None, "another table took its place"
    assert [each is read for each in kept] == [True, True]
    tables.get([[5]])
    assert len(kept) == 2, "what comes after the context is not kept"


def test_tables_of_what_is_recorded_are_filled_when_it_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def used(*shape: Any, **options: Any) -> torch.Tensor:
        return torch.full(shape, 7, **options)

    monkeypatch.setattr(torch, "empty", used)
    tables = AddressTables(CPU)
    before = tables.get([[1, 2]])
    with tables.keeping() as kept, tables.filling():
        table = tables.get([[2**64 - 1, 33], [8, 0]])
        assert table.tolist() == [7] * 4, "nothing can be copied while launches are recorded"
        assert tables.get([[1, 2]]) is before
    assert table.tolist() == [-1, 33, 8, 0]
    assert any(each is table for each in kept)
    with pytest.raises(RuntimeError), tables.filling():
        raise RuntimeError("cannot be recorded")
    assert tables.get([[9]]).tolist() == [9], "afterwards tables are filled at once again"


def test_a_table_that_was_not_filled_is_not_found_again() -> None:
    tables = AddressTables(CPU)

    def refuse() -> None:
        tables.get([[1, 2]]).fill_(7)
        raise RuntimeError("cannot be recorded")

    with pytest.raises(RuntimeError), tables.filling():
        refuse()
    assert tables.get([[1, 2]]).tolist() == [1, 2]


def test_addresses_in_the_upper_half_are_negative() -> None:
    assert [signed(number) for number in (0, 2**63 - 1, 2**63, 2**64 - 1)] == [
        0,
        2**63 - 1,
        -(2**63),
        -1,
    ]
