"""Read one YAML document into values that remember the line they stand on.

The dialect is YAML without its traps: only true and false are booleans (not yes,
no, on, off), 5e-3 is a number, and 0128, 1_000, 1:30 and 2024-01-01 stay text.
Anchors, aliases and tags are refused, which also rules out documents that grow
when they are expanded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

#: Bytes above which a file is not a recipe.
MAX_BYTES = 1_000_000
#: Values above which a document is not a recipe.
MAX_NODES = 10_000
#: Levels of nesting above which a document is not a recipe.
MAX_DEPTH = 16

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?")
_WORDS: dict[str, object] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf", "+.Inf", ".INF", "+.INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}
#: Digits above which a number is left as text; nothing legal comes near.
_MAX_DIGITS = 64
_ALIAS_HINT = "aliases are not accepted; quote text that begins with '*', such as '*.gate'"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where something was written: a file and line, or the words of a command line."""

    source: str
    line: int | None = None

    def __str__(self) -> str:
        return self.source if self.line is None else f"{self.source}:{self.line}"


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake and where it is."""

    origin: Origin
    message: str

    def __str__(self) -> str:
        # One line each, whatever a hostile key, value or file name holds.
        text = f"{self.origin}: {self.message}"
        return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


@dataclass(frozen=True, slots=True)
class Node:
    """A scalar, a list of nodes or a mapping of nodes, where it is, and where its key is.

    appended: of a list, that its entries go behind those of the list that it is merged into.
    """

    value: object
    origin: Origin
    key_origin: Origin
    appended: bool = False

    def plain(self) -> object:
        """Return the value without its lines."""
        if isinstance(self.value, dict):
            return {key: node.plain() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.plain() for node in self.value]
        return self.value


def located(value: object, origin: Origin) -> Node:
    """Wrap a Python value, all of which was given at ``origin``."""
    if isinstance(value, Mapping):
        value = {str(key): located(item, origin) for key, item in value.items()}
    elif isinstance(value, list | tuple):
        value = [located(item, origin) for item in value]
    return Node(value, origin, origin)


def resolve_plain(text: str) -> object:
    """Return the value of an unquoted scalar: None, a boolean, a number, or the text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MAX_DIGITS:
        if _INTEGER.fullmatch(text):
            return int(text)
        if _DECIMAL.fullmatch(text):
            return float(text)
    return text


def parse_document(data: bytes, source: str) -> tuple[Node | None, list[Problem]]:
    """Parse the bytes of one recipe.

    Args:
        data: UTF-8 text, with or without a byte order mark.
        source: name of the file in messages.

    Returns:
        The mapping at the top of the document, or None if there is none, and every
        mistake found on the way.
    """
    root, problems = parse_value(data, source)
    if root is None or isinstance(root.value, dict):
        return root, problems
    message = f"a recipe is a mapping of keys to values, not {show(root.value)}"
    return None, [*problems, Problem(root.origin, message)]


def parse_value(data: bytes, source: str) -> tuple[Node | None, list[Problem]]:
    """Parse the bytes of one YAML value of any kind; see :func:`parse_document`."""
    if len(data) > MAX_BYTES:
        return None, [Problem(Origin(source), f"larger than {MAX_BYTES} bytes: not a recipe")]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [Problem(Origin(source, line), "not UTF-8 text; save the file as UTF-8")]
    try:
        composer = _Composer(text)
        root = composer.get_single_node()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        message = f"character {chr(int(error.character))!a} is not allowed in YAML"
        return None, [Problem(Origin(source, line), message)]
    except yaml.MarkedYAMLError as error:
        return None, [_syntax_problem(error, source)]
    except (ValueError, OverflowError) as error:  # of an escape such as \\U00110000
        return None, [Problem(Origin(source, composer.line + 1), f"YAML syntax: {error}")]
    if root is None:
        message = "the file is empty; write at least 'extends: default'"
        return None, [Problem(Origin(source, 1), message)]
    problems: list[Problem] = []
    return _locate(root, source, problems), problems


class _RefusedError(yaml.MarkedYAMLError):
    """Legal YAML that recipes do not accept."""


class _Composer(yaml.BaseLoader):
    """Composes nodes; refuses anchors, aliases, tags, and what is too deep or too large.

    BaseLoader resolves no tags, so nothing but texts, lists and mappings can come out.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        self._nodes += 1
        self._depth += 1
        problem = self._refusal(event)
        if problem:
            raise _RefusedError(problem=problem, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _refusal(self, event: Any) -> str:
        if isinstance(event, yaml.AliasEvent):
            return _ALIAS_HINT
        if event.anchor is not None:
            return "anchors are not accepted; quote text that begins with '&'"
        if event.tag is not None:
            return f"tags are not accepted; quote text that begins with '!' ({show(event.tag)})"
        if self._nodes > MAX_NODES:
            return f"more than {MAX_NODES} values: not a recipe"
        if self._depth > MAX_DEPTH:
            return f"nested deeper than {MAX_DEPTH} levels: not a recipe"
        return ""


def _syntax_problem(error: yaml.MarkedYAMLError, source: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    parts = [part for part in (error.context, error.problem) if part]
    if error.context == "while scanning an alias":
        parts = [_ALIAS_HINT]
    elif error.context == "expected a single document in the stream":
        parts = ["a recipe is one YAML document; remove what follows '---'"]
    elif not isinstance(error, _RefusedError):
        parts.insert(0, "YAML syntax")
    return Problem(Origin(source, None if mark is None else mark.line + 1), ": ".join(parts))


def _locate(node: yaml.Node, source: str, problems: list[Problem]) -> Node:
    origin = Origin(source, node.start_mark.line + 1)
    value: object
    if isinstance(node, yaml.MappingNode):
        value = _locate_mapping(node, source, problems)
    elif isinstance(node, yaml.SequenceNode):
        value = [_locate(item, source, problems) for item in node.value]
    else:
        assert isinstance(node, yaml.ScalarNode)
        value = resolve_plain(node.value) if node.style is None else node.value
    return Node(value, origin, origin)


def _locate_mapping(
    node: yaml.MappingNode, source: str, problems: list[Problem]
) -> dict[str, Node]:
    found: dict[str, Node] = {}
    for key_node, value_node in node.value:
        key_origin = Origin(source, key_node.start_mark.line + 1)
        value = _locate(value_node, source, problems)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(key_origin, "a key is a word, not a list or a mapping"))
            continue
        key = key_node.value
        if key in found:
            first = found[key].key_origin.line
            message = f"key {show(key)} is already given on line {first}; remove one of the two"
            problems.append(Problem(key_origin, message))
        found[key] = Node(value.value, value.origin, key_origin)
    return found


def show(value: object) -> str:
    """Return a short text for a value in a message."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null (nothing)"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return repr(value if len(value) <= 60 else value[:57] + "...")
    if isinstance(value, int):
        return str(value) if value.bit_length() < 256 else "a huge integer"
    return repr(value)[:60] if isinstance(value, float) else f"a {type(value).__name__}"
