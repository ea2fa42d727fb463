"""Write the tables of docs/from-auto-round.md from the table of flags: python tools/flags_page.py.

With --check it writes nothing, and ends with 1 where the page is not what it would write.
"""

from __future__ import annotations

import sys
from pathlib import Path

from autoround.recipe.auto_round_flags import UNSUPPORTED
from autoround.recipe.flags import RUN_FLAGS, Flag

PAGE = Path(__file__).parents[1] / "docs" / "from-auto-round.md"
#: Flags that auto-round has none of.
OURS = ("low_memory", "threads", "allow_partial", "target_size", "max_kl", "scores")


def flags_table() -> list[str]:
    """Return the lines of the table of what works."""
    rows = ["| option and argument | also typed | recipe key |", "|---|---|---|"]
    for flag in RUN_FLAGS:
        if flag.name not in OURS or flag.aliases:
            rows.append(f"| {_option(flag)} | {_names(flag.aliases)} | `{flag.key}` |")
    return rows


def unsupported_table() -> list[str]:
    """Return the lines of the table of what does not, names with one word in one row."""
    by_word: dict[str, list[str]] = {}
    for name, word in UNSUPPORTED.items():
        by_word.setdefault(word, []).append(name)
    rows = ["| auto-round's | here |", "|---|---|"]
    return [*rows, *(f"| {_names(names)} | {word} |" for word, names in by_word.items())]


def _option(flag: Flag) -> str:
    return f"`{flag.options[0].replace('/', '`, `')}`"


def _names(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def fill_tables(text: str) -> str:
    """Return the page with its tables as they should be."""
    for mark, rows in (("flags", flags_table()), ("unsupported", unsupported_table())):
        start, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
        table = "\n".join([start, *rows, end])
        before, _, rest = text.partition(start)
        text = before + table + rest.partition(end)[2]
    return text


def main(arguments: list[str]) -> int:
    """Write or check the page; returns the exit code."""
    text = PAGE.read_text(encoding="utf-8")
    wanted = fill_tables(text)
    if "--check" in arguments:
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
