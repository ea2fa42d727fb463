"""Keys of other programs' configs that stand for layers: names, ends of names, regexes."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from autoround.errors import FormatError
from autoround.patterns import PatternError, matches

#: Names with a number among them, and nothing that only regexes have: a place in a model.
_NUMBERED = re.compile(r"(?:[\w-]+\.)*\d+(?:\.[\w-]+)*")


class LayerKeys:
    """The keys of a table, matched with layers: a name first, then ends of it, then regexes.

    Tables may name every expert of a model, so that names are looked up and not searched for.
    """

    def __init__(self, keys: Iterable[str], layers: Collection[str]) -> None:
        """Sort the keys.

        Args:
            keys: of the table, in its order.
            layers: names of all layers in the files; a key that is one of them stands for it alone.
        """
        self._exact: set[str] = set()
        self._paths: dict[str, int] = {}
        self._patterns: dict[str, int] = {}
        for place, key in enumerate(keys):
            if key in layers:
                self._exact.add(key)
            elif _NUMBERED.fullmatch(key):
                self._paths[key] = place
            else:
                self._patterns[key] = place

    def matching(self, name: str) -> list[str]:
        """Return the keys that stand for a layer.

        Args:
            name: of the layer in the files.

        Returns:
            Its name, then ends of it, the longest first, then regexes that are found in it, in the
            table's order.

        Raises:
            FormatError: a key is neither a name nor a regex.
        """
        named = name in self._exact or name in self._paths or name in self._patterns
        exact = [name] if named else []
        pieces = name.split(".")
        ends = [".".join(pieces[first:]) for first in range(1, len(pieces))]
        ends = [end for end in ends if end in self._paths or end in self._patterns]
        inside = {
            ".".join(pieces[first:last]): None
            for first in range(len(pieces))
            for last in range(first + 1, len(pieces))
        }
        rest = {path: self._paths[path] for path in inside if path in self._paths}
        rest |= {key: place for key, place in self._patterns.items() if finds(key, name)}
        ordered = sorted(rest.keys() - {*exact, *ends}, key=rest.__getitem__)
        return [*exact, *ends, *ordered]


def finds(pattern: str, name: str) -> bool:
    """Tell whether a regex is found anywhere in a name.

    Args:
        pattern: as a config has it.
        name: of a layer.

    Raises:
        FormatError: it is no regex, or takes too long.
    """
    try:
        return matches(pattern, name, anywhere=True)
    except PatternError as error:
        raise FormatError(
            f"quantization_config: {pattern[:200]!r} is neither a layer nor a regex: {error}"
        ) from None


def flat_names(value: object, key: str) -> list[str]:
    """Return the names that a config lists: as a list, lists in a list, or one text with commas.

    Args:
        value: of the config; null lists nothing.
        key: its key, for messages.

    Raises:
        FormatError: it holds something else.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [name.strip() for name in value.split(",") if name.strip()]
    if isinstance(value, list | tuple):
        return [name for one in value for name in flat_names(one, key)]
    raise FormatError(f"quantization_config: {key} holds {value!r}, which is no name")


def table(config: Mapping[str, Any], key: str, *, of: str) -> Mapping[str, Any]:
    """Return a table of a config; null and an absent key are an empty one.

    Args:
        config: the ``quantization_config``.
        key: of the table.
        of: what it is a table of, for messages.

    Raises:
        FormatError: it is something else.
    """
    value = config.get(key) or {}
    if not isinstance(value, Mapping):
        raise FormatError(f"quantization_config.{key} is not a table of {of}")
    return value
