"""Check values against the schema and put every mistake in the words of a recipe's author."""

from __future__ import annotations

import difflib
import re
from typing import cast

from pydantic import ValidationError

from autoround.recipe.document import Node, Problem, resolve_plain, show
from autoround.recipe.renamed import RENAMED_KEYS, describe_rename, renamed_value
from autoround.recipe.schema import Recipe, field_paths, keys_of
from autoround.recipe.section import Section
from autoround.recipe.values import Legal

_YAML_11_BOOLS = frozenset(("yes", "no", "on", "off", "y", "n"))
_LOOSE_INTEGER = re.compile(r"[-+]?[0-9][0-9_,]*")

_Path = tuple[str | int, ...]


def check(root: Node, *, extra: tuple[str, ...] = ()) -> tuple[Recipe | None, list[Problem]]:
    """Validate a mapping of recipe keys, whole or partial.

    Args:
        root: the mapping.
        extra: keys that are legal at the top of a file besides those of the schema;
            named in messages, and to be taken out by the caller.

    Returns:
        The recipe, with defaults for the keys left out, or None; and all mistakes,
        one per value, in the order of the schema. A key that changed its name is a
        mistake that names the new one.
    """
    try:
        return Recipe.model_validate(root.plain()), []
    except ValidationError as error:
        # A union reports one error per branch: gather them by the key they are about.
        kinds: dict[_Path, set[str]] = {}
        reasons: dict[_Path, str] = {}
        for item in error.errors(include_url=False):
            path = _value_path(root, item["loc"])
            kinds.setdefault(path, set()).add(item["type"])
            if item["type"] == "value_error":
                reasons[path] = str(item["ctx"]["error"])
    problems = []
    for path, codes in kinds.items():
        if any(other[:-1] == path and isinstance(other[-1], int) for other in kinds if other):
            continue  # one entry of a list is wrong, which says more than that the list is
        if "extra_forbidden" in codes:
            problems.extend(_unknown_key(root, path, extra))
        else:
            problems.append(_explain(root, path, codes, reasons.get(path, "")))
    return None, problems


def _unknown_key(root: Node, path: _Path, extra: tuple[str, ...]) -> list[Problem]:
    node, section = root, cast("type[Section]", Recipe)
    kind: type[Section] | Legal | None = Recipe
    for step in path:
        node = node.value[step]  # type: ignore[index]
    renamed = _renamed_keys(node, _dotted(path))
    if renamed:
        return renamed
    for step in path[:-1]:
        kind = _step(kind, step)
    if isinstance(kind, type):  # only a section can have keys, unknown or not
        section = kind
    legal = (*(extra if len(path) == 1 else ()), *keys_of(section))
    above, word = _dotted(path[:-1]), str(path[-1])
    meant = _nearest(above, word, legal)
    listed = " or ".join(filter(None, [", ".join(meant[:-1]), *meant[-1:]]))
    hint = f"; did you mean {listed}?" if meant else "."
    where = f" of {above}" if above else ""
    message = f"unknown key {_dotted(path)}{hint} Legal keys{where}: {', '.join(legal)}"
    return [Problem(node.key_origin, message)]


def _renamed_keys(node: Node, dotted: str) -> list[Problem]:
    """Return a problem for a key that has another name now, and for such keys below it."""
    below: list[Problem] = []
    if dotted in RENAMED_KEYS and isinstance(node.value, dict):
        for key, child in node.value.items():
            below += _renamed_keys(child, f"{dotted}.{key}")
    # A key below names its section too: where both stand in one place, it says enough.
    if dotted not in RENAMED_KEYS or any(item.origin == node.key_origin for item in below):
        return below
    message = f"unknown key {dotted}: {describe_rename(dotted, node.value)}"
    return [Problem(node.key_origin, message), *below]


