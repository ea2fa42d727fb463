"""Programs of others that tests read our files with, and which versions of them can."""

from __future__ import annotations

from importlib.metadata import version

import pytest
from packaging.version import Version

#: The first release of compressed-tensors that packs and reads widths other than 4 and 8 bits.
ANY_WIDTH = "0.18"


def needs_library(bits: int) -> None:
    """Skip a test where compressed-tensors is not installed, or reads other words for a width."""
    lowest = None if bits in (4, 8) else ANY_WIDTH
    pytest.importorskip("compressed_tensors", minversion=lowest)


def is_before(package: str, number: str) -> bool:
    """Tell whether an installed package is older than a version."""
    return Version(version(package)) < Version(number)
