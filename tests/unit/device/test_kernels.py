"""How a kernel is chosen: by device, by what it can run, by name, by rank and by the clock."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from autoround.device import kernels as registry
from autoround.device.kernels import Demand, Found, choose, faster_if_installed
from autoround.device.protocol import Availability
from autoround.errors import DeviceError, UsageError
from autoround.types import Scheme

DEMAND = Demand((64, 64), Scheme(4, 32, True), "cpu", torch.float32)


class Fake:
    """A kernel that does nothing, in a given time."""

    devices: tuple[str, ...] = ("cpu",)
    timed = True
    reversible = True

    def __init__(self, name: str, rank: int, *, reason: str = "", install: str = "") -> None:
        self.name, self.rank, self.install = name, rank, install
        self.reason = reason

    def why_not(self, demand: Demand) -> str:
        return self.reason


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Return a function that registers kernels, and with what seconds they are timed."""

    def register(*found: tuple[Fake, bool], seconds: dict[str, float] | None = None) -> None:
        rows = [
            Found(k.name, k, Availability(here, "" if here else "is not there"))
            for k, here in found
        ]  # type: ignore[arg-type]
        rows.sort(key=lambda f: -f.kernel.rank if f.kernel else 0)
        monkeypatch.setattr(registry, "kernels", lambda: tuple(rows))
        monkeypatch.setattr(registry, "_seconds", lambda k, d: (seconds or {}).get(k.name, 1.0))
        registry._choose.cache_clear()

    yield register
    registry._choose.cache_clear()


def test_the_fastest_by_the_clock_is_chosen_among_the_timed(given: Any) -> None:
    given((Fake("a", 5), True), (Fake("b", 4), True), seconds={"a": 2.0, "b": 1.0})
    choice = choose(DEMAND)
    assert choice.kernel.name == "b"
    assert {v.name: v.seconds for v in choice.verdicts} == {"a": 2.0, "b": 1.0}


def test_rank_decides_where_the_first_is_not_timed(given: Any) -> None:
    first = Fake("a", 5)
    first.timed = False
    given((first, True), (Fake("b", 4), True), seconds={"b": 0.1})
    assert choose(DEMAND).kernel.name == "a"


def test_what_cannot_run_a_layer_is_passed_over_with_its_reason(given: Any) -> None:
    elsewhere = Fake("e", 9)
    elsewhere.devices = ("cuda",)
    given(
        (Fake("a", 5, reason="for 8 bits, not 4"), True),
        (Fake("b", 4, install="some-package"), False),
        (Fake("c", 1), True),
        (Fake("d", -1), True),
        (elsewhere, True),
    )
    choice = choose(DEMAND)
    assert choice.kernel.name == "c"
    assert {v.name: v.reason for v in choice.verdicts} == {
        "e": "for cuda only",
        "a": "for 8 bits, not 4",
        "b": "is not there: pip install some-package",
        "c": "",
        "d": "only by name",
    }
    assert faster_if_installed(DEMAND, choice.kernel) == ["some-package"]
    assert choose(DEMAND, "d").kernel.name == "d"


def test_a_name_is_kept_to(given: Any) -> None:
    given((Fake("a", 5, reason="for 8 bits, not 4"), True), (Fake("c", 1), True))
    with pytest.raises(DeviceError, match=r"64 inputs and 64 outputs, W4 g32 sym.*a: for 8 bits"):
        choose(DEMAND, "a")
    with pytest.raises(UsageError, match="no kernel is named 'z'; legal: auto, a, c"):
        choose(DEMAND, "z")


def test_one_that_fails_is_infinitely_slow() -> None:
    class Broken(Fake):
        def pack(self, layer: Any, order: Any) -> Any:
            raise RuntimeError("no such instruction")

    assert registry._seconds(Broken("x", 1), DEMAND) == float("inf")  # type: ignore[arg-type]
