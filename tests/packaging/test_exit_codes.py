"""docs/exit-codes.md and autoround.errors must say the same."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from autoround import errors

DOCUMENT = Path(__file__).parents[2] / "docs" / "exit-codes.md"
ROW = re.compile(r"^\| (\d+) \| (?:`(\w+)`|–) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def documented() -> list[tuple[int, str]]:
    return [(int(code), name) for code, name, _, _ in ROW.findall(DOCUMENT.read_text("utf-8"))]


def raised() -> dict[str, int]:
    return {
        name: kind.exit_code
        for name, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.AutoRoundError)
    }


def test_every_error_is_documented_with_its_code() -> None:
    assert {name: code for code, name in documented() if name} == raised()


def test_codes_without_an_error_are_documented() -> None:
    without_error = [code for code, name in documented() if not name]
    assert without_error == [
        0,
        errors.HANGUP_EXIT_CODE,
        errors.INTERRUPTED_EXIT_CODE,
        errors.READER_GONE_EXIT_CODE,
        errors.TERMINATED_EXIT_CODE,
    ]


def test_every_error_has_a_code_of_its_own_and_the_table_is_sorted() -> None:
    codes = [code for code, _ in documented()]
    assert codes == sorted(set(codes))
    assert len(set(raised().values())) == len(raised())
