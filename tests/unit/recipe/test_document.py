from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround.recipe import document
from autoround.recipe.document import Node, parse_document, resolve_plain


def parse(text: str | bytes) -> Node:
    data = text.encode() if isinstance(text, str) else text
    root, problems = parse_document(data, "r.yaml")
    assert root is not None
    assert not problems
    return root


def mistakes(text: str | bytes) -> list[str]:
    data = text.encode() if isinstance(text, str) else text
    return [str(problem) for problem in parse_document(data, "r.yaml")[1]]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("5e-3", 0.005),
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        ("2.5e+1", 25.0),
        ("1.", 1.0),
        (".5", 0.5),
        ("-3", -3),
        ("+3", 3),
        ("0", 0),
        ("4.0", 4.0),
        ("true", True),
        ("False", False),
        ("null", None),
        ("~", None),
        ("", None),
        (".inf", math.inf),
        ("-.Inf", -math.inf),
    ],
)
def test_plain_scalars_with_a_meaning(text: str, value: object) -> None:
    found = resolve_plain(text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "no",
        "yes",
        "on",
        "off",
        "y",
        "0128",
        "010",
        "1_000",
        "1:30",
        "0x10",
        "0o7",
        "2024-01-01",
        "e5",
        ".",
        "+",
        "-",
        "1e",
        "nan",
        "inf",
        "<<",
        "=",
        "٣",
        "1" * 100,
        "1 2",
    ],
)
def test_plain_scalars_that_stay_text(text: str) -> None:
    assert resolve_plain(text) == text


def test_nan() -> None:
    value = resolve_plain(".nan")
    assert isinstance(value, float)
    assert math.isnan(value)


@given(number=st.floats(allow_nan=False, allow_infinity=False))
def test_any_python_float_reads_back(number: float) -> None:
    assert resolve_plain(repr(number)) == number


def test_quotes_make_text() -> None:
    assert parse("a: '4'\nb: \"true\"\nc: |\n  5\n").plain() == {"a": "4", "b": "true", "c": "5\n"}


def test_lines_of_keys_and_values() -> None:
    root = parse("# head\na: 1\nb:\n  c: 2\n  d:\n    - x\n    - y\n")
    assert isinstance(root.value, dict)
    b = root.value["b"]
    assert (root.value["a"].origin.line, b.key_origin.line, b.origin.line) == (2, 3, 4)
    assert [item.origin.line for item in b.value["d"].value] == [6, 7]
    assert root.plain() == {"a": 1, "b": {"c": 2, "d": ["x", "y"]}}


def test_byte_order_mark_and_windows_line_ends() -> None:
    root = parse(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert root.plain() == {"a": 1, "b": 2}
    assert isinstance(root.value, dict)
    assert root.value["b"].origin.line == 2


@pytest.mark.parametrize(
    ("text", "start", "part"),
    [
        ("", "r.yaml:1: ", "empty"),
        ("# only a comment\n", "r.yaml:1: ", "empty"),
        ("- a\n", "r.yaml:1: ", "a recipe is a mapping of keys to values, not a list"),
        ("\nhello\n", "r.yaml:2: ", "'hello'"),
        ("null\n", "r.yaml:1: ", "null"),
        ("a: 1\nb: [1\nc: 2\n", "r.yaml:3: ", "YAML syntax"),
        ("a: 1\nb: c: d\n", "r.yaml:2: ", "YAML syntax"),
        ("a: 1\n\tb: 2\n", "r.yaml:2: ", "\\t"),
        ("a: 'x\n", "r.yaml:2: ", "YAML syntax"),
        ("a: 1\n---\nb: 2\n", "r.yaml:2: ", "one YAML document"),
        ("a: 1\nb: x\x07\n", "r.yaml:2: ", "'\\x07'"),
        (b"a: 1\nb: \xff\n", "r.yaml:2: ", "UTF-8"),
        ("a: 1\nb: &x 2\n", "r.yaml:2: ", "anchors"),
        ("a: 1\nb: *x\n", "r.yaml:2: ", "quote text that begins with '*'"),
        ("a: 1\nb: [*.gate]\n", "r.yaml:2: ", "quote text that begins with '*'"),
        ("a: !!int 4\n", "r.yaml:1: ", "tags are not accepted"),
        ("a: !!python/object/apply:os.system [x]\n", "r.yaml:1: ", "tags are not accepted"),
        ("? [a, b]\n: 1\n", "r.yaml:1: ", "a key is a word"),
        ("a: 1\nb: 2\na: 3\n", "r.yaml:3: ", "key 'a' is already given on line 1"),
        ("x:\n  a: 1\n  a: 1\n", "r.yaml:3: ", "key 'a' is already given on line 2"),
    ],
)
def test_one_mistake(text: str | bytes, start: str, part: str) -> None:
    (message,) = mistakes(text)
    assert message.startswith(start)
    assert part in message


def test_all_duplicates_are_reported() -> None:
    assert len(mistakes("a: 1\na: 2\na: 3\nb: {c: 1, c: 2}\n")) == 3


def test_alias_bomb_is_refused() -> None:
    levels = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 9))
    (message,) = mistakes("a0: &a0 [x]\n" + levels)
    assert message.startswith("r.yaml:1: anchors are not accepted")


def test_depth_size_and_number_of_values_are_limited() -> None:
    assert "nested deeper" in mistakes("a: " + "[" * 50_000)[0]
    assert "nested deeper" in mistakes("a: " + "{b: " * 50_000)[0]
    assert "more than 10000 values" in mistakes("a: [" + "1," * 20_000 + "]")[0]
    assert "larger than 1000000 bytes" in mistakes("#" * (document.MAX_BYTES + 1))[0]


def test_messages_are_one_line_each() -> None:
    (message,) = mistakes('"a\\nb\\e": 1\n"a\\nb\\e": 2\n')
    assert message.isprintable()


@settings(max_examples=300, deadline=None)
@given(
    text=st.text(alphabet=st.sampled_from("ab:-[]{}&*!|>'\"%#?, \n\t01.\x07é\ufeff"), max_size=60)
)
def test_any_text_is_read_or_refused_with_a_place(text: str) -> None:
    root, problems = parse_document(text.encode(), "r.yaml")
    assert root is not None or problems
    for problem in problems:
        assert str(problem).startswith("r.yaml:")
        assert str(problem).isprintable()


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=40))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    root, problems = parse_document(data, "r.yaml")
    assert root is not None or problems


@pytest.mark.parametrize("escape", ["\\U00110000", "\\UFFFFFFFF", "\\x"])
def test_an_escape_that_is_no_character_is_a_mistake_with_its_line(escape: str) -> None:
    root, problems = parse_document(f'a: 1\nb: "{escape}"\n'.encode(), "r.yaml")
    assert root is None
    (problem,) = problems
    assert problem.origin.line == 2
    assert "YAML syntax" in problem.message
