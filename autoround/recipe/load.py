"""Resolve a recipe: its file, the recipes it extends, and what the command line says.

Each of those is checked by itself, so that a mistake is reported where it was made
even if a later value hides it. All mistakes come in one error.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoround.errors import RecipeError
from autoround.recipe.document import (
    MAX_BYTES,
    Node,
    Origin,
    Problem,
    located,
    parse_document,
    parse_value,
    resolve_plain,
    show,
)
from autoround.recipe.explain import check
from autoround.recipe.find import builtin_names, builtin_path, find_recipe
from autoround.recipe.schema import Recipe


@dataclass(frozen=True, slots=True)
class OverrideSource:
    """A value and the words that gave it, such as ``--bits 9``, for error messages.

    problem: why there is no value, where the words say nothing to the key.
    """

    value: object
    origin: str
    problem: str = ""


def load_recipe(
    source: str | Path,
    *,
    overrides: Sequence[str] = (),
    values: Mapping[str, object] | None = None,
    additions: Mapping[str, OverrideSource] | None = None,
) -> Recipe:
    """Load a recipe and everything it extends.

    Later wins: what is extended, then the file, then ``values``, ``additions`` and ``overrides``.
    Mappings merge key by key; lists and scalars replace, but for additions.

    Args:
        source: a built-in name or a path, as :func:`autoround.recipe.find.find_recipe`
            reads it.
        overrides: ``path=value`` texts of ``--set``, such as ``tuning.lr=5e-3``.
        values: dotted path to value, or to a :class:`OverrideSource` that says where from.
        additions: dotted path of a list to entries that go behind those it has.

    Raises:
        RecipeError: one line per mistake, each with its file and line.
    """
    problems: list[Problem] = []
    failed: list[str] = []
    chain: list[Node] = []
    try:
        path = find_recipe(source)
    except RecipeError as error:
        failed.append(str(error))
    else:
        chain = _read_chain(path, problems)
    changes = _read_values(values or {}, problems)
    changes += _read_values(additions or {}, problems, appended=True)
    changes += _read_overrides(overrides, problems)
    for layer in chain:
        problems.extend(check(layer, extra=("extends",))[1])
    for layer in changes:
        problems.extend(check(layer)[1])
    if failed or problems:
        ordered = _in_reading_order(problems, [layer.origin.source for layer in chain])
        raise RecipeError("\n".join([*failed, *map(str, ordered)]))
    # A description is about its own file; what extends that file is something else.
    bases = [_without(layer, "description") for layer in chain[1:]]
    return _merge_all([*reversed(bases), chain[0], *changes])


def read_source(source: str | Path) -> str:
    """Return the text of a recipe as it is written, valid or not.

    Raises:
        RecipeError: there is no such recipe, or it is not a text file of its size.
    """
    path = find_recipe(source)
    try:
        data = _read_bytes(path)
    except RecipeError as error:
        raise RecipeError(f"{_display(path)}: {error}") from None
    if len(data) > MAX_BYTES:
        raise RecipeError(f"{_display(path)}: larger than {MAX_BYTES} bytes: not a recipe")
    return data.decode("utf-8-sig", errors="replace")


def _in_reading_order(problems: list[Problem], sources: list[str]) -> list[Problem]:
    """Order problems by file, files first and command line last, and then by line."""
    files = [item.origin.source for item in problems if item.origin.line is not None]
    words = [item.origin.source for item in problems]
    rank = {name: at for at, name in enumerate(dict.fromkeys([*sources, *files, *words]))}
    return sorted(problems, key=lambda item: (rank[item.origin.source], item.origin.line or 0))


def _merge_all(layers: list[Node]) -> Recipe:
    merged = layers[0]
    for layer in layers[1:]:
        merged = _merge(merged, layer)
    recipe, problems = check(merged)
    if recipe is None:
        raise RecipeError("\n".join(map(str, problems)))
    _place_rules(recipe, merged)
    _place_format(recipe, merged)
    _place_dataset(recipe, merged)
    return recipe


def _place_dataset(recipe: Recipe, merged: Node) -> None:
    """Note whether somebody named the dataset: a built-in recipe's may be replaced, theirs not."""
    assert isinstance(merged.value, dict)
    calibration = merged.value.get("calibration")
    if calibration is None or not isinstance(calibration.value, dict):
        return
    dataset = calibration.value.get("dataset")
    built_in = {_display(builtin_path(name)) for name in builtin_names()}
    if dataset is not None and dataset.origin.source not in built_in:
        recipe.calibration.note_named_dataset()


def _place_format(recipe: Recipe, merged: Node) -> None:
    """Note where the format stands: only planning knows which formats there are."""
    assert isinstance(merged.value, dict)
    output = merged.value.get("output")
    if output is not None and isinstance(output.value, dict) and "format" in output.value:
        recipe.output.place_format(str(output.value["format"].origin))


