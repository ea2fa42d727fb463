from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autoround.data import sampling as draw
from autoround.data.calibration import shares, tokens_from_spec
from autoround.data.records import Ids, Text
from autoround.data.sampling import degenerate, shuffled
from autoround.data.spec import parse_datasets
from autoround.errors import DataError

torch = pytest.importorskip("torch")


def jsonl(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def words(count: int, start: int = 0) -> str:
    return "".join(f"{number:04d} " for number in range(start, start + count))


def take(spec: str | Sequence[str], tokenizer: Any, n: int, seqlen: int, seed: int = 0) -> Any:
    return tokens_from_spec(spec, tokenizer, nsamples=n, seqlen=seqlen, seed=seed)


def test_documents_are_cut_and_short_ones_left_out(tmp_path: Path, tokenizer: Any) -> None:
    rows = ["short", *(words(20, start=100 * n) for n in range(6)), "x" * 99]
    name = jsonl(tmp_path / "a.jsonl", rows)
    tokens = take(name, tokenizer, 6, 30)
    assert tokens.ids.shape == (6, 30)
    assert tokens.ids.dtype == tokens.lengths.dtype == torch.int64
    # Whole documents from their start, and neither the short one nor the one of a single letter.
    starts = sorted(tokenizer.decode(row)[:8] for row in tokens.ids)
    assert starts == [f"<s>{100 * n:04d} " for n in range(6)]
    assert tokens.lengths.tolist() == [30] * 6
    assert not tokens.padded
    assert bool(tokens.mask.all())
    assert tokens.description == f"{name}, 6 × 30 tokens"


def test_equal_arguments_give_equal_tokens(tmp_path: Path, tokenizer: Any) -> None:
    name = jsonl(tmp_path / "a.jsonl", [words(20, start=100 * n) for n in range(30)])
    first = take(name, tokenizer, 8, 30, seed=1)
    assert torch.equal(first.ids, take(name, tokenizer, 8, 30, seed=1).ids)
    assert not torch.equal(first.ids, take(name, tokenizer, 8, 30, seed=2).ids)


def test_too_few_documents_say_what_to_do(tmp_path: Path, tokenizer: Any) -> None:
    name = jsonl(tmp_path / "a.jsonl", [words(20), words(4)])
    with pytest.raises(DataError) as caught:
        take(name, tokenizer, 3, 60)
    assert str(caught.value) == (
        f"only 1 of 3 samples of dataset {name} have 60 tokens (its longest document has 60): "
        "use ':concat', lower --seqlen or --nsamples, or name a larger dataset"
    )
    with pytest.raises(DataError, match=r"only 0 of 3 .* longest document has 102"):
        take(name, tokenizer, 3, 500)
    repeated = jsonl(tmp_path / "b.jsonl", ["x" * 99, "y" * 99, "short"])
    with pytest.raises(DataError, match="has 60, 2 left out as one token repeated"):
        take(repeated, tokenizer, 3, 60)


def test_concatenated_records_follow_each_other_without_special_tokens(
    tmp_path: Path, tokenizer: Any
) -> None:
    rows: list[Any] = [f"{chr(97 + n)}{chr(65 + n)}-" for n in range(20)]
    rows.append({"input_ids": tokenizer.encode("zZ-")})
    name = jsonl(tmp_path / "a.jsonl", rows)
    tokens = take(f"{name}:concat", tokenizer, 9, 7)
    assert bool((tokens.ids[:, 0] == 0).all())
    assert bool((tokens.ids[:, 1:] > 2).all())
    text = "".join(tokenizer.decode(row[1:]) for row in tokens.ids)
    # 54 ids are 18 whole records, in some order, none twice.
    records = text.split("-")[:-1]
    assert len(set(records)) == 18
    assert all(record[0].upper() == record[1] for record in records)
    assert tokens.description == f"{name}, 9 × 7 tokens, concatenated"
    with pytest.raises(DataError, match=r"only 10 of 11 samples .* text has 63"):
        take(f"{name}:concat", tokenizer, 11, 7)


def test_txt_is_cut_into_consecutive_windows_spread_over_the_text(
    tmp_path: Path, tokenizer: Any
) -> None:
    path = tmp_path / "a.txt"
    path.write_text(words(800), encoding="utf-8")
    tokens = take(str(path), tokenizer, 4, 101)
    numbers = sorted(int(tokenizer.decode(row[1:6])) for row in tokens.ids)
    # Windows of 20 words, chosen one in each quarter of the 16 windows looked at.
    assert [number % 20 for number in numbers] == [0] * 4
    assert [number // 80 for number in numbers] == [0, 1, 2, 3]
    assert tokens.description.endswith("4 × 101 tokens, concatenated, from its first 1600 tokens")
    assert take(str(path), tokenizer, 40, 101).description.endswith("concatenated")
    with pytest.raises(
        DataError, match=r"only 40 of 41 samples .* text has 4000.*: lower --seqlen"
    ):
        take(str(path), tokenizer, 41, 101)


def test_txt_without_concat_is_one_document(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "a.txt"
    path.write_text(words(100), encoding="utf-8")
    tokens = take(f"{path}:concat=false", tokenizer, 1, 11)
    assert tokenizer.decode(tokens.ids[0]) == "<s>0000 0001 "
    with pytest.raises(DataError, match="only 1 of 2"):
        take(f"{path}:concat=false", tokenizer, 2, 11)


@pytest.mark.parametrize(("name", "content"), [("a.txt", ""), ("a.jsonl", "\n"), ("a.json", "[]")])
def test_an_empty_file_has_its_own_message(
    tmp_path: Path, tokenizer: Any, name: str, content: str
) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match="holds no text"):
        take(str(tmp_path / name), tokenizer, 1, 8)


def test_embedded_fills_the_usual_request_with_overlapping_windows(tokenizer: Any) -> None:
    tokens = take("embedded", tokenizer, 16, 64)
    assert tokens.description.startswith("pydoc_data.topics (embedded), 16 × 64 tokens, conc")
    assert "overlapping" not in tokens.description
    large = take("embedded", tokenizer, 64, 8192)
    assert large.ids.shape == (64, 8192)
    assert "overlapping windows of a text of" in large.description
    assert len({tuple(row[:64].tolist()) for row in large.ids}) == 64
    with pytest.raises(DataError, match=r"only .* of 100000 samples"):
        take("embedded", tokenizer, 100_000, 8192)


def test_several_datasets_share(tmp_path: Path, tokenizer: Any) -> None:
    a = jsonl(tmp_path / "a.jsonl", ["a" + words(20, start=n) for n in range(20)])
    b = jsonl(tmp_path / "b.jsonl", ["b" + words(20, start=n) for n in range(20)])
    tokens = take([f"{a}:num=3", b], tokenizer, 8, 30)
    letters = [tokenizer.decode(row[1:2]) for row in tokens.ids]
    assert (letters.count("a"), letters.count("b")) == (3, 5)
    assert letters != sorted(letters)
    assert tokens.description == f"8 × 30 tokens; {a} (3); {b} (5)"


def test_datasets_without_num_fill_what_others_lack(tmp_path: Path, tokenizer: Any) -> None:
    a = jsonl(tmp_path / "a.jsonl", ["a" + words(20, start=4321 + n) for n in range(2)])
    b = jsonl(tmp_path / "b.jsonl", ["b" + words(20, start=4321 + n) for n in range(9)])
    tokens = take([a, b], tokenizer, 8, 30)
    letters = [tokenizer.decode(row[1:2]) for row in tokens.ids]
    assert (letters.count("a"), letters.count("b")) == (2, 6)
    assert tokens.description.endswith(f"{a} has only 2 of 4, the others fill")
    with pytest.raises(DataError, match=r"only 2 of 3 samples of dataset .*a\.jsonl"):
        take([f"{a}:num=3", b], tokenizer, 8, 30)
    with pytest.raises(DataError, match=r"only 2 of 6 samples of dataset .*a\.jsonl"):
        take([a, b], tokenizer, 12, 30)


@pytest.mark.parametrize(
    ("text", "nsamples", "expected"),
    [
        ("a/a", 128, [128]),
        ("a/a,b/b,c/c", 8, [3, 3, 2]),
        ("a/a:num=5,b/b,c/c", 8, [5, 2, 1]),
        ("a/a:num=8", 8, [8]),
        ("a/a:num=7", 8, "exactly 7"),
        ("a/a:num=9", 8, "exactly 9"),
        ("a/a:num=8,b/b", 8, "9 or more"),
        ("a/a,b/b", 1, "2 or more"),
    ],
)
def test_shares(text: str, nsamples: int, expected: list[int] | str) -> None:
    specs = parse_datasets(text)
    if isinstance(expected, list):
        assert shares(specs, nsamples) == expected
    else:
        with pytest.raises(DataError, match=expected):
            shares(specs, nsamples)


def test_chat_records_go_through_the_template(tmp_path: Path, chat_tokenizer: Any) -> None:
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": "answer"}]
    name = jsonl(tmp_path / "a.jsonl", [{"messages": turns}, "a plain text of some length"])
    spec = f'{name}:apply_chat_template:system_prompt="Be, kind."'
    tokens = take(spec, chat_tokenizer, 2, 40)
    decoded = sorted(chat_tokenizer.decode(row) for row in tokens.ids)
    assert decoded == [
        "<s><system> Be, kind. <user> a plain text of some length <assistant>"[:42],
        "<s><system> Be, kind. <user> question <assistant> answer "[:42],
    ]
    assert tokens.description == f"{name}, 2 × 40 tokens, chat template, system prompt"


def test_forms_of_conversations_may_be_mixed_in_one_file(
    tmp_path: Path, chat_tokenizer: Any
) -> None:
    answer = words(9)
    rows = [
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a " + answer}]}]},
        {"conversations": [{"from": "human", "value": "b " + answer}]},
        {"prompt": "c " + answer, "completion": "yes"},
        {"instruction": "d " + answer, "input": "", "output": "yes"},
        {"text": "e " + answer},
    ]
    tokens = take(jsonl(tmp_path / "a.jsonl", rows), chat_tokenizer, 5, 12)
    texts = sorted(chat_tokenizer.decode(row) for row in tokens.ids)
    assert texts == [*(f"<s><user> {x} 00" for x in "abcd"), "<s>e 0000 0001"]
    assert tokens.description.endswith("5 × 12 tokens")


def test_rows_that_cannot_be_used_are_counted(tmp_path: Path, no_system_tokenizer: Any) -> None:
    good = {"prompt": words(9), "completion": "yes"}
    refused = {"messages": [{"role": "system", "content": words(9)}]}
    image = {"messages": [{"role": "user", "content": [{"type": "image"}]}]}
    name = jsonl(tmp_path / "a.jsonl", [{"text": None}])
    for spec in (name, f"{name}:concat"):
        with pytest.raises(DataError) as caught:
            take(spec, no_system_tokenizer, 1, 30)
        assert str(caught.value) == (
            f"dataset {name}: none of its records can be used: 1 of the 1 records read cannot be "
            f"used and are left out, such as {name}:1: 'text' is null. Change the records, or "
            "name another dataset"
        )
    jsonl(Path(name), [refused, image])
    with pytest.raises(DataError, match=r"none of its records can be used: 2 of the 2 records"):
        take(name, no_system_tokenizer, 1, 30)
    jsonl(Path(name), [image, good, image, good])
    tokens = take(f"{name}:concat", no_system_tokenizer, 3, 30)
    # Only what was read until there was enough is counted.
    note = r", [12] of the [34] records read cannot be used and are left out, such as .*a\.jsonl:"
    assert re.search(note, tokens.description)
    assert tokens.description.endswith("(images go into calibration.images)")
    with pytest.raises(DataError, match=r"only 2 of 3 .* has 30; 2 of the 4 records read cannot"):
        take(name, no_system_tokenizer, 3, 30)


def test_an_illegal_row_ends_the_run_whatever_the_others_are(
    tmp_path: Path, tokenizer: Any
) -> None:
    name = jsonl(tmp_path / "a.jsonl", [{"text": words(9)}, {"question": "a", "answer": "b"}])
    with pytest.raises(DataError, match=r"a\.jsonl:2: no field with text; fields found: 'ques"):
        take(name, tokenizer, 1, 30)


def test_conversations_without_a_template_are_plain_text(tmp_path: Path, tokenizer: Any) -> None:
    name = jsonl(tmp_path / "a.jsonl", [{"conversations": [{"from": "human", "value": words(9)}]}])
    tokens = take(name, tokenizer, 1, 16)
    assert tokenizer.decode(tokens.ids[0]) == "<s>User: 0000 0001"[: 3 + 15]
    assert tokens.description == (
        f"{name}, 1 × 16 tokens, conversations as plain text (the tokenizer has no chat template)"
    )
    with pytest.raises(DataError, match="apply_chat_template needs a chat template"):
        take(f"{name}:apply_chat_template", tokenizer, 1, 16)


def test_ids_need_no_tokenizer_but_text_does(tmp_path: Path) -> None:
    name = jsonl(tmp_path / "a.jsonl", [{"input_ids": list(range(n, n + 9))} for n in range(4)])
    assert sorted(take(name, None, 4, 8).ids[:, 0].tolist()) == [0, 1, 2, 3]
    with pytest.raises(DataError, match=r"a\.jsonl:4: token id 10 is outside"):
        tokens_from_spec(name, None, nsamples=4, seqlen=8, seed=0, vocab_size=10)
    with pytest.raises(DataError, match="needs a tokenizer"):
        take("embedded", None, 1, 8)


def test_sizes_that_cannot_be_meant(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="must both be 1 or more"):
        take("embedded", tokenizer, 0, 8)
    with pytest.raises(DataError, match="no room for text"):
        take("embedded", tokenizer, 1, 1)


def test_degenerate_samples() -> None:
    assert degenerate([1, 2, 2])
    assert not degenerate([1, 1, 2, 2])
    assert not degenerate([2, 2, 1])


def test_shuffling_holds_one_pool_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "POOL_RECORDS", 10)
    out = list(shuffled((Ids((n,), "f") for n in range(25)), random.Random(0)))
    numbers = [record.ids[0] for record in out if isinstance(record, Ids)]
    assert numbers != sorted(numbers)
    assert [sorted(numbers[a:b]) for a, b in ((0, 10), (10, 20), (20, 25))] == [
        list(range(0, 10)),
        list(range(10, 20)),
        list(range(20, 25)),
    ]


def test_the_search_for_long_records_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draw, "POOL_BYTES", 10)
    monkeypatch.setattr(draw, "SCAN_BYTES", 30)
    out = list(shuffled((Text("12345", "f") for _ in range(1000)), random.Random(0)))
    assert len(out) == 6
