"""The newest transformers that the tests passed with, and a word where a newer one is installed.

Its interfaces change between minor releases, in ways that show as errors and in ways that do not.
"""

from __future__ import annotations

import re
import warnings
from importlib.metadata import PackageNotFoundError, version

#: The minor release that constraints.txt names; releases that only mend it count as tested.
NEWEST_TRANSFORMERS = "5.24"
#: The oldest one that pyproject.toml asks for.
OLDEST_TRANSFORMERS = "5.17"


class UntestedVersionWarning(UserWarning):
    """A dependency is newer than any that this release was tested with."""


def untested_transformers(installed: str | None = None) -> str:
    """Say that transformers is newer than tested, and how to get one that is not.

    Args:
        installed: a version of transformers; None for the installed one.

    Returns:
        A sentence; empty where the version was tested, is older, or cannot be told.
    """
    if installed is None:
        try:
            installed = version("transformers")
        except PackageNotFoundError:
            return ""
    number, newest = _minor(installed), _minor(NEWEST_TRANSFORMERS)
    if number is None or newest is None or number <= newest:
        return ""
    return (
        f"transformers {installed} is newer than {NEWEST_TRANSFORMERS}, the newest that this "
        "release of autoround was tested with; if something fails or looks wrong, install a "
        f"tested one: pip install 'transformers<{newest[0]}.{newest[1] + 1}'"
    )


def transformers_is_tested(installed: str | None = None) -> bool:
    """Tell whether transformers is of a version that this release supports and was tested with.

    Args:
        installed: a version of transformers; None for the installed one.
    """
    try:
        number = _minor(version("transformers") if installed is None else installed)
    except PackageNotFoundError:
        return False
    oldest, newest = _minor(OLDEST_TRANSFORMERS), _minor(NEWEST_TRANSFORMERS)
    assert oldest is not None
    assert newest is not None
    return number is not None and oldest <= number <= newest


def warn_if_untested() -> None:
    """Warn where transformers is newer than tested; Python shows it once a process."""
    text = untested_transformers()
    if text:
        warnings.warn(text, UntestedVersionWarning, stacklevel=1)


def _minor(number: str) -> tuple[int, int] | None:
    match = re.match(r"(\d+)\.(\d+)", number)
    return None if match is None else (int(match[1]), int(match[2]))
