from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoround.data import sources
from autoround.data.chats import Chat, Message
from autoround.data.embedded import embedded_split
from autoround.data.records import Ids, Record, Text, Unusable
from autoround.data.sources import open_source
from autoround.data.spec import DatasetSpec
from autoround.errors import DataError


def read(path: Path, **options: Any) -> list[Record]:
    return list(open_source(DatasetSpec(str(path), **options)).records())


def texts(records: list[Record]) -> list[str]:
    return [record.text for record in records if isinstance(record, Text)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_txt_comes_in_pieces_that_join_to_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "PIECE_CHARS", 64)
    content = "".join(f"zeile {n} für ∑ 𝄞\n" for n in range(50))
    records = read(write(tmp_path / "a.txt", "\ufeff" + content))
    assert "".join(texts(records)) == content
    assert len(records) > 10
    assert all(text.endswith("\n") for text in texts(records))


def test_txt_is_read_no_further_than_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_TEXT_BYTES", 5)
    # The limit falls inside the third character, whose first half is dropped.
    assert "".join(texts(read(write(tmp_path / "a.txt", "ééé")))) == "éé"


@pytest.mark.parametrize(("content", "byte"), [(b"ab\xffc", 2), (b"abcdefghi\xc3", 9)])
def test_txt_that_is_not_utf8_names_the_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: bytes, byte: int
) -> None:
    monkeypatch.setattr(sources, "PIECE_CHARS", 4)
    with pytest.raises(DataError, match=rf"a\.txt: byte {byte} \(counted from 0\) is not valid"):
        read(write(tmp_path / "a.txt", content))


def test_jsonl_lines_carry_their_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", '\ufeff{"text": "one"}\n\n"two"\r\n[1, 2]')
    assert read(path) == [
        Text("one", f"{path}:1"),
        Text("two", f"{path}:3"),
        Ids((1, 2), f"{path}:4"),
    ]


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (b'{"text": ', "a.jsonl:2: not valid JSON, line 1 column"),
        (b'{"a": 1, "b": 2}', "a.jsonl:2: no field with text; fields found: 'a', 'b'"),
        (b"\xff", "a.jsonl:2: byte 0"),
        (b"[" * 200_000, "a.jsonl:2: not acceptable JSON"),
        (b"9" * 5000, "a.jsonl:2: not acceptable JSON"),
    ],
)
def test_jsonl_mistakes_name_the_line(tmp_path: Path, line: bytes, part: str) -> None:
    path = write(tmp_path / "a.jsonl", b'"ok"\n' + line + b"\n")
    with pytest.raises(DataError) as caught:
        read(path)
    assert part in str(caught.value)


def test_jsonl_line_over_the_limit_is_never_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_RECORD_CHARS", 20)
    path = write(tmp_path / "a.jsonl", '"ok"\n"' + "x" * 30 + '"\n')
    with pytest.raises(DataError, match=r"a\.jsonl:2: this line is over the limit of 20 bytes"):
        read(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (["a", {"text": "b"}], ["a", "b"]),
        ({"text": ["a", "b"], "id": [1, 2]}, ["a", "b"]),
        ({"data": [{"text": "a"}, {"text": "b"}]}, ["a", "b"]),
        ({"text": "a", "id": 1}, ["a"]),
        ([], []),
    ],
)
def test_json_forms(tmp_path: Path, value: Any, expected: list[str]) -> None:
    assert texts(read(write(tmp_path / "a.json", json.dumps(value)))) == expected


MESSAGES = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
SHAREGPT = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "yes"}]


@pytest.mark.parametrize(
    ("value", "conversations"),
    [
        (MESSAGES, 1),
        ({"messages": MESSAGES}, 1),
        ({"conversations": SHAREGPT, "id": "a"}, 1),
        ([{"messages": MESSAGES}, {"conversations": SHAREGPT}], 2),
        ({"messages": [MESSAGES, MESSAGES], "id": [1, 2]}, 2),
        ({"data": [{"messages": MESSAGES}]}, 1),
        ({"prompt": "hi", "completion": "yes"}, 1),
        ({"prompt": ["hi", "hi", "hi"], "completion": ["yes", "yes", "yes"]}, 3),
    ],
)
def test_json_of_conversations(tmp_path: Path, value: Any, conversations: int) -> None:
    records = read(write(tmp_path / "a.json", json.dumps(value)))
    assert len(records) == conversations
    turns = (Message("user", "hi"), Message("assistant", "yes"))
    assert all(isinstance(record, Chat) and record.messages == turns for record in records)


