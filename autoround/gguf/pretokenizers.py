"""llama.cpp's names of pre-tokenizers: how text is cut before merges, and whether whole words win.

A name stands for the rules of a tokenizer.json and for its ``ignore_merges``, by which a piece
that is itself a token is taken whole. Two tokenizers of the same rules may so need two names.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autoround.errors import FormatError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_START = r"[^\r\n\p{L}\p{N}]?"
_LLAMA3 = rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}{{1,3}}|{_REST}"
_CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
#: Regexes that cut one after the other before byte-level merges, and ``ignore_merges``.
NAMES: Mapping[tuple[tuple[str, ...], bool], str] = {
    ((_LLAMA3,), True): "llama-bpe",
    ((_LLAMA3,), False): "smaug-bpe",
    ((rf"{_CONTRACTIONS}|{_LETTERS}|\p{{N}}|{_REST}",), False): "qwen2",
    (
        (
            rf"{_CONTRACTIONS}|{_START}[\p{{L}}\p{{M}}]+|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}",
        ),
        False,
    ): "qwen35",
    (
        (
            rf"{_START}{_UPPER}*{_LOWER}+|{_START}{_UPPER}+{_LOWER}*|\p{{N}}"
            rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
        ),
        True,
    ): "tekken",
    (
        (
            rf"{_START}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_START}{_UPPER}+{_LOWER}*"
            rf"{_CONTRACTIONS}?|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",
        ),
        False,
    ): "gpt-4o",
    ((r"\p{N}{1,3}", _CJK, _DEEPSEEK), False): "deepseek-v3",
}
#: Names of those that cut as GPT-2 does, alone or after each digit.
GPT2, DIGITS = "gpt-2", "smollm"
KNOWN = (GPT2, DIGITS, *NAMES.values())
#: Names under which llama.cpp's classes of letters lack combining marks; seen in its client.
SPLIT_MARKS = frozenset({"tekken", "gpt-4o"})


def pre_tokenizer_name(data: Mapping[str, Any], *, whole: bool = False) -> str:
    """Return llama.cpp's name of a pre-tokenizer.

    Args:
        data: The content of a tokenizer.json.
        whole: Whether merges make every token of the vocabulary, so that ``ignore_merges`` decides
            nothing.

    Raises:
        FormatError: llama.cpp has no name for this pre-tokenizer.
    """
    rules = data.get("pre_tokenizer") or {}
    normalizer = (data.get("normalizer") or {}).get("type")
    ignores = bool((data.get("model") or {}).get("ignore_merges"))
    regexes = _regexes(rules) if normalizer in (None, "NFC") else None
    flags = (ignores, not ignores) if whole else (ignores,)
    for flag in flags:
        if regexes in ((), ("digits",)) and not flag:
            return DIGITS if regexes else GPT2
        if regexes is not None and (regexes, flag) in NAMES:
            return NAMES[regexes, flag]
    raise FormatError(
        f"GGUF: llama.cpp has no name for this tokenizer's pre-tokenizer ({rules}, "
        f"normalizer {normalizer}, ignore_merges {ignores}); known: {', '.join(KNOWN)}"
    )


def cutting_notes(data: Mapping[str, Any]) -> list[str]:
    """Say which texts llama.cpp cuts otherwise than the tokenizer.

    Args:
        data: The content of a tokenizer.json.
    """
    notes = []
    regexes = _regexes(data.get("pre_tokenizer") or {})
    names = {NAMES.get((regexes, flag)) for flag in (True, False)} if regexes else set()
    splitting = sorted(name for name in names if name in SPLIT_MARKS)
    if splitting:
        notes.append(
            f"llama.cpp's pre-tokenizer {splitting[0]} takes combining marks for no letters: "
            "Hindi, Thai, Tamil and decomposed accents become other tokens than in the model"
        )
    if (data.get("normalizer") or {}).get("type") == "NFC":
        notes.append(
            "llama.cpp does not compose characters (NFC), as this tokenizer does: give it composed "
            "text"
        )
    return notes


def _regexes(rules: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return what cuts text before its bytes are merged; None where it is nothing known.

    Nothing stands for GPT-2's regex, which ByteLevel has by itself.
    """
    parts: list[dict[str, Any]] = [dict(rules)]
    if rules.get("type") == "Sequence":
        parts = list(rules.get("pretokenizers") or ())
    if not parts or parts[-1].get("type") != "ByteLevel" or parts[-1].get("add_prefix_space"):
        return None
    cuts = parts[:-1]
    # ByteLevel splits by GPT-2's regex unless it is told not to.
    if parts[-1].get("use_regex", True):
        if [cut.get("type") for cut in cuts] == ["Digits"] and cuts[0].get("individual_digits"):
            return ("digits",)
        return () if not cuts else None
    regexes = tuple(str((cut.get("pattern") or {}).get("Regex")) for cut in cuts)
    isolated = all(
        cut.get("type") == "Split" and cut.get("behavior") == "Isolated" and not cut.get("invert")
        for cut in cuts
    )
    return regexes if isolated and regexes else None
