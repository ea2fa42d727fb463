"""Tokenizers as they go into a file; what llama.cpp makes of them is checked in tools/clients."""

from __future__ import annotations

from json import dumps
from typing import Any

import pytest
import transformers
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from autoround.errors import FormatError
from autoround.gguf.tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    strips_like_phi3,
    tokenizer_json,
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


def sentencepiece(prefix: bool = True, *, dropped: int = 0) -> Any:
    """Make one of SentencePiece's kind; dropped: merges that are missing at the end."""
    pieces = list(dict.fromkeys("".join(TEXT).replace(" ", "▁")))
    words = {word[:k] for text in TEXT for word in text.split() for k in range(2, len(word) + 1)}
    pieces += sorted(words, key=lambda word: (len(word), word))
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    vocabulary = {name: i for i, name in enumerate([*names, *pieces])}
    merges = [
        (piece[:k], piece[k:])
        for piece in pieces
        for k in range(1, len(piece))
        if piece[:k] in vocabulary and piece[k:] in vocabulary
    ]
    kept = merges[: len(merges) - dropped]
    tokenizer = Tokenizer(
        models.BPE(vocabulary, kept, unk_token="<unk>", byte_fallback=True, fuse_unk=True)
    )
    steps = [normalizers.Replace(" ", "▁")]
    if prefix:
        steps.insert(0, normalizers.Prepend("▁"))
    tokenizer.normalizer = normalizers.Sequence(steps)
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
    found = fields(tokenizer, 900)
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
    assert len(scores) == 900


def _merges(tokenizer: Any) -> list[Any]:
    import json

    merges: list[Any] = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return merges


def test_merges_that_are_not_those_of_sentencepiece_are_refused() -> None:
    with pytest.raises(FormatError, match=r"no merge of the tokenizer makes .* llama.cpp would"):
        fields(sentencepiece(dropped=1), 900)


def test_merges_of_one_token_at_several_ranks_are_refused() -> None:
    names = ["<unk>", "a", "b", "c", "ab", "bc", "abc", "ca"]
    merges = [("a", "b"), ("b", "c"), ("a", "bc"), ("c", "a"), ("ab", "c")]
    model = models.BPE(
        {name: i for i, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="<unk>"
    )
    with pytest.raises(FormatError, match="make 'abc' at several ranks"):
        fields(tokenizer, 900)


def test_runs_of_spaces_may_share_a_rank() -> None:
    names = ["<unk>", *("▁" * k for k in range(1, 5))]
    merges = [("▁", "▁"), ("▁", "▁▁"), ("▁", "▁▁▁"), ("▁▁", "▁"), ("▁▁", "▁▁"), ("▁▁▁", "▁")]
    model = models.BPE(
        {name: i for i, name in enumerate(names)}, merges, unk_token="<unk>", byte_fallback=True
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(model), unk_token="<unk>"
    )
    assert fields(tokenizer, 900)["scores"][2:5] == [-0.0, -1.0, -2.0]


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_flags_that_llama_cpp_has_no_key_for_are_refused(flag: str) -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("<extra>", **{flag: True})])
    with pytest.raises(FormatError, match=rf"'<extra>' of the tokenizer has {flag} set.*to false"):
        fields(tokenizer)


def test_tokens_that_strip_as_those_of_phi_3_are_told_by_their_flags() -> None:
    tokenizer = byte_level()
    assert not strips_like_phi3(tokenizer_json(tokenizer))
    entries = [
        {"content": "<s>", "rstrip": False},
        {"content": "</s>", "rstrip": True},
        {"content": "<|user|>", "rstrip": True},
    ]
    assert strips_like_phi3({"added_tokens": entries})
    assert not strips_like_phi3({"added_tokens": [*entries, {"content": "<x>", "rstrip": False}]})


def test_whole_words_decide_the_name_only_where_merges_do_not_make_them() -> None:
    tokenizer = byte_level()
    data = tokenizer_json(tokenizer)
    data["model"]["ignore_merges"] = True
    alike = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(dumps(data)))
    assert fields(alike)["pre"] == "gpt-2"
    data["model"]["vocab"]["zqxj"] = len(data["model"]["vocab"])
    other = transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(dumps(data)))
    with pytest.raises(FormatError, match="ignore_merges True"):
        fields(other)


def test_templates_by_name_are_written_with_their_names() -> None:
    several = byte_level(chat_template={"default": "{{ messages }}", "tool_use": "{{ tools }}"})
    found = fields(several)
    assert found["tokenizer.chat_template"] == "{{ messages }}"
    assert found["tokenizer.chat_template.tool_use"] == "{{ tools }}"
    assert found["tokenizer.chat_templates"] == ["tool_use"]


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
