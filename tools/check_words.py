"""Check that words the house gives up do not spread: check_words.py [--update].

Counts, per top folder: results named found, own, held and the like; functions called by a bare
participle; comparisons of packing names outside formats/. Fails where a count is above the one in
check_words.json, and where it is below, so that the file is lowered with it (--update writes it).
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

#: Names of results that say nothing about what they hold.
EMPTY_NAMES = ("found", "own", "held", "one", "given", "every")
#: Participles that are also nouns or verbs of the field, so a function may be called so.
NOT_PARTICIPLES = frozenset({"embed", "feed", "seed", "speed", "need", "exceed", "proceed", "shed"})
#: What packings and formats are called where they are compared: variables, and constants.
_PACKING_NAMES = frozenset({"packing", "format", "packings", "formats"})
_PACKING_CONSTANTS = frozenset({"FAKE", "MLX", "GGUF", "COMPRESSED", "GPTQ", "AWQ", "PACKING_AWQ"})
#: Comparisons that ask which one it is; others count them.
_ASKS_WHICH = (ast.Eq, ast.NotEq, ast.In, ast.NotIn)
_TEXT_OF_FORMAT = re.compile(
    r"auto_round|auto_gptq|auto_awq|gptq(_v2)?|awq|compressed-tensors|llm_compressor|mlx|fake|gguf:.*"
)


@dataclass(frozen=True)
class Source:
    """One Python file: where it is in its tree, its text and its syntax."""

    path: Path
    text: str
    tree: ast.Module

    @property
    def name(self) -> str:
        """The module's dotted name."""
        parts = self.path.with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(root: Path, *folders: str) -> list[Source]:
    """Read all Python files under some folders of a tree, in order of their paths."""
    files = sorted(file for folder in folders for file in (root / folder).rglob("*.py"))
    texts = [(file.relative_to(root), file.read_text(encoding="utf-8")) for file in files]
    return [Source(path, text, ast.parse(text, str(path))) for path, text in texts]


def functions(tree: ast.AST, *, in_class: bool = False) -> Iterator[tuple[Function, bool]]:
    """Yield every function of a tree, and whether it is a method that takes self."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            static = any(
                isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list
            )
            yield node, in_class and not static
            yield from functions(node)
        else:
            yield from functions(node, in_class=isinstance(node, ast.ClassDef) or in_class)


def assigned_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every variable that is stored to, with its line, in ``for`` and ``with`` too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno


def empty_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield results under a name of EMPTY_NAMES, with their lines."""
    return ((name, line) for name, line in assigned_names(tree) if name in EMPTY_NAMES)


def is_bare_participle(name: str) -> bool:
    """Tell whether a function is called by a past participle alone, as in ``settled``."""
    word = name.lstrip("_")
    return word.endswith("ed") and "_" not in word and word not in NOT_PARTICIPLES


def participles(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield functions whose name is a bare participle; properties are nouns and may be."""
    for node, _ in functions(tree):
        marked = {ast.unparse(d) for d in node.decorator_list}
        if is_bare_participle(node.name) and not marked & {"property", "cached_property"}:
            yield node.name, node.lineno


def packing_tests(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield comparisons of a packing's or a format's name: ``==``, ``in``, ``startswith``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            which = any(isinstance(operator, _ASKS_WHICH) for operator in node.ops)
            # One way to initialise rounding is called as a packing is.
            other = any(_last_name(x) == "init_rounding" for x in sides)
            if which and not other and any(_names_packing(x) for x in sides):
                yield ast.unparse(node), node.lineno
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in ("startswith", "endswith")
            and any(_names_packing(x) for x in (node.func.value, *node.args))
        ):
            yield ast.unparse(node), node.lineno


def _names_packing(node: ast.expr) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(_TEXT_OF_FORMAT.fullmatch(node.value))
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return any(_names_packing(x) for x in node.elts)
    last = _last_name(node)
    return last in _PACKING_NAMES or last in _PACKING_CONSTANTS


def _last_name(node: ast.expr) -> str:
    """Return what a variable or an attribute is called; empty for anything else."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


ROOT = Path(__file__).resolve().parents[1]
COUNTS = Path(__file__).resolve().with_suffix(".json")
FOLDERS = ("autoround", "backends", "tools")
Counts: TypeAlias = dict[str, dict[str, int]]


def top_folder(path: Path) -> str:
    """Return what a file is counted under: its package of autoround, or its top folder."""
    parts = path.parts
    return "/".join(parts[:2]) if parts[0] == "autoround" and len(parts) > 2 else parts[0]


def count(root: Path) -> Counts:
    """Count what a tree has of each, by top folder; zeros are left out."""
    counts: Counts = {"result names": {}, "participles": {}, "packing comparisons": {}}
    for source in sources(root, *FOLDERS):
        at = top_folder(source.path)
        numbers = {
            "result names": len(list(empty_names(source.tree))),
            "participles": len(list(participles(source.tree))),
        }
        if source.path.parts[0] == "autoround" and at != "autoround/formats":
            numbers["packing comparisons"] = len(list(packing_tests(source.tree)))
        for kind, number in numbers.items():
            if number:
                counts[kind][at] = counts[kind].get(at, 0) + number
    return counts


def changes(allowed: Counts, counts: Counts) -> list[str]:
    """Say where counts are above the allowed ones, or below them."""
    lines = []
    for kind in sorted(allowed.keys() | counts.keys()):
        before, now = allowed.get(kind, {}), counts.get(kind, {})
        for at in sorted(before.keys() | now.keys()):
            old, new = before.get(at, 0), now.get(at, 0)
            if new > old:
                lines.append(f"{at}: {new} {kind}, {old} allowed; name the thing, or use a verb")
            elif new < old:
                lines.append(f"{at}: {new} {kind}, {old} allowed; lower it with --update")
    return lines


def main(arguments: list[str]) -> int:
    """Compare the counts with the file's, or write them; returns the exit code."""
    counts = count(ROOT)
    if arguments == ["--update"]:
        COUNTS.write_text(json.dumps(counts, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        return 0
    lines = changes(json.loads(COUNTS.read_text(encoding="utf-8")), counts)
    for line in lines:
        print(f"check_words: {line}")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
