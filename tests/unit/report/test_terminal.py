"""Text of any origin on a terminal: shown, never obeyed, in whatever encoding there is."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoround.report.terminal import NEAREST, printable, wrap_words, write_nearest


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("model.layers.0", "model.layers.0"),
        ("é 漢 🙂 → ×", "é 漢 🙂 → ×"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("bell\x07", "bell\\x07"),
        ("line\nnext\r", "line\\nnext\\r"),
        ("c1 \x9b31m", "c1 \\x9b31m"),
        ("\u202eabc", "\\u202eabc"),
        ("\u2028", "\\u2028"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_obeys_is_written_as_an_escape(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_some_characters_may_be_kept() -> None:
    assert printable("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@given(st.text(st.characters(blacklist_categories=())))
def test_nothing_of_any_text_is_obeyed(text: str) -> None:
    shown = printable(text)
    assert all(
        unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp") and c not in "\u202a\u202e\u2066"
        for c in shown
    )
    shown.encode()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
@given(text=st.text(st.sampled_from([*NEAREST, "a", "漢", "\ud800"]), max_size=8))
def test_encodings_that_lack_a_character_get_the_nearest(encoding: str, text: str) -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding)
    write_nearest(stream)
    stream.write(text)
    stream.flush()
    expected = ""
    for character in text:
        try:
            character.encode(encoding)
            expected += character
        except UnicodeEncodeError:
            expected += NEAREST.get(character, "?")
    assert raw.getvalue().decode(encoding) == expected


def test_other_streams_are_left_alone() -> None:
    stream = io.StringIO()
    write_nearest(stream)
    stream.write("→")
    assert stream.getvalue() == "→"


def test_lines_break_between_words() -> None:
    text = "note         one two three"
    assert wrap_words(text, 80, indent=13) == text
    assert wrap_words(text, 20, indent=13).splitlines() == ["note         one two", "  three"]
    wide = "a  " + "字" * 4 + " " + "字" * 4
    assert wrap_words(wide, 14).splitlines() == ["a  字字字字", "  字字字字"]
    # A word that no line holds is left to the terminal; columns stay as they are.
    assert wrap_words("x" * 30, 10) == "x" * 30
    assert wrap_words("a  b  c", 80) == "a  b  c"
