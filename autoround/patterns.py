"""Regular expressions of recipes and of other programs' configs, with a second for each name.

Some expressions take longer than the age of the universe on a name of thirty letters: repeats
inside repeats. Python's own module cannot be stopped; this one, which transformers depends on as
well, can.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import regex

#: Seconds that an expression may take on one name.
SECONDS = 1.0
#: Characters of an expression at most.
LONGEST = 10_000


class PatternError(ValueError):
    """An expression that is none, or that takes too long."""


@lru_cache(maxsize=1024)
def compile_pattern(pattern: str) -> Any:
    """Compile a regular expression.

    Args:
        pattern: in the syntax of Python's ``re``.

    Raises:
        PatternError: it is not a regular expression, or longer than any that is meant.
    """
    if len(pattern) > LONGEST:
        raise PatternError(f"a regular expression of {len(pattern)} characters; legal: {LONGEST}")
    try:
        return regex.compile(pattern)
    except (regex.error, OverflowError, RecursionError, ValueError) as error:
        raise PatternError(f"not a regular expression: {error}") from None


def matches(pattern: str, name: str, *, anywhere: bool = False, seconds: float = SECONDS) -> bool:
    """Tell whether a name begins with what an expression describes, or holds it.

    Args:
        pattern: in the syntax of Python's ``re``.
        name: such as that of a layer.
        anywhere: whether it may begin anywhere in the name, and not at its start only.
        seconds: that it may take.

    Raises:
        PatternError: it is not a regular expression, or takes too long.
    """
    compiled = compile_pattern(pattern)
    find = compiled.search if anywhere else compiled.match
    try:
        return find(name, timeout=seconds) is not None
    except (TimeoutError, MemoryError):
        raise PatternError(
            f"regular expression {pattern[:80]!r} takes more than {seconds:g} s on {name!r}; write "
            "one without repeats inside repeats"
        ) from None
