from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoround.data.spec import DatasetSpec, parse_datasets
from autoround.errors import DataError

words = st.text(min_size=1, max_size=20) | st.text(alphabet='\\" ,:a\n', min_size=1, max_size=9)
split_names = st.from_regex(r"[A-Za-z0-9_.\-]{1,8}", fullmatch=True)
specs = st.builds(
    DatasetSpec,
    name=words,
    num=st.none() | st.integers(1, 999_999_999),
    splits=st.lists(split_names, max_size=3).map(tuple),
    concat=st.none() | st.booleans(),
    apply_chat_template=st.booleans(),
    system_prompt=st.none() | words,
    text_key=st.none() | words,
)


@given(st.lists(specs, min_size=1, max_size=3))
def test_a_spec_written_out_parses_to_itself(expected: list[DatasetSpec]) -> None:
    assert parse_datasets(",".join(map(str, expected))) == tuple(expected)
    assert parse_datasets([str(spec) for spec in expected]) == tuple(expected)


@given(st.text(max_size=40) | st.text(alphabet='a:=,"\\ num', max_size=20))
def test_any_text_parses_or_is_refused_with_its_place(text: str) -> None:
    try:
        parsed = parse_datasets(text)
    except DataError:
        with pytest.raises(DataError, match=r"column [0-9]+: "):
            parse_datasets(text)
    else:
        assert parse_datasets(",".join(map(str, parsed))) == parsed


def test_all_options() -> None:
    text = (
        'owner/name:num=5:split=train+test:concat:apply_chat_template=true:system_prompt="Say: a, '
        'b \\"c\\"":key=body, my file.txt:concat=False'
    )
    assert parse_datasets(text) == (
        DatasetSpec(
            name="owner/name",
            num=5,
            splits=("train", "test"),
            concat=True,
            apply_chat_template=True,
            system_prompt='Say: a, b "c"',
            text_key="body",
        ),
        DatasetSpec(name="my file.txt", concat=False),
    )


def test_quoted_windows_path_needs_no_doubling() -> None:
    (spec,) = parse_datasets(r'"C:\new\table.txt":num=3')
    assert (spec.name, spec.num) == (r"C:\new\table.txt", 3)
    (spec,) = parse_datasets(r'"\\host\a b\\"')
    assert spec.name == "\\\\host\\a b\\"


@pytest.mark.parametrize(
    ("text", "column", "part"),
    [
        ("a.txt:nmu=3", 7, "did you mean 'num'"),
        (r"C:\a.txt", 3, "double quotes"),
        ("a.txt:nothing_like_it", 7, "num, split, concat, apply_chat_template, system_prompt, key"),
        ("a.txt:num=0", 7, "from 1 to"),
        ("a.txt:num=-1", 7, "from 1 to"),
        ("a.txt:num=٣", 7, "from 1 to"),
        ("a.txt:num", 7, "needs a value"),
        ("a.txt:key=", 7, "needs a value"),
        ('a.txt:system_prompt=""', 7, "needs a value"),
        ("a.txt:num=1:num=1", 13, "given twice"),
        ("a.txt:concat=1", 7, "true and false"),
        ("a/b:split=train+", 5, "not a split name"),
        ("a.txt,", 7, "name is missing"),
        (",a.txt", 1, "name is missing"),
        ("", 1, "name is missing"),
        (":num=1", 1, "name is missing"),
        ('a.txt:system_prompt="x', 21, "never closed"),
        ('"a.txt"x', 8, "closing quote"),
        ('a"b.txt', 2, "bare word"),
    ],
)
def test_mistakes_are_named_with_their_column(text: str, column: int, part: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_datasets(text)
    assert f"column {column}:" in str(caught.value)
    assert part in str(caught.value)


def test_lists_must_hold_strings() -> None:
    with pytest.raises(DataError, match="no dataset is named"):
        parse_datasets([])
    with pytest.raises(DataError, match="dataset 2 of the list is of type int"):
        parse_datasets(["a.txt", 3])  # type: ignore[list-item]