def _place_rules(recipe: Recipe, merged: Node) -> None:
    """Note where each rule stands: only a model shows whether it matches anything."""
    assert isinstance(merged.value, dict)
    rules = merged.value.get("layers")
    entries = [] if rules is None or not isinstance(rules.value, list) else rules.value
    for rule, node in zip(recipe.layers, entries, strict=True):
        # Rules given from Python stand nowhere but in the key itself.
        if str(node.origin) != "layers":
            rule.place(str(node.origin))


def _merge(base: Node, top: Node) -> Node:
    if top.appended and isinstance(base.value, list) and isinstance(top.value, list):
        return Node([*base.value, *top.value], base.origin, base.key_origin)
    if not (isinstance(base.value, dict) and isinstance(top.value, dict)):
        return top
    merged = dict(base.value)
    for key, node in top.value.items():
        merged[key] = _merge(merged[key], node) if key in merged else node
    return Node(merged, top.origin, top.key_origin)


def _without(layer: Node, key: str) -> Node:
    assert isinstance(layer.value, dict)
    rest = {name: node for name, node in layer.value.items() if name != key}
    return Node(rest, layer.origin, layer.key_origin)


def _read_chain(path: Path, problems: list[Problem]) -> list[Node]:
    """Read a file and those it extends, the file itself first."""
    layers: list[Node] = []
    names: list[str] = []
    seen: list[Path] = []
    while True:
        names.append(_display(path))
        seen.append(path.resolve())
        root = _read_file(path, problems)
        if root is None or not isinstance(root.value, dict):
            return layers
        layers.append(_without(root, "extends"))
        extends = root.value.get("extends")
        parent = None if extends is None else _find_parent(extends, path.parent, problems)
        if extends is None or parent is None:
            return layers
        if parent.resolve() in seen:
            circle = " -> ".join([*names[seen.index(parent.resolve()) :], _display(parent)])
            problems.append(Problem(extends.origin, f"extends runs in a circle: {circle}"))
            return layers
        path = parent


def _find_parent(extends: Node, folder: Path, problems: list[Problem]) -> Path | None:
    source = extends.value
    if not isinstance(source, str) or not source:
        message = f"extends: expected the name or the path of one recipe; got {show(source)}"
        problems.append(Problem(extends.origin, message))
        return None
    try:
        return find_recipe(source, folder=folder)
    except RecipeError as error:
        problems.append(Problem(extends.origin, f"extends: {error}"))
        return None


def _read_file(path: Path, problems: list[Problem]) -> Node | None:
    origin = Origin(_display(path))
    try:
        data = _read_bytes(path)
    except RecipeError as error:
        problems.append(Problem(origin, str(error)))
        return None
    root, mistakes = parse_document(data, origin.source)
    problems.extend(mistakes)
    return root


def _read_bytes(path: Path) -> bytes:
    try:
        # A pipe or a device could be endless, or wait for ever to be opened.
        if not path.is_file():
            raise RecipeError("not a file")
        with path.open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror or error}") from None


def _display(path: Path) -> str:
    return os.path.normpath(path)


def _read_values(
    values: Mapping[str, object], problems: list[Problem], *, appended: bool = False
) -> list[Node]:
    layers = []
    for dotted, value in values.items():
        override = value if isinstance(value, OverrideSource) else OverrideSource(value, dotted)
        if override.problem:
            problems.append(Problem(Origin(override.origin), override.problem))
            continue
        node = replace(located(override.value, Origin(override.origin)), appended=appended)
        layers.extend(_nest(dotted, node, problems))
    return layers


def _read_overrides(overrides: Sequence[str], problems: list[Problem]) -> list[Node]:
    layers = []
    for text in overrides:
        origin = Origin(f"--set {text}")
        dotted, equals, value = text.partition("=")
        if not equals or not dotted.strip():
            message = "write PATH=VALUE, for example --set tuning.iters=100"
            problems.append(Problem(origin, message))
            continue
        node = _read_override(value.strip(), origin, problems)
        if node is not None:
            layers.extend(_nest(dotted.strip(), node, problems))
    return layers


def _read_override(text: str, origin: Origin, problems: list[Problem]) -> Node | None:
    if not text.startswith(("[", "{", "'", '"')):
        # Not read as YAML: '*.gate', 'a: b' and 'a #b' need no quotes on a command line.
        return located(resolve_plain(text), origin)
    root, mistakes = parse_value(text.encode("utf-8", "surrogateescape"), origin.source)
    problems.extend(Problem(origin, problem.message) for problem in mistakes)
    return None if root is None or mistakes else located(root.plain(), origin)


def _nest(dotted: str, node: Node, problems: list[Problem]) -> list[Node]:
    """Wrap a value in the mappings that its dotted path goes through."""
    keys = dotted.split(".")
    if keys[0] == "extends":
        message = "extends is for files; name the recipe itself instead"
        problems.append(Problem(node.origin, message))
        return []
    for key in reversed(keys):
        node = Node({key: node}, node.origin, node.origin)
    return [node]
