from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from autoround.device import registry
from autoround.device.protocol import Availability
from autoround.device.registry import GROUP, backends
from autoround.device.runtime import TorchRuntime
from autoround.errors import DeviceError


def open_device(device: str = "auto") -> Any:
    """Open a device; returns what a fake was asked for."""
    runtime = registry.open_device(device)
    return getattr(runtime, "asked", runtime)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Forget what was probed, before and after."""
    backends.cache_clear()
    yield
    backends.cache_clear()


@dataclass(frozen=True)
class Entry:
    """Stands for an entry point."""

    name: str
    load: Callable[[], Any]
    package: str = "third_party"

    @property
    def value(self) -> str:
        return f"{self.package}.{self.name}:BACKEND"


class Opened(TorchRuntime):
    """A runtime that knows what it was asked for."""

    def __init__(self, name: str, index: int | None) -> None:
        super().__init__(name, torch.device("cpu"))
        self.asked = (name, index)


class Fake:
    """A backend whose runtime is what it was asked for."""

    def __init__(self, name: str, rank: int, *devices: str, reason: str = "") -> None:
        self.name, self.rank = name, rank
        self._answer = Availability(bool(devices), reason, devices)

    def probe(self) -> Availability:
        return self._answer

    def open(self, index: int | None) -> Any:
        return Opened(self.name, index)


def _same(fake: Fake) -> Fake:
    return fake


Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Return a function that makes backends the only registered ones."""

    def set_entries(*entries: Entry | Fake) -> None:
        def given(group: str) -> list[Entry]:
            assert group == GROUP
            return [
                e if isinstance(e, Entry) else Entry(e.name, partial(_same, e)) for e in entries
            ]

        monkeypatch.setattr(registry, "entry_points", given)

    return set_entries


def test_ours_come_in_by_entry_point() -> None:
    found = {f.name: f for f in backends()}
    assert {"cpu", "cuda", "xpu", "null"} <= set(found)
    assert found["cpu"].availability.available
    assert found["null"].availability.available
    assert all(f.backend is not None and f.backend.name == f.name for f in found.values())
    ranks = [f.backend.rank for f in backends() if f.backend is not None]
    assert ranks == sorted(ranks, reverse=True)


def test_devices_open_by_name() -> None:
    assert open_device("cpu").device.type == "cpu"
    assert open_device("cpu:0").device.type == "cpu"
    assert open_device("null").device.type == "meta"


def test_backends_are_probed_once(register: Register) -> None:
    loads = []

    def load() -> Fake:
        loads.append(0)
        return Fake("fast", 5, "fast:0")

    register(Entry("fast", load))
    assert open_device("fast") == open_device("auto") == ("fast", None)
    assert len(loads) == 1


def test_auto_takes_the_highest_rank_that_can_run(register: Register) -> None:
    slow, fast = Fake("slow", 0, "slow"), Fake("fast", 5, "fast:0", "fast:1")
    broken = Fake("newest", 9, reason="no driver")
    register(slow, fast, broken)
    assert [f.name for f in backends()] == ["newest", "fast", "slow"]
    assert open_device("auto") == open_device() == ("fast", None)
    assert open_device("fast:1") == ("fast", 1)
    assert open_device("slow") == ("slow", None)


def test_auto_takes_none_of_negative_rank(register: Register) -> None:
    register(Fake("rehearsal", -1, "rehearsal"))
    with pytest.raises(DeviceError, match="no backend can run here; devices here: auto, rehearsal"):
        open_device("auto")
    assert open_device("rehearsal") == ("rehearsal", None)


def test_auto_takes_no_index() -> None:
    with pytest.raises(DeviceError, match="'auto' takes no index"):
        open_device("auto:0")


@pytest.mark.parametrize(
    "name",
    [
        "",
        "CPU",
        "cpu:",
        "cpu:x",
        "cpu:-1",
        "cpu:0:1",
        " cpu",
        "cpu ",
        "cpu\n",
        ":0",
        "../cpu",
        "-1",
    ],
)
def test_malformed_names_are_refused(name: str) -> None:
    with pytest.raises(DeviceError, match=r"is not of the form NAME or NAME:INDEX; devices here"):
        open_device(name)


def test_a_number_is_an_accelerator_of_which_there_may_be_none() -> None:
    with pytest.raises(DeviceError, match="1 is the accelerator of that number, and there is none"):
        open_device("1")


def test_unknown_names_list_what_there_is(register: Register) -> None:
    register(Fake("fast", 5, "fast:0", "fast:1"), Fake("slow", 0, "slow"), Fake("dead", 1))
    with pytest.raises(DeviceError) as caught:
        open_device("abacus")
    message = "there is no backend named 'abacus'; devices here: auto, fast:0, fast:1, slow"
    assert str(caught.value) == message


