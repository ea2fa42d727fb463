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

from autoround.errors import FormatError, one_line
from autoround.gguf.fields import Field
from autoround.gguf.pretokenizers import pre_tokenizer_name
from autoround.gguf.templates import template_fields

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


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
    data = tokenizer_json(tokenizer)
    try:
        fields = _fields(data, vocab_size)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise FormatError(
            f"GGUF: tokenizer.json is not as the tokenizers library writes it ({error!r}); save it "
            "anew with that library"
        ) from error
    return fields + _special(tokenizer, config)


def _fields(data: Mapping[str, Any], vocab_size: int) -> list[Field]:
    """Return the entries of a tokenizer.json.

    Raises:
        FormatError: llama.cpp has no tokenizer that would give the same tokens.
    """
    model = data["model"]
    if model.get("type") != "BPE":
        raise FormatError(f"GGUF: a {model.get('type')} tokenizer is not supported; legal: BPE")
    _refuse_flags(data)
    tokens, types = _tokens(data, vocab_size)
    # Pairs in newer files of the tokenizers library, texts in older ones.
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    if model.get("byte_fallback"):
        return _sentencepiece(data, tokens, types, merges)
    return [
        Field("tokenizer.ggml.model", "gpt2", "text"),
        Field("tokenizer.ggml.pre", pre_tokenizer_name(data, whole=_all_merged(data)), "text"),
        Field("tokenizer.ggml.tokens", tokens, "texts"),
        Field("tokenizer.ggml.token_type", types, "i32s"),
        Field("tokenizer.ggml.merges", merges, "texts"),
    ]


def tokenizer_json(tokenizer: Any) -> dict[str, Any]:
    """Return the content of a tokenizer.json.

    Args:
        tokenizer: Of transformers.

    Raises:
        FormatError: It is none that has one.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise FormatError("GGUF: only fast tokenizers can be written, those with a tokenizer.json")
    try:
        data = json.loads(backend.to_str())
    except (ValueError, RecursionError) as error:
        raise FormatError(f"GGUF: tokenizer.json cannot be read: {one_line(error)}") from None
    if not isinstance(data, dict) or not isinstance(data.get("model"), dict):
        raise FormatError("GGUF: tokenizer.json has no model in it; save it anew")
    return data


def strips_like_phi3(data: Mapping[str, Any]) -> bool:
    """Tell whether special tokens drop the spaces after them as llama.cpp does for Phi-3.

    Args:
        data: The content of a tokenizer.json.
    """
    added = data.get("added_tokens") or ()
    kept = ("<unk>", "<s>", "<|endoftext|>")
    return any(entry.get("rstrip") for entry in added) and all(
        bool(entry.get("rstrip")) == (entry["content"] not in kept) for entry in added
    )


def _refuse_flags(data: Mapping[str, Any]) -> None:
    """Refuse flags of a tokenizer.json that llama.cpp has no key for.

    Raises:
        FormatError: There is one, with what to do about it.
    """
    known = ("rstrip",) if strips_like_phi3(data) else ()
    for entry in data.get("added_tokens") or ():
        for flag in ("lstrip", "rstrip", "single_word"):
            if entry.get(flag) and flag not in known:
                raise FormatError(
                    f"GGUF: added token {entry['content']!r} of the tokenizer has {flag} set, and "
                    "llama.cpp keeps the text around it; set it to false in tokenizer.json and "
                    "tokenizer_config.json if the model does not depend on it"
                )
    for flag in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if data["model"].get(flag):
            raise FormatError(
                f"GGUF: {flag}={data['model'][flag]!r} of the tokenizer's merges is not computed "
                "by llama.cpp"
            )


def _all_merged(data: Mapping[str, Any]) -> bool:
    """Tell whether merges make every token, so that whole words never win over them."""
    from tokenizers import Tokenizer, models

    model = data["model"]
    pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
    merges = [(first, second) for first, second in pairs]
    try:
        bare = Tokenizer(models.BPE(model["vocab"], merges))
    except Exception as error:  # the library raises no other class
        raise FormatError(f"GGUF: the merges of the tokenizer: {one_line(error)}") from None
    added = {entry["content"] for entry in data.get("added_tokens") or ()}
    words = [word for word in model["vocab"] if word not in added]
    return all(
        len(encoding.ids) == 1
        for start in range(0, len(words), 4096)
        for encoding in bare.encode_batch(words[start : start + 4096], add_special_tokens=False)
    )


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


def _sentencepiece(
    data: Mapping[str, Any], tokens: list[str], types: list[int], merges: list[str]
) -> list[Field]:
    _refuse_other_merges(data, merges)
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


def _refuse_other_merges(data: Mapping[str, Any], merges: list[str]) -> None:
    """Refuse merges that are not those of SentencePiece: by the rank of what they make.

    llama.cpp's "llama" model merges any two neighbours that make a token, the best token first.

    Raises:
        FormatError: A token could be made there of two that no merge names, or at another rank.
    """
    added = {entry["content"] for entry in data.get("added_tokens") or ()}
    vocabulary = data["model"]["vocab"].keys() - added
    pairs = {tuple(merge.split(" ")) for merge in merges}
    last = ""
    made: set[str] = set()
    for merge in merges:
        token = merge.replace(" ", "")
        # Runs of spaces have one score in published vocabularies, and are cut alike nevertheless.
        if token != last and token in made and set(token) != {"▁"}:
            raise FormatError(
                f"GGUF: merges of the tokenizer make {token!r} at several ranks; llama.cpp has one "
                "for each token of a tokenizer with byte fallback"
            )
        made.add(token)
        last = token
    for token in sorted(vocabulary):
        for cut in range(1, len(token)):
            pair = (token[:cut], token[cut:])
            if pair not in pairs and pair[0] in vocabulary and pair[1] in vocabulary:
                if len(token) == 6 and token.startswith("<0x"):
                    continue
                raise FormatError(
                    f"GGUF: no merge of the tokenizer makes {token!r} of {pair[0]!r} and "
                    f"{pair[1]!r}, and llama.cpp would: with byte fallback it knows the merges of "
                    "SentencePiece only"
                )


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
    ids = list(tokenizer.encode("a"))
    bos, eos = getattr(tokenizer, "bos_token_id", None), getattr(tokenizer, "eos_token_id", None)
    fields.append(Field("tokenizer.ggml.add_bos_token", bool(ids) and ids[0] == bos, "bool"))
    fields.append(Field("tokenizer.ggml.add_eos_token", bool(ids) and ids[-1] == eos, "bool"))
    return fields + template_fields(getattr(tokenizer, "chat_template", None))
