"""Names of pre-tokenizers; what llama.cpp makes of each is checked in tools/clients."""

from __future__ import annotations

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from autoround.errors import FormatError
from autoround.gguf.pretokenizers import NAMES, SPLIT_MARKS, cutting_notes, pre_tokenizer_name


def data_of(cut: Any, ignores: bool = False) -> dict[str, Any]:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut
    data: dict[str, Any] = json.loads(tokenizer.to_str())
    data["model"]["ignore_merges"] = ignores
    return data


def cuts(regexes: tuple[str, ...], *, invert: bool = False, behavior: str = "isolated") -> Any:
    return pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(regex), behavior, invert) for regex in regexes),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


@pytest.mark.parametrize(("rules", "name"), list(NAMES.items()))
def test_a_name_stands_for_regexes_and_for_ignore_merges(rules: Any, name: str) -> None:
    regexes, ignores = rules
    assert pre_tokenizer_name(data_of(cuts(regexes), ignores)) == name
    other = data_of(cuts(regexes), not ignores)
    if (regexes, not ignores) in NAMES:
        assert pre_tokenizer_name(other) == NAMES[regexes, not ignores]
        return
    with pytest.raises(FormatError, match=f"ignore_merges {not ignores}"):
        pre_tokenizer_name(other)
    # Where merges make every token, taking it whole is the same.
    assert pre_tokenizer_name(other, whole=True) == name


def test_gpt_2_and_digits() -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert pre_tokenizer_name(data_of(plain)) == "gpt-2"
    assert pre_tokenizer_name(data_of(pre_tokenizers.Sequence([digits, plain]))) == "smollm"
    with pytest.raises(FormatError, match="ignore_merges True"):
        pre_tokenizer_name(data_of(plain, True))


@pytest.mark.parametrize("values", [{"invert": True}, {"behavior": "removed"}])
def test_a_split_of_another_kind_has_no_name(values: dict[str, Any]) -> None:
    regexes, ignores = next(iter(NAMES))
    with pytest.raises(FormatError, match="has no name"):
        pre_tokenizer_name(data_of(cuts(regexes, **values), ignores))


@pytest.mark.parametrize(
    "data",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "ByteLevel"}, "normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": {"type": "ByteLevel"}, "normalizer": {"type": "Strip"}},
        {},
    ],
)
def test_rules_without_a_name_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"known: gpt-2, smollm"):
        pre_tokenizer_name(data)


@pytest.mark.parametrize(("rules", "name"), list(NAMES.items()))
def test_texts_that_are_cut_otherwise_are_noted(rules: Any, name: str) -> None:
    data = data_of(cuts(rules[0]), rules[1])
    assert [f"pre-tokenizer {name}" in note for note in cutting_notes(data)] == (
        [True] if name in SPLIT_MARKS else []
    )
    (*_, note) = cutting_notes({**data, "normalizer": {"type": "NFC"}})
    assert "NFC" in note
    assert cutting_notes({}) == []
