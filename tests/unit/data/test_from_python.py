from __future__ import annotations

from typing import Any

import pytest

from autoround.data.from_python import tokens_from_data
from autoround.errors import DataError

torch = pytest.importorskip("torch")


def take(data: object, tokenizer: Any = None, n: int = 8, seqlen: int = 4) -> Any:
    return tokens_from_data(data, tokenizer, nsamples=n, seqlen=seqlen, vocab_size=100)


def rows(tokens: Any) -> list[list[int]]:
    pairs = zip(tokens.ids.tolist(), tokens.lengths.tolist(), strict=True)
    return [row[:length] for row, length in pairs]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ([[1, 2, 3], [4]], [[1, 2, 3], [4]]),
        ([[1, 2, 3, 4, 5, 6]], [[1, 2, 3, 4]]),
        (torch.tensor([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (torch.tensor([7, 7, 7], dtype=torch.int32), [[7, 7, 7]]),
        ([torch.tensor([1, 2]), torch.tensor([[3], [4]])], [[1, 2], [3], [4]]),
        ([{"input_ids": [1, 2]}, {"input_ids": [[3, 4], [5]]}], [[1, 2], [3, 4], [5]]),
        ({"input_ids": [torch.tensor([1]), torch.tensor([2, 3])]}, [[1], [2, 3]]),
        (
            {
                "input_ids": torch.tensor([[9, 1, 2], [3, 4, 9]]),
                "attention_mask": torch.tensor([[0, 1, 1], [1, 1, 0]]),
            },
            [[1, 2], [3, 4]],
        ),
        (({"input_ids": [n]} for n in (5, 6)), [[5], [6]]),
    ],
)
def test_forms(data: object, expected: list[list[int]]) -> None:
    tokens = take(data)
    assert rows(tokens) == expected
    assert tokens.ids.shape == (len(expected), max(map(len, expected)))
    assert tokens.mask.sum(1).tolist() == [len(row) for row in expected]
    assert tokens.padded == (len({len(row) for row in expected}) > 1)


def test_texts_are_padded_never_dropped(tokenizer: Any) -> None:
    tokens = tokens_from_data(["aaaa", "b"], tokenizer, nsamples=2, seqlen=16)
    assert rows(tokens) == [tokenizer.encode("aaaa"), tokenizer.encode("b")]
    assert tokens.ids[1, 3:].tolist() == [tokenizer.pad_token_id] * 3
    assert tokens.description == "data given by the caller, 2 × 6 tokens, padded"


def test_batch_encoding_and_data_loader(tokenizer: Any) -> None:
    tokenizer.padding_side = "left"
    batch = tokenizer(["ab", "c"], padding=True, return_tensors="pt")
    expected = [tokenizer.encode("ab"), tokenizer.encode("c")]
    assert rows(tokens_from_data(batch, None, nsamples=2, seqlen=9)) == expected
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.arange(12).reshape(4, 3)), batch_size=3
    )
    assert rows(take(loader)) == torch.arange(12).reshape(4, 3).tolist()


def test_conversations(chat_tokenizer: Any) -> None:
    data = [{"messages": [{"role": "user", "content": "hi"}]}]
    tokens = tokens_from_data(data, chat_tokenizer, nsamples=1, seqlen=99)
    assert chat_tokenizer.decode(tokens.ids[0]) == "<s><user> hi <assistant>"


SHAREGPT = {"conversations": [{"from": "human", "value": "hi"}]}
MESSAGES = {"messages": [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]}


@pytest.mark.parametrize(
    ("data", "samples"),
    [
        ([SHAREGPT, MESSAGES], 2),
        (({"instruction": "hi", "output": ""} for _ in range(3)), 3),
        ([MESSAGES["messages"], MESSAGES["messages"]], 2),
        (MESSAGES["messages"], 1),
        (MESSAGES, 1),
        ({"messages": [MESSAGES["messages"]] * 3, "id": [1, 2, 3]}, 3),
    ],
)
def test_forms_of_conversations(data: Any, samples: int, chat_tokenizer: Any) -> None:
    tokens = tokens_from_data(data, chat_tokenizer, nsamples=9, seqlen=99)
    assert len(tokens.ids) == samples
    assert {chat_tokenizer.decode(row) for row in tokens.ids} == {"<s><user> hi <assistant>"}


