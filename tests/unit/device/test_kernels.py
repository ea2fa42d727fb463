"""How a kernel is chosen: by device, by what it can run, by name, by rank and by the clock."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from autoround.device.kernels import (
    AUTO,
    Choice,
    Demand,
    Kernel,
    RegisteredKernel,
    check_backend,
    choose_among,
    faster_if_installed,
    time_kernel,
)
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


class Registry:
    """Kernels that are registered, and the seconds that they are timed with."""

    def __init__(
        self, *entries: tuple[Fake, bool], seconds: dict[str, float] | None = None
    ) -> None:
        rows = [
            RegisteredKernel(k.name, k, Availability(here, "" if here else "is not there"))  # type: ignore[arg-type]
            for k, here in entries
        ]
        self.rows = sorted(rows, key=lambda row: -row.kernel.rank if row.kernel else 0)
        self._seconds = seconds or {}

    def choose(self, backend: str = AUTO) -> Choice:
        check_backend(backend, registered=self.rows)
        return choose_among(self.rows, DEMAND, backend=backend, timer=self._time)

    def _time(self, kernel: Kernel, demand: Demand) -> float:
        return self._seconds.get(kernel.name, 1.0)


def test_the_fastest_by_the_clock_is_chosen_among_the_timed() -> None:
    registry = Registry((Fake("a", 5), True), (Fake("b", 4), True), seconds={"a": 2.0, "b": 1.0})
    choice = registry.choose()
    assert choice.kernel.name == "b"
    assert {v.name: v.seconds for v in choice.verdicts} == {"a": 2.0, "b": 1.0}


def test_rank_decides_where_the_first_is_not_timed() -> None:
    first = Fake("a", 5)
    first.timed = False
    registry = Registry((first, True), (Fake("b", 4), True), seconds={"b": 0.1})
    assert registry.choose().kernel.name == "a"


def test_what_cannot_run_a_layer_is_passed_over_with_its_reason() -> None:
    elsewhere = Fake("e", 9)
    elsewhere.devices = ("cuda",)
    registry = Registry(
        (Fake("a", 5, reason="for 8 bits, not 4"), True),
        (Fake("b", 4, install="some-package"), False),
        (Fake("c", 1), True),
        (Fake("d", -1), True),
        (elsewhere, True),
    )
    choice = registry.choose()
    assert choice.kernel.name == "c"
    assert {v.name: v.reason for v in choice.verdicts} == {
        "e": "for cuda only",
        "a": "for 8 bits, not 4",
        "b": "is not there: pip install some-package",
        "c": "",
        "d": "only by name",
    }
    assert faster_if_installed(DEMAND, choice.kernel, registered=registry.rows) == ["some-package"]
    assert registry.choose("d").kernel.name == "d"


def test_a_name_is_kept_to() -> None:
    registry = Registry((Fake("a", 5, reason="for 8 bits, not 4"), True), (Fake("c", 1), True))
    with pytest.raises(DeviceError, match=r"64 inputs and 64 outputs, W4 g32 sym.*a: for 8 bits"):
        registry.choose("a")
    with pytest.raises(UsageError, match="no kernel is named 'z'; legal: auto, a, c"):
        registry.choose("z")


@pytest.mark.parametrize(
    ("device", "shape", "timed"),
    [
        ("cpu", (4096, 4096), (1024, 1024)),
        ("cpu", (64, 96), (64, 96)),
        # On an accelerator a small product takes less time than to ask for it.
        ("cuda", (4096, 14336), (4096, 14336)),
    ],
)
def test_kernels_are_timed_at_a_size_that_tells_them_apart(
    device: str, shape: tuple[int, int], timed: tuple[int, int]
) -> None:
    kernels = [Fake("a", 5), Fake("b", 4)]
    for kernel in kernels:
        kernel.devices = ()
    rows = Registry(*((kernel, True) for kernel in kernels)).rows
    seen: list[tuple[int, int]] = []

    def timer(kernel: Kernel, demand: Demand) -> float:
        seen.append(demand.shape)
        return 1.0

    demand = Demand(shape, Scheme(4, 32, True), device, torch.float32)
    choose_among(rows, demand, timer=timer)
    assert seen == [timed, timed]


def test_one_that_fails_is_infinitely_slow() -> None:
    class Broken(Fake):
        def pack(self, layer: Any, order: Any) -> Any:
            raise RuntimeError("no such instruction")

    assert time_kernel(Broken("x", 1), DEMAND) == float("inf")  # type: ignore[arg-type]
