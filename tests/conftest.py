"""What every test has in common: no network, and output that does not depend on the terminal."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# Read by the hub libraries when they are imported, so set before any test module is.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# The models here are tiny: threads that wait for each other cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Help and tables are drawn for the terminal; a fixed one makes their text predictable.
os.environ["COLUMNS"] = "120"
os.environ["NO_COLOR"] = "1"
os.environ["TERM"] = "dumb"
for name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
    os.environ.pop(name, None)


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):
        return True
    host = address[0]
    if host in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refuse connections that leave the machine, so that no test comes to depend on one."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: Any) -> None:
        if not _is_local(address):
            raise OSError(f"tests have no network, yet this one connects to {address!r}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", local_only)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a tiny float32 checkpoint with tokenizer, to be read only.

    It takes a name in ``tiny.KINDS``; each one is made once.
    """
    made: dict[str, Path] = {}

    def make(kind: str) -> Path:
        # Imported late: most tests need no torch.
        from .tiny import write_checkpoint

        if kind not in made:
            folder = tmp_path_factory.mktemp("tiny") / kind
            made[kind] = write_checkpoint(kind, folder, tokenizer=True)
        return made[kind]

    return make


@pytest.fixture(scope="session")
def quantized_family(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives a quantized tiny checkpoint of a family, to be read only.

    It takes a name in ``zoo.FAMILIES``; each one is made once, experts packed.
    """
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        from .families import write_quantized_family

        if name not in made:
            made[name] = write_quantized_family(name, tmp_path_factory.mktemp("family") / name)
        return made[name]

    return make
