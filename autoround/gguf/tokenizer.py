"""A transformers tokenizer in llama.cpp's terms: tokens, merges and pre-tokenizer.

The one source is the tokenizer's own JSON. Byte-level BPE becomes llama.cpp's "gpt2"
model, whose pre-tokenizer (the split of text before the merges) must be one it has a name for;
BPE with byte fallback, SentencePiece's kind, becomes its "llama" model, where a token's
score is minus the rank of the merge that makes it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.gguf.fields import Field

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
#: llama.cpp's names of pre-tokenizers that split text by a regex before byte-level merges.
REGEXES = {
    rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}": "llama-bpe",
    rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}": "qwen2",
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
KNOWN = ("gpt-2", "smollm", *REGEXES.values())


def tokenizer_metadata(
    tokenizer: Any, *, vocab_size: int, config: Mapping[str, Any]
) -> list[Field]:
    """Return the entries of a tokenizer.

    Args:
        tokenizer: A fast tokenizer of transformers, or None for a file that takes token ids only.
        vocab_size: Rows of the embeddings; tokens beyond the tokenizer's are marked unused.
        config: The model's config, for special tokens that the tokenizer does not name.

    Raises:
        FormatError: llama.cpp has no tokenizer that would give the same tokens.
    """
    if tokenizer is None:
        return [Field("tokenizer.ggml.model", "no_vocab", "text")]
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise FormatError("GGUF: only fast tokenizers can be written, those with a tokenizer.json")
    data = json.loads(backend.to_str())
    model = data["model"]
    if model.get("type") != "BPE":
        raise FormatError(f"GGUF: a {model.get('type')} tokenizer is not supported; legal: BPE")
    tokens, types = _tokens(data, vocab_size)
    # Pairs in newer files of the tokenizers library, texts in older ones.
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if model.get("byte_fallback"):
        fields = _sentencepiece(data, tokens, types, merges)
    else:
        fields = [
            Field("tokenizer.ggml.model", "gpt2", "text"),
            Field("tokenizer.ggml.pre", pre_tokenizer_name(data), "text"),
            Field("tokenizer.ggml.tokens", tokens, "texts"),
            Field("tokenizer.ggml.token_type", types, "i32s"),
            Field("tokenizer.ggml.merges", merges, "texts"),
        ]
    return fields + _special(tokenizer, config)


def _tokens(data: Mapping[str, Any], size: int) -> tuple[list[str], list[int]]:
    """Return the tokens by id, and their types; unused ids get a placeholder."""
    by_id = {i: token for token, i in data["model"]["vocab"].items()}
    added = {entry["id"]: entry for entry in data.get("added_tokens") or ()}
    beyond = [i for i in (*by_id, *added) if i >= size]
    if beyond:
        raise FormatError(
            f"GGUF: token {max(beyond)} of the tokenizer is beyond the {size} rows of the "
            "embeddings"
        )
    unknown = data["model"].get("unk_token")
    fallback = bool(data["model"].get("byte_fallback"))
    tokens, types = [], []
    for i in range(size):
        entry = added.get(i)
        # Embeddings may have more rows than there are tokens, and each needs a name of its own.
        token = entry["content"] if entry else by_id.get(i, f"[PAD{i}]")
        kind = NORMAL if i in by_id else UNUSED
        if entry is not None:
            kind = CONTROL if entry["special"] else USER_DEFINED
        if fallback and token == unknown:
            kind = UNKNOWN
        elif fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            kind = BYTE
        tokens.append(token)
        types.append(kind)
    return tokens, types


def pre_tokenizer_name(data: Mapping[str, Any]) -> str:
    """Return llama.cpp's name of a pre-tokenizer.

    Args:
        data: The content of a tokenizer.json.

    Raises:
        FormatError: llama.cpp has no name for this pre-tokenizer.
    """
    rules = data.get("pre_tokenizer") or {}
    parts: list[dict[str, Any]] = [dict(rules)]
    if rules.get("type") == "Sequence":
        parts = list(rules.get("pretokenizers") or ())
    kinds = [part.get("type") for part in parts]
    normalizer = (data.get("normalizer") or {}).get("type")
    if kinds and kinds[-1] == "ByteLevel" and not parts[-1].get("add_prefix_space"):
        # ByteLevel splits by GPT-2's regex unless it is told not to.
        splits = parts[-1].get("use_regex", True)
        if kinds == ["ByteLevel"] and splits and normalizer is None:
            return "gpt-2"
        digits = kinds == ["Digits", "ByteLevel"] and parts[0].get("individual_digits")
        if digits and splits and normalizer is None:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and not splits and normalizer in (None, "NFC"):
            regex = (parts[0].get("pattern") or {}).get("Regex")
            if regex in REGEXES and parts[0].get("behavior") == "Isolated":
                return REGEXES[regex]
    raise FormatError(
        f"GGUF: llama.cpp has no name for this tokenizer's pre-tokenizer ({rules}, "
        f"normalizer {normalizer}); known: {', '.join(KNOWN)}"
    )


def _sentencepiece(
    data: Mapping[str, Any], tokens: list[str], types: list[int], merges: list[str]
) -> list[Field]:
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        first, _, second = merge.partition(" ")
        # Several merges may make one token: the first of them is its rank.
        ranks.setdefault(first + second, rank)
    # A token that no merge makes ranks after all that are made by one.
    last = len(merges)
    scores = [-float(ranks.get(token, last)) for token in tokens]
    return [
        Field("tokenizer.ggml.model", "llama", "text"),
        Field("tokenizer.ggml.pre", "default", "text"),
        Field("tokenizer.ggml.tokens", tokens, "texts"),
        Field("tokenizer.ggml.scores", scores, "f32s"),
        Field("tokenizer.ggml.token_type", types, "i32s"),
        Field("tokenizer.ggml.add_space_prefix", _adds_space(data), "bool"),
    ]


def _adds_space(data: Mapping[str, Any]) -> bool:
    """Tell whether text gets a space in front, as SentencePiece does by default."""
    normalizer, pre = data.get("normalizer") or {}, data.get("pre_tokenizer") or {}
    steps = normalizer.get("normalizers") or [normalizer]
    kinds = [step.get("type") for step in steps]
    if any(kind not in ("Prepend", "Replace", None) for kind in kinds):
        raise FormatError(f"GGUF: normalizer {normalizer} is not supported with byte fallback")
    if pre and pre.get("type") not in ("Metaspace", "Split"):
        raise FormatError(f"GGUF: pre-tokenizer {pre} is not supported with byte fallback")
    if "Prepend" in kinds:
        return True
    return pre.get("type") == "Metaspace" and pre.get("prepend_scheme", "always") != "never"


def _special(tokenizer: Any, config: Mapping[str, Any]) -> list[Field]:
    fields = []
    for key, attribute in (
        ("bos", "bos_token_id"),
        ("eos", "eos_token_id"),
        ("unknown", "unk_token_id"),
        ("padding", "pad_token_id"),
    ):
        number = getattr(tokenizer, attribute, None)
        if number is None and key in ("bos", "eos"):
            number = config.get(attribute)
        if isinstance(number, int):
            fields.append(Field(f"tokenizer.ggml.{key}_token_id", number, "u32"))
    # Whether BOS and EOS are added is written in no key that all tokenizers share: try it.
    ids = list(tokenizer("a")["input_ids"])
    bos, eos = getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None)
    fields.append(Field("tokenizer.ggml.add_bos_token", bool(ids) and ids[0] == bos, "bool"))
    fields.append(Field("tokenizer.ggml.add_eos_token", bool(ids) and ids[-1] == eos, "bool"))
    if isinstance(getattr(tokenizer, "chat_template", None), str):
        fields.append(Field("tokenizer.chat_template", tokenizer.chat_template, "text"))
    return fields