def test_an_unavailable_backend_says_why(register: Register) -> None:
    register(Fake("dead", 1, reason="no driver"), Fake("slow", 0, "slow"))
    with pytest.raises(DeviceError, match="device 'dead:0' is not available: no driver; devices"):
        open_device("dead:0")


def test_without_any_backend_the_message_says_what_to_do(register: Register) -> None:
    register()
    for name in ("auto", "cpu"):
        with pytest.raises(DeviceError, match="no backend is registered: reinstall"):
            open_device(name)


def fail_to_import() -> Any:
    raise ModuleNotFoundError("No module named 'third_party'")


class FailingProbe(Fake):
    def probe(self) -> Availability:
        raise OSError("libdriver.so: cannot open")


class OddProbe(Fake):
    def probe(self) -> Any:
        return True


class NoRank:
    name = "bad"

    def probe(self) -> Availability:
        return Availability(True, "", ("bad",))


@pytest.mark.parametrize(
    ("load", "reason"),
    [
        (fail_to_import, "ModuleNotFoundError: No module named 'third_party'"),
        (lambda: FailingProbe("bad", 9), "OSError: libdriver.so: cannot open"),
        (lambda: OddProbe("bad", 9), "TypeError: it is no backend"),
        (NoRank, "AttributeError: 'NoRank' object has no attribute 'rank'"),
        (lambda: None, "AttributeError: 'NoneType' object has no attribute 'probe'"),
    ],
)
def test_a_broken_third_party_is_reported_and_not_fatal(
    load: Callable[[], Any], reason: str, register: Register
) -> None:
    register(Entry("bad", load), Fake("slow", 0, "slow"))
    assert open_device("auto") == ("slow", None)
    found = {f.name: f for f in backends()}
    assert found["bad"].backend is None
    assert not found["bad"].availability.available
    with pytest.raises(DeviceError, match="device 'bad' is not available") as caught:
        open_device("bad")
    assert f"its module third_party.bad:BACKEND fails: {reason}" in str(caught.value)


def test_a_name_that_is_taken_is_reported(register: Register) -> None:
    first, second = Fake("fast", 5, "fast:0"), Fake("fast", 9, "fast:1")
    register(Entry("fast", lambda: first, "ours"), Entry("fast", lambda: second, "theirs"))
    reasons = {f.availability.reason for f in backends() if f.backend is None}
    assert open_device("fast:1") == ("fast", 1)
    (reason,) = reasons
    assert "theirs.fast:BACKEND fails: ValueError: another package has a backend 'fast'" in reason


def test_the_same_package_seen_twice_is_one(register: Register) -> None:
    register(Fake("fast", 5, "fast:0"), Fake("fast", 5, "fast:0"))
    assert [f.name for f in backends()] == ["fast"]


@pytest.mark.parametrize(
    ("fake", "reason"),
    [
        (Fake("other", 5, "other"), "it calls itself 'other', and is registered as 'mine'"),
        (Fake("mine", 5), ""),
    ],
)
def test_a_backend_is_who_it_says(fake: Fake, reason: str, register: Register) -> None:
    register(Entry("mine", partial(_same, fake)))
    assert reason in backends()[0].availability.reason
    with pytest.raises(DeviceError, match="device 'mine' is not available"):
        open_device("mine")


def test_available_without_a_device_is_broken(register: Register) -> None:
    fake = Fake("mine", 5)
    fake._answer = Availability(True, "surely")
    register(fake)
    assert "it is available, and names no device" in backends()[0].availability.reason


class Failing(Fake):
    def open(self, index: int | None) -> Any:
        raise RuntimeError("out of memory")


class Half(Fake):
    def open(self, index: int | None) -> Any:
        runtime = Opened(self.name, index)
        return type("Half", (), {"name": runtime.name, "device": runtime.device})()


def test_what_goes_wrong_in_opening_is_the_backends_own(register: Register) -> None:
    register(Failing("mine", 5, "mine:0"), Half("half", 4, "half:0"), Fake("slow", 0, "slow"))
    wanted = "'mine' cannot open its device: RuntimeError: out of memory; devices here: auto, mine"
    with pytest.raises(DeviceError, match=wanted):
        open_device("mine")
    with pytest.raises(DeviceError, match=r"'half': its runtime has no own_memory, ops, speeds.*"):
        open_device("half")


@pytest.mark.parametrize(
    ("name", "who"), [("mps", "Apple's GPUs"), ("hpu", "Intel Gaudi accelerators")]
)
def test_devices_that_are_not_supported_say_so(name: str, who: str) -> None:
    wanted = rf"device '{name}': {who} are not supported, unless another package .*devices here: .*"
    with pytest.raises(DeviceError, match=wanted):
        open_device(name)


def test_another_package_may_bring_them(register: Register) -> None:
    register(Fake("mps", 5, "mps"), Fake("slow", 0, "slow"))
    assert open_device("mps") == open_device("auto") == ("mps", None)