def test_rows_of_a_dataset(chat_tokenizer: Any, tokenizer: Any) -> None:
    datasets = pytest.importorskip("datasets")
    nulls = {"conversations": None, "messages": None, "text": None}
    rows = datasets.Dataset.from_list(
        [{**nulls, **row} for row in (SHAREGPT, MESSAGES, {"text": "hi"})]
    )
    for data in (rows, rows[:3]):
        tokens = tokens_from_data(data, chat_tokenizer, nsamples=9, seqlen=99)
        texts = [text[:24] for text in map(chat_tokenizer.decode, tokens.ids)]
        assert texts == ["<s><user> hi <assistant>"] * 2 + ["<s>hi</s>" + "<pad>" * 3]
    assert tokens_from_data(rows, tokenizer, nsamples=9, seqlen=99).description.endswith(
        "padded, conversations as plain text (the tokenizer has no chat template)"
    )


def test_a_data_frame_is_not_taken_for_its_column_names(tokenizer: Any) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"text": ["one", "two"]})
    with pytest.raises(DataError, match=r"is a data frame: .* frame.to_dict\('records'\)"):
        tokens_from_data(frame, tokenizer, nsamples=2, seqlen=9)
    tokens = tokens_from_data(frame.to_dict("records"), tokenizer, nsamples=2, seqlen=9)
    assert len(tokens.ids) == 2


def test_a_sample_that_cannot_be_used_is_an_error_never_left_out(chat_tokenizer: Any) -> None:
    image = {"messages": [{"role": "user", "content": [{"type": "image"}]}]}
    with pytest.raises(DataError, match=r"sample 1 of the calibration data, message 0: 'content'"):
        tokens_from_data([MESSAGES, image], chat_tokenizer, nsamples=2, seqlen=99)


def test_the_first_nsamples_are_taken_and_fewer_are_said() -> None:
    endless = ({"input_ids": [n % 50, 1]} for n in iter(int, 1))
    assert take(endless, n=3).description.endswith("3 × 2 tokens, the first of a larger set")
    assert take([[1], [2]], n=3).description.endswith("fewer than the 3 asked")


def test_repeated_tokens_are_kept() -> None:
    assert rows(take([[5, 5, 5, 5]])) == [[5, 5, 5, 5]]


@pytest.mark.parametrize(
    ("data", "part"),
    [
        ([[1], [100]], "sample 1 of the calibration data: token id 100 is outside"),
        ([[1], [-1]], "sample 1 of the calibration data: token id -1 is negative"),
        (torch.tensor([[1], [200]]), "sample 1 of the calibration data: token id 200"),
        ([[1], [2.0]], "sample 1 of the calibration data"),
        ([[1], []], "sample 1 of the calibration data is empty"),
        ([[1], {"input_ids": []}], "sample 1"),
        (torch.zeros(2, 0, dtype=torch.int64), "sample 0 of the calibration data has no tokens"),
        (torch.tensor([1.0]), "must be whole numbers, not float32"),
        (torch.tensor([True]), "must be whole numbers, not bool"),
        (torch.zeros(1, 1, 1, dtype=torch.int64), "has the shape [1, 1, 1]"),
        ({"input_ids": [1, 2], "attention_mask": [1]}, "differ in shape"),
        ({"input_ids": [1, 2, 3], "attention_mask": [1, 0, 1]}, "not in one run"),
        ({"input_ids": [1, 2], "attention_mask": [0, 0]}, "has no tokens"),
        ({"input_ids": "text"}, "sample 0 of the calibration data: input_ids"),
        ([1, 2], "sample 0 of the calibration data is of type int; legal are"),
        ("one text", "give a list of texts"),
        (["text"], "needs a tokenizer"),
        ([], "the calibration data is empty; legal are"),
        (3, "of type int is unknown; legal are"),
    ],
)
def test_mistakes_name_the_sample(data: object, part: str) -> None:
    with pytest.raises(DataError) as caught:
        take(data)
    assert part in str(caught.value)


def test_sizes_that_cannot_be_meant() -> None:
    with pytest.raises(DataError, match="must both be 1 or more"):
        take([[1]], n=0)
