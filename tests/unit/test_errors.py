"""Every error has an exit code of its own, as the page about them says."""

from __future__ import annotations

import re
from pathlib import Path

from autoround import errors
from autoround.errors import (
    HANGUP_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    READER_GONE_EXIT_CODE,
    TERMINATED_EXIT_CODE,
    AutoRoundError,
)

PAGE = Path(__file__).resolve().parents[2] / "docs" / "exit-codes.md"
KINDS = [
    value
    for value in vars(errors).values()
    if isinstance(value, type) and issubclass(value, AutoRoundError)
]


#: How a command ends that somebody else ended.
ENDED = (
    HANGUP_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    READER_GONE_EXIT_CODE,
    TERMINATED_EXIT_CODE,
)


def test_codes_are_those_of_the_page_and_differ() -> None:
    codes = [kind.exit_code for kind in KINDS]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes
    listed = {
        int(code) for code in re.findall(r"^\| *`?(\d+)`? *\|", PAGE.read_text(), re.MULTILINE)
    }
    assert listed == {0, *codes, *ENDED}


def test_one_clause_catches_them_all_and_nothing_else() -> None:
    assert all(kind.__bases__ in ((Exception,), (AutoRoundError,)) for kind in KINDS)
    assert not issubclass(AutoRoundError, OSError | ValueError)


def test_an_interrupt_ends_as_shells_report_it() -> None:
    import signal

    assert INTERRUPTED_EXIT_CODE == 128 + signal.SIGINT
