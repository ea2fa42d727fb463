"""Values as auto-round spells them, turned into those of recipe keys.

Imports nothing but the standard library: the table of flags, which ``--help`` reads, uses it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

#: Names of built-in recipes as auto-round's programs have them.
RECIPE_NAMES: Mapping[str, str] = {
    "auto-round": "default",
    "auto-round-best": "best",
    "auto-round-light": "light",
    "auto-round-rtn": "rtn",
    "auto-round-opt-rtn": "opt-rtn",
}
_PRESET = re.compile(r"W([2-8])A16(?:G([1-9][0-9]{0,5}))?", re.IGNORECASE)
_OPTION = re.compile(r"(W[2-8])A16(?:(G)([1-9][0-9]{0,5}))?", re.IGNORECASE)
#: Weights that a scheme of this name shares a scale among, where it does not say so itself.
_GROUP = 128
_LEGAL = "W2A16 to W8A16, W4A16G64 for groups of 64"
#: What only regular expressions have, and no name of a layer.
_REGEX = re.compile(r"[*?+^$()\[\]{}|\\]")
#: Keys of auto-round's description of a layer, and the only value that each may have here.
_FIXED: Mapping[str, tuple[object, ...]] = {
    "data_type": ("int",),
    "act_bits": (16, 32),
    "act_group_size": (),
    "act_sym": (),
    "act_dynamic": (),
    "act_data_type": (),
    "scale_dtype": ("float16", "fp16"),
    "super_bits": (None,),
    "super_group_size": (None,),
}
_KEYS = ("bits", "group_size", "sym")


def read_scheme(value: object) -> dict[str, object]:
    """Return the keys of a recipe's ``scheme`` that the name of a scheme stands for.

    Args:
        value: such as ``W4A16``.

    Raises:
        ValueError: no scheme that can be had has this name; with the nearest word for it.
    """
    if isinstance(value, Mapping):
        rule = read_layer(value)
        return {"bits": rule.pop("bits", 4), **rule}
    text = value if isinstance(value, str) else str(value)
    match = _PRESET.fullmatch(text.strip())
    if match is not None:
        return {"bits": int(match[1]), "group_size": int(match[2] or _GROUP), "sym": True}
    if ":" in text:
        name = text.lower()
        raise ValueError(
            f"{name} is a format, and no scheme: write format {name} (--format {name})"
        )
    raise ValueError(
        f"expected {_LEGAL}: integers of 2 to 8 bits, activations in 16; got {text[:60]!r}"
    )


def read_options(value: object) -> list[str]:
    """Return what layers may be held in, from texts with commas or a list of these.

    Args:
        value: as recipes write options (``W4g64``), or as auto-round names schemes (``W4A16``).

    Raises:
        ValueError: it is no list of texts.
    """
    words = value.split(",") if isinstance(value, str) else value
    if not isinstance(words, Sequence) or not all(isinstance(word, str) for word in words):
        raise ValueError("expected a text with commas or a list of texts, such as W2,W4,W8")
    options = []
    for word in words:
        match = _OPTION.fullmatch(word.strip())
        size = f"g{match[3]}" if match is not None and match[2] else ""
        options.append(word.strip() if match is None else match[1].upper() + size)
    return options


def read_layer_rules(value: object) -> list[dict[str, object]]:
    """Return the rules of a recipe that auto-round's ``layer_config`` stands for.

    A key with characters that only regular expressions have is one, found anywhere in a name; any
    other is the name of a layer, or the end of names.

    Args:
        value: a mapping of names to descriptions, or a text that holds one.

    Raises:
        ValueError: it is none, or says of a layer what cannot be done.
    """
    table = _parse_table(value) if isinstance(value, str) else value
    if not isinstance(table, Mapping):
        raise ValueError(
            'expected a mapping of layers such as {"lm_head": {"bits": 8}}; got '
            f"{str(value)[:60]!r}"
        )
    rules = []
    for name, described in table.items():
        try:
            keys = read_layer(described)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        pattern = f"re:{name}" if _REGEX.search(str(name)) else str(name)
        rules.append({"match": pattern, **keys})
    return rules


def read_layer(described: object) -> dict[str, object]:
    """Return the keys of a rule that auto-round's description of a layer stands for.

    Args:
        described: a mapping, or the name of a scheme.

    Raises:
        ValueError: it says what cannot be done; with the key, and what would be legal.
    """
    if isinstance(described, str):
        return read_scheme(described)
    if not isinstance(described, Mapping):
        raise ValueError(f"expected a mapping with keys of {', '.join(_KEYS)}, or {_LEGAL}")
    values = dict(described)
    keys = read_scheme(values.pop("scheme")) if "scheme" in values else {}
    kept = values.get("bits") in (16, 32)
    for key, legal in _FIXED.items():
        value = values.pop(key, None)
        if value is not None and value not in legal and legal and not kept:
            raise ValueError(
                f"{key} is {value!r}, and here it can only be {legal[0]!r}: weights are integers, "
                "activations stay in 16 bit"
            )
    unknown = [key for key in values if key not in _KEYS]
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; legal: {', '.join(_KEYS)}")
    keys |= {key: values[key] for key in _KEYS if values.get(key) is not None}
    if not keys:
        raise ValueError(f"it says nothing: set one of {', '.join(_KEYS)}")
    # There layers that stay as they are keep the other keys of the model.
    return {"bits": 16} if kept else keys


def read_ignored(value: object) -> list[str]:
    """Return the patterns of layers that stay in 16 bit.

    Args:
        value: names with commas, or a list of them; a module's name means all layers in it.

    Raises:
        ValueError: it is neither.
    """
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, Sequence) or not all(isinstance(name, str) for name in names):
        raise ValueError("expected names of layers with commas, or a list of them")
    stripped = [name.strip() for name in names if name.strip()]
    return [name if name.startswith("re:") or "*" in name else _inside(name) for name in stripped]


def _inside(name: str) -> str:
    """Return the pattern that means a layer, or all layers of a module, by a piece of its path."""
    if name == "lm_head":
        return name
    return rf"re:(^|\.){re.escape(name)}(\.|$)"


def read_head_bits(wanted: object) -> object:
    """Return the bits of the output head: those of the scheme, or 16.

    Args:
        wanted: whether to quantize it; what is no boolean is passed on, to be refused by its key.
    """
    if not isinstance(wanted, bool):
        raise ValueError(f"expected true or false; got {wanted!r}")
    return "auto" if wanted else 16


def _parse_table(text: str) -> object:
    """Read a mapping from a command line: JSON, or the same without its quotes."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    quoted = re.sub(r"[^\s{}:,\[\]\"']+", _quote, text.replace("'", '"'))
    try:
        return json.loads(quoted)
    except (ValueError, RecursionError):
        raise ValueError(
            'expected JSON such as {"lm_head": {"bits": 8, "group_size": 32}}; got '
            f"{text[:60]!r}"
        ) from None


def _quote(match: re.Match[str]) -> str:
    word = match[0]
    before = match.string[match.start() - 1 : match.start()]
    plain = word.lower() in ("true", "false", "null") or re.fullmatch(r"-?\d+(\.\d+)?", word)
    if before == '"':
        return word
    return word.lower() if plain else json.dumps(word)
