"""Tokenizers as they go into a file; what llama.cpp makes of them is checked in tools/clients."""

from __future__ import annotations

from typing import Any

import pytest
import transformers
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from autoround.errors import FormatError
from autoround.gguf.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    REGEXES,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    pre_tokenizer_name,
    tokenizer_metadata,
)

TEXT = ["the quick brown fox jumps over the lazy dog", "some tokens, and some more tokens 123"] * 5


def fields(tokenizer: Any, size: int = 400) -> dict[str, Any]:
    found = tokenizer_metadata(tokenizer, vocab_size=size, config={})
    assert len({field.key for field in found}) == len(found)
    return {field.key.removeprefix("tokenizer.ggml."): field.value for field in found}


def byte_level(cut: Any = None, **values: Any) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = cut or pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", **values
    )


def sentencepiece(prefix: bool = True) -> Any:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    steps = [normalizers.Replace(" ", "▁")]
    if prefix:
        steps.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=330, special_tokens=special[:3])
    )
    vocabulary = tokenizer.get_vocab()
    tokenizer.add_tokens([token for token in special if token not in vocabulary])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def test_byte_level_merges() -> None:
    tokenizer = byte_level(chat_template="{{ messages }}")
    tokenizer.add_tokens(["<extra>"])
    found = fields(tokenizer)
    vocabulary = tokenizer.get_vocab()
    assert found["model"] == "gpt2"
    assert found["pre"] == "gpt-2"
    assert all(found["tokens"][i] == token for token, i in vocabulary.items())
    assert len(found["tokens"]) == len(found["token_type"]) == 400
    assert found["token_type"][:3] == [CONTROL, CONTROL, NORMAL]
    assert found["token_type"][vocabulary["<extra>"]] == USER_DEFINED
    assert found["token_type"][-1] == UNUSED
    assert found["merges"][0].count(" ") == 1
    assert (found["bos_token_id"], found["eos_token_id"]) == (0, 1)
    assert (found["add_bos_token"], found["add_eos_token"]) == (False, False)
    assert found["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("prefix", [True, False])
def test_merges_with_byte_fallback_have_scores_by_rank(prefix: bool) -> None:
    tokenizer = sentencepiece(prefix)
    found = fields(tokenizer, 700)
    assert found["model"] == "llama"
    assert found["add_space_prefix"] is prefix
    vocabulary = tokenizer.get_vocab()
    assert found["token_type"][vocabulary["<unk>"]] == UNKNOWN
    assert found["token_type"][vocabulary["<0x41>"]] == BYTE
    assert found["token_type"][vocabulary["</s>"]] == CONTROL
    merges = [m if isinstance(m, str) else " ".join(m) for m in _merges(tokenizer)]
    first, second = (merges[i].replace(" ", "") for i in (0, 1))
    scores = found["scores"]
    assert scores[vocabulary[first]] > scores[vocabulary[second]]
    assert min(scores) == -len(merges)
    assert len(scores) == 700


def _merges(tokenizer: Any) -> list[Any]:
    import json

    merges: list[Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return merges


def test_rules_of_cutting_are_told_by_their_parts() -> None:
    digits = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    assert fields(byte_level(digits))["pre"] == "smollm"
    for regex, name in REGEXES.items():
        cut = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(regex), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        assert fields(byte_level(cut))["pre"] == name


@pytest.mark.parametrize(
    "data",
    [
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}},
        {"pre_tokenizer": {"type": "ByteLevel"}, "normalizer": {"type": "Lowercase"}},
        {},
    ],
)
def test_rules_without_a_name_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(FormatError, match=r"known: gpt-2, smollm"):
        pre_tokenizer_name(data)


def test_other_tokenizers_are_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "b": 1}, unk_token="a"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=words)
    with pytest.raises(FormatError, match="WordLevel"):
        fields(tokenizer)
    with pytest.raises(FormatError, match="fast"):
        fields(object())
    with pytest.raises(FormatError, match="beyond the 100 rows"):
        fields(byte_level(), 100)


def test_no_tokenizer_is_a_file_for_token_ids() -> None:
    assert fields(None) == {"model": "no_vocab"}