def test_parquet_of_conversations(tmp_path: Path) -> None:
    """Arrow gives every struct all fields that any of them has, and nulls where it had none."""
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    call = {"type": "function", "function": {"name": "f", "arguments": "{}"}}
    rows = [
        {"messages": MESSAGES},
        {"conversations": SHAREGPT},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [call]}]},
        {"prompt": "hi", "completion": "yes"},
        {"instruction": "hi", "input": "", "output": "yes"},
        {"id": 3},
    ]
    names = {name for row in rows for name in row}
    table = {name: [row.get(name) for row in rows] for name in names}
    parquet.write_table(arrow.table(table), path)
    records = read(path)
    turns = (Message("user", "hi"), Message("assistant", "yes"))
    chats = [record for record in records if isinstance(record, Chat)]
    assert [chat.messages for chat in chats if chat is not chats[2]] == [turns] * 4
    assert chats[2].messages[0].tool_calls == (
        {**call, "function": {"name": "f", "arguments": {}}},
    )
    assert records[5] == Unusable(f"{path} row 5: 'messages' is null", f"{path} row 5")


def test_parquet_without_a_known_form_names_all_columns(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    # A prompt without completion is no form; half of a row is never taken for all of it.
    parquet.write_table(arrow.table({"prompt": ["a"], "chosen": ["b"]}), path)
    with pytest.raises(DataError, match="row 0: no field with text; fields found: 'prompt', 'chos"):
        read(path)


def test_json_mistakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.json", '{"text": ["a"], "id": []}')
    with pytest.raises(DataError, match=r"columns of equal length, .* fields 'text', 'id'"):
        read(path)
    with pytest.raises(DataError, match=r"a\.json\[1\]: a value of type int, not a text"):
        read(write(path, '["a", 3]'))
    with pytest.raises(DataError, match=r"a\.json: not valid JSON, line 2 column 3"):
        read(write(path, "[\n1 2]"))
    assert read(write(path, " ")) == []
    monkeypatch.setattr(sources, "MAX_JSON_BYTES", 10)
    with pytest.raises(DataError, match=r"over the limit of 10 bytes: convert it to \.jsonl"):
        read(write(path, '["aaaaaaaaaaaa"]'))


def test_parquet(tmp_path: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    rows = [f"row {n}" for n in range(150)]
    table = arrow.table({"text": rows, "other": rows[::-1], "n": list(range(150))})
    parquet.write_table(table, path)
    assert texts(read(path)) == rows
    assert texts(read(path, text_key="other")) == rows[::-1]
    assert read(path)[149].where == f"{path} row 149"
    with pytest.raises(DataError, match="no column 'x'; columns found: text, other, n"):
        read(path, text_key="x")
    parquet.write_table(table.select(["other", "n"]), path)
    with pytest.raises(DataError, match="row 0: no field with text; fields found: 'other', 'n'"):
        read(path)
    parquet.write_table(arrow.table({"input_ids": [[1, 2], [3]]}), path)
    assert [r.ids for r in read(path) if isinstance(r, Ids)] == [(1, 2), (3,)]
    with pytest.raises(DataError, match=r"cannot be read as \.parquet"):
        read(write(path, b"PAR1 this is none PAR1"))


def test_embedded_is_the_calibration_part() -> None:
    source = open_source(DatasetSpec("embedded"))
    assert "".join(texts(list(source.records()))) == embedded_split()[0]
    assert source.running
    assert source.label == "pydoc_data.topics (embedded)"


def test_names_that_are_no_dataset(tmp_path: Path) -> None:
    (tmp_path / "d.txt").mkdir()
    write(tmp_path / "a.csv", "x")
    for name, part in [
        (str(tmp_path), "is a folder: name one file in it"),
        (str(tmp_path / "d.txt"), "is a folder"),
        (str(tmp_path / "no.jsonl"), "there is no such file"),
        (str(tmp_path / "a.csv"), "files of kind .csv cannot be read"),
        ("pile", "neither a file here, nor 'embedded', nor a hub dataset"),
        ("a/b/c", "neither a file here"),
        ("../up", "neither a file here"),
        ("x" * 5000, "neither a file here"),
        ("nul\0", "neither a file here"),
    ]:
        with pytest.raises(DataError) as caught:
            open_source(DatasetSpec(name))
        assert part in str(caught.value)


def test_options_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = str(write(tmp_path / "a.txt", "x"))
    for spec, part in [
        (DatasetSpec(path, splits=("a", "b")), "split=a+b works on hub datasets only"),
        (DatasetSpec(path, apply_chat_template=True), "apply_chat_template works on datasets of"),
        (DatasetSpec("embedded", system_prompt="x"), "system_prompt works on datasets of"),
        (DatasetSpec("embedded", text_key="x"), "key works on datasets of"),
    ]:
        with pytest.raises(DataError) as caught:
            open_source(spec)
        assert part in str(caught.value)