def _step(kind: type[Section] | Legal | None, step: str | int) -> type[Section] | Legal | None:
    """Go from a section to one of its keys, or from a list of sections to an entry."""
    if isinstance(kind, Legal):
        return kind.entries if isinstance(step, int) and kind.entries is not None else kind
    return None if kind is None or isinstance(step, int) else keys_of(kind).get(step)


def _dotted(path: _Path) -> str:
    steps = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(steps).removeprefix(".")


def _nearest(above: str, word: str, legal: tuple[str, ...]) -> list[str]:
    """Return full paths: the same word elsewhere, else a similar word here, else elsewhere."""
    paths = [path for path in field_paths() if "[]" not in path]
    elsewhere = [item for item in paths if item.rpartition(".")[2] == word]
    if elsewhere:
        return elsewhere
    here = difflib.get_close_matches(word, legal, n=1)
    if here:
        return [f"{above}.{here[0]}".removeprefix(".")]
    far = difflib.get_close_matches(word, [item.rpartition(".")[2] for item in paths], n=1)
    return [item for item in paths if far and item.rpartition(".")[2] == far[0]]


def _value_path(root: Node, loc: tuple[int | str, ...]) -> _Path:
    """Cut what pydantic adds to a location, such as the branch of a union."""
    path: list[str | int] = []
    node = root
    kind: type[Section] | Legal | None = Recipe
    for step in loc:
        inside = isinstance(kind, type) and isinstance(step, str)
        if not inside and not (isinstance(node.value, list) and isinstance(step, int)):
            continue
        kind = _step(kind, step)
        node = node.value[step]  # type: ignore[index]
        path.append(step)
    return tuple(path)


def _explain(root: Node, path: _Path, kinds: set[str], reason: str) -> Problem:
    node = root
    kind: type[Section] | Legal | None = Recipe
    for step in path:
        node = node.value[step]  # type: ignore[index]
        kind = _step(kind, step)
    value, dotted = node.value, _dotted(path)
    if isinstance(kind, type) and isinstance(value, dict) and reason:
        return Problem(node.origin, f"{dotted}: {reason}")
    if isinstance(kind, type):
        keys = ", ".join(keys_of(kind))
        message = f"{dotted}: expected a mapping with keys of {keys}; got {_typed(value)}"
        return Problem(node.origin, message)
    assert kind is not None
    expected = kind.item if isinstance(path[-1], int) and kind.item else kind.text
    new_value = renamed_value(dotted, value)
    meant = f"{value} is now {new_value}" if new_value else _meant(value, expected)
    notes = [note for note in (reason or _hint(value, kinds), meant) if note]
    note = f" ({'; '.join(notes)})" if notes else ""
    return Problem(node.origin, f"{dotted}: expected {expected}; got {_typed(value)}{note}")


def _typed(value: object) -> str:
    return f"text {show(value)}" if isinstance(value, str) else show(value)


def _meant(value: object, expected: str) -> str:
    """Return the legal word that is closest to one that was given, if any is close."""
    words = [word for word in re.split(r", | or ", expected) if " " not in word]
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    for part in parts:
        close = difflib.get_close_matches(part, words, n=1)
        if close and part not in words:
            return f"did you mean {close[0]}?"
    return ""


def _hint(value: object, kinds: set[str]) -> str:
    """Return what to write instead, where the value tells what was meant."""
    if isinstance(value, float) and "int_type" in kinds and value.is_integer():
        return f"write {int(value)}"
    if not isinstance(value, str):
        return ""
    if "bool_type" in kinds:
        lowered = value.lower()
        if lowered in _YAML_11_BOOLS:
            return "the words yes, no, on and off are text here"
        return "remove the quotes" if lowered in ("true", "false") else ""
    if kinds == {"tuple_type"}:
        return f"write [{show(value)}]"
    if not kinds & {"int_type", "float_type"}:
        return ""
    if isinstance(resolve_plain(value), int | float):
        return "remove the quotes"
    if _LOOSE_INTEGER.fullmatch(value) and len(value) < 40:
        return f"write {int(value.replace('_', '').replace(',', ''))}"
    return ""
