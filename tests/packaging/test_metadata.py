"""The installed distribution: its version, its command and its entry points."""

from __future__ import annotations

from importlib import metadata

import pytest

import autoround
from autoround._version import __version__

DISTRIBUTION = "autoround-toolkit"


@pytest.fixture(scope="module")
def distribution() -> metadata.Distribution:
    try:
        return metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        pytest.skip(f"{DISTRIBUTION} is not installed in this environment; run `make setup`")


def test_versions_agree(distribution: metadata.Distribution) -> None:
    assert distribution.version == __version__
    assert autoround.__version__ == __version__


def test_command_resolves(distribution: metadata.Distribution) -> None:
    commands = [e for e in distribution.entry_points if e.group == "console_scripts"]
    assert [e.name for e in commands] == ["autoround"]
    assert callable(commands[0].load())


def test_backends_resolve(distribution: metadata.Distribution) -> None:
    backends = {e.name: e for e in distribution.entry_points if e.group == "autoround.backends"}
    # The NumPy oracle is for tests; registering it would offer it to users as a device.
    assert set(backends) == {"cpu", "cuda", "xpu", "null"}
    for entry in backends.values():
        backend = entry.load()
        assert backend is not None
        assert entry.value == f"autoround_backends.{entry.name}:BACKEND"


def test_python_and_licence_are_declared(distribution: metadata.Distribution) -> None:
    assert distribution.metadata["Requires-Python"] == ">=3.10"
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
