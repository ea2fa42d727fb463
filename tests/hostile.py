"""Tokenizers and chat templates that mean harm, each written into a folder that was right."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Damage = Callable[[Path], None]


def _tokenizer(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """Return a damage to tokenizer.json: a change of its content, or another in its place."""

    def damage(folder: Path) -> None:
        path = folder / "tokenizer.json"
        data = json.loads(path.read_text())
        other = change(data)
        path.write_text(json.dumps(data if other is None else other))

    return damage


def _bytes(cut: Callable[[bytes], bytes]) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "tokenizer.json"
        path.write_bytes(cut(path.read_bytes()))

    return damage


def _normalizer(*steps: Mapping[str, Any]) -> Damage:
    value = {"type": "Sequence", "normalizers": list(steps)}
    return _tokenizer(lambda data: data.update(normalizer=value))


def _replace(pattern: str, content: str, kind: str = "String") -> Mapping[str, Any]:
    return {"type": "Replace", "pattern": {kind: pattern}, "content": content}


def _split(regex: str) -> Damage:
    value = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return _tokenizer(lambda data: data.update(pre_tokenizer=value))


def _config(values: Mapping[str, Any]) -> Damage:
    """Return a damage to tokenizer_config.json: keys with other values."""

    def damage(folder: Path) -> None:
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def _template(text: str) -> Damage:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


def _added(number: int, length: int = 0) -> Damage:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)

    def change(data: dict[str, Any]) -> None:
        start = len(data["model"]["vocab"])
        data["added_tokens"] += [
            {"id": start + i, "content": f"<{i}>" + "x" * length, **flags} for i in range(number)
        ]

    return _tokenizer(change)


def _long_entry(data: dict[str, Any]) -> None:
    vocabulary = data["model"]["vocab"]
    vocabulary["x" * 100_000] = len(vocabulary)


def _wide(data: dict[str, Any]) -> None:
    """Give all letters ids that no model of these tests has."""
    vocabulary = data["model"]["vocab"]
    data["model"]["vocab"] = {t: i + (10**6 if len(t) == 1 else 0) for t, i in vocabulary.items()}


def _without_unknown(data: dict[str, Any]) -> None:
    data["model"] = {"type": "WordLevel", "vocab": {"only": 0}, "unk_token": "[GONE]"}


def _huge(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(200 << 20)


TOKENIZERS: Mapping[str, Damage] = {
    "truncated": _bytes(lambda data: data[: len(data) // 2]),
    "empty": _bytes(lambda data: b""),
    "a list": _tokenizer(lambda data: [data]),
    "deep": _bytes(lambda data: b'{"model":' * 10_000),
    "vocabulary of texts": _tokenizer(lambda data: data["model"].update(vocab={"a": "b"})),
    "vocabulary that is a list": _tokenizer(lambda data: data["model"].update(vocab=[[1, 2]])),
    "ids of 2^63": _tokenizer(lambda data: data["model"]["vocab"].update(a=2**63)),
    "negative ids": _tokenizer(lambda data: data["model"]["vocab"].update(a=-1)),
    "merges of unknown pieces": _tokenizer(lambda data: data["model"].update(merges=["zq qz"])),
    "an unknown model": _tokenizer(lambda data: data["model"].update(type="Odd")),
    "an unknown token that is missing": _tokenizer(_without_unknown),
    "ids beyond the embeddings": _tokenizer(_wide),
    "an entry of 100,000 letters": _tokenizer(_long_entry),
    "a file of 200 MiB": _huge,
    "a million added tokens": _added(10**6),
    "a text doubled forty times": _normalizer(*[_replace("a", "aa")] * 40),
    "a text times a thousand, five times": _normalizer(*[_replace("a", "a" * 1000)] * 5),
    "a thousand letters for one": _normalizer(_replace("a", "b" * 1000)),
    "a thousand letters in front of each": _normalizer(_replace("", "b" * 1000, "Regex")),
    "repeats inside repeats": _split("(x+x+)+y|([a-zA-Z ]+)*\\d|(.*)*="),
    "a lookbehind for ever": _split("(?<=((a|aa|aaa)+))b|((\\w|\\s)+)+$"),
    "a repeat of a repeat of a repeat": _split("((((a{1,100}){1,100}){1,100}){1,100}){1,100}"),
    "a normalizer's repeats": _normalizer(_replace("(a|aa|.)*(.*)*!", "b", "Regex")),
    "no regular expression": _split("(((["),
    "an unknown normalizer": _tokenizer(lambda data: data.update(normalizer={"type": "Odd"})),
    "a class of the system": _config({"tokenizer_class": "os.system"}),
    "a class that is a path": _config({"tokenizer_class": "../../evil.py"}),
    "code of its own": _config({"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}),
    "files elsewhere": _config({"tokenizer_file": "/etc/passwd", "vocab_file": "/etc/passwd"}),
    "special tokens that are numbers": _config({"eos_token": 7, "pad_token": ["a"]}),
    "a longest length of text": _config({"model_max_length": "many"}),
}

#: What takes long to write or to refuse.
LONG = ("a million added tokens",)

TEMPLATES: Mapping[str, Damage] = {
    "no Jinja": _template("{% for %}{{"),
    "loops inside loops": _template(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}"
        "{% endfor %}{% endfor %}{% endfor %}x"
    ),
    "a range of 10^12": _template("{% for i in range(10**12) %}{% endfor %}"),
    "a text of 10^11 letters": _template("{{ 'a' * 10**11 }}"),
    "a text of 2^25 letters": _template("{{ 'a' * 2**25 }}"),
    "a text set wide": _template("{{ '%1000000000000d' % 1 }}"),
    "a list doubled": _template(
        "{% set ns = namespace(x=['a']) %}{% for i in range(60) %}"
        "{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x | length }}"
    ),
    "a number that takes for ever": _template("{{ 10 ** (10 ** 10) }}"),
    "a macro that calls itself": _template("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"),
    "a way out by attributes": _template(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ messages.__class__ }}"
    ),
    "a way out by cycler": _template("{{ cycler.__init__.__globals__.os.popen('id').read() }}"),
    "another file": _template("{% include '/etc/passwd' %}"),
    "an error of its own": _template("{{ raise_exception('not today') }}"),
    "a division by zero": _template("{{ 1 / 0 }}"),
    "nothing": _template("{# nothing #}"),
    "something else than what was said": _template("The same for all."),
    "a terminal's escapes": _template("\x1b[2J{{ raise_exception('\x1b[2J') }}"),
}
