"""Numbers of a tree that take more than counting words; structure.py prints them with its own.

comments    lines that are only a comment, a hundred lines of functions
docstrings  share of public classes, functions and methods that have one; and, of the public
            functions in core, formats, device and api, that name what goes in, out or wrong
decisions   calls that settle an ``auto``, outside planning/: of functions of
            planning/hyperparameters.py, or of what did this before there was such a file
cycles      most packages, and most modules, that import each other in a circle; imports inside
            functions count, those for type checkers only do not
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from tools.check_words import Function, Source

Graph: TypeAlias = Mapping[str, set[str]]

HYPERPARAMETERS = Path("autoround", "planning", "hyperparameters.py")
#: What settled an ``auto`` before planning/hyperparameters.py did -> the file that held it.
EARLIER_DECISIONS: Mapping[str, str] = {
    **dict.fromkeys(
        ("compensates", "starts_compensated", "looks_at_inputs", "rounding_rate", "clip_rate"),
        "autoround/recipe/rates.py",
    ),
    **dict.fromkeys(("schedule_of", "forward_size"), "autoround/stages/schedule.py"),
    **dict.fromkeys(("planned_outside", "tunes_head"), "autoround/stages/outside.py"),
    "needs_data": "autoround/stages/plan.py",
    "distills": "autoround/stages/distill.py",
    "stream_names": "autoround/stages/streams.py",
    "compiles": "autoround/stages/compiled.py",
}
#: Where docstrings have sections: packages and modules of autoround/.
SECTIONED = ("core", "formats", "device", "api")
_SECTION = re.compile(r"^\s*(Args|Returns|Yields|Raises|Attributes):\s*$", re.MULTILINE)


def room_of(source: Source) -> str:
    """Return the package or module of autoround/ that a file belongs to."""
    return source.path.with_suffix("").parts[1]


def comment_lines(text: str) -> set[int]:
    """Return the numbers of the lines that hold a comment and nothing else."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]
        for token in tokens
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    }


def outer_functions(tree: ast.AST) -> Iterator[Function]:
    """Yield functions and methods, but none that is inside another one."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node
        else:
            yield from outer_functions(node)


def comment_density(sources: Sequence[Source]) -> float:
    """Return the comment lines a hundred lines of function bodies, docstrings left out."""
    lines = comments = 0
    for source in sources:
        numbers = comment_lines(source.text)
        written = {n for n, x in enumerate(source.text.splitlines(), start=1) if x.strip()}
        for function in outer_functions(source.tree):
            end = function.end_lineno or function.lineno
            body = written.intersection(range(_body_start(function), end + 1))
            lines += len(body)
            comments += len(body & numbers)
    return 100 * comments / max(lines, 1)


def _body_start(function: Function) -> int:
    """Return the line below a function's docstring, or below its signature without one."""
    if ast.get_docstring(function, clean=False) is not None:
        return (function.body[0].end_lineno or function.lineno) + 1
    arguments = [
        node.end_lineno or 0 for node in ast.walk(function.args) if isinstance(node, ast.arg)
    ]
    returned = function.returns.end_lineno or 0 if function.returns else 0
    # On one line with its body, a function has that line.
    return min(max(function.lineno, returned, *arguments, 0) + 1, function.body[0].lineno)


def public_definitions(tree: ast.AST) -> Iterator[Function | ast.ClassDef]:
    """Yield public classes, functions and methods; what is inside a function is private."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function | ast.ClassDef):
            if node.name.startswith("_"):
                continue
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node)
        else:
            yield from public_definitions(node)


def docstring_share(sources: Sequence[Source]) -> float:
    """Return the percentage of public definitions that have a docstring."""
    nodes = [node for source in sources for node in public_definitions(source.tree)]
    return 100 * sum(ast.get_docstring(node) is not None for node in nodes) / max(len(nodes), 1)


def sectioned_docstrings(sources: Sequence[Source]) -> tuple[int, int]:
    """Count the public functions of SECTIONED rooms whose docstring has sections, and all."""
    docs = [
        ast.get_docstring(node) or ""
        for source in sources
        if room_of(source) in SECTIONED
        for node in public_definitions(source.tree)
        if isinstance(node, Function)
    ]
    return sum(bool(_SECTION.search(doc)) for doc in docs), len(docs)


def decisions_outside(sources: Sequence[Source]) -> list[tuple[str, int, str]]:
    """Return the calls outside planning/ that settle an auto: file, line, function."""
    settling = next((x for x in sources if x.path == HYPERPARAMETERS), None)
    homes = dict(EARLIER_DECISIONS)
    if settling is not None:
        functions = outer_functions(settling.tree)
        public = (node.name for node in functions if not node.name.startswith("_"))
        homes = dict.fromkeys(public, settling.path.as_posix())
    return [
        (source.path.as_posix(), node.lineno, name)
        for source in sources
        if room_of(source) != "planning"
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Call)
        for name in [_callee_name(node)]
        if name in homes and source.path.as_posix() != homes[name]
    ]


def _callee_name(node: ast.Call) -> str:
    """Return the name of a called function, as it is or after a module's alias."""
    if isinstance(node.func, ast.Name):
        return node.func.id
    through_name = isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)
    return node.func.attr if through_name and isinstance(node.func, ast.Attribute) else ""


def import_graph(sources: Sequence[Source]) -> dict[str, set[str]]:
    """Return which modules of the project each one imports, lazily or not."""
    names = {source.name for source in sources}
    graph: dict[str, set[str]] = {}
    for source in sources:
        imported: set[str] = set()
        for node in _runtime_nodes(source.tree):
            if isinstance(node, ast.Import):
                imported.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # Each name may be a module of the package named, or something inside it.
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    imported.add(inner if inner in names else node.module)
        graph[source.name] = (imported & names) - {source.name}
    return graph


def _runtime_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes but those that only type checkers see."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield from _runtime_nodes(other)
            continue
        yield node
        yield from _runtime_nodes(node)


def package_graph(graph: Graph) -> dict[str, set[str]]:
    """Return which packages, or modules directly below autoround/, import each other."""
    packages: dict[str, set[str]] = {}
    for name, imported in graph.items():
        importing = _package(name)
        targets = {_package(x) for x in imported} - {importing}
        packages.setdefault(importing, set()).update(targets)
    return packages


def _package(name: str) -> str:
    return ".".join(name.split(".")[:2])


def largest_cycle(graph: Graph) -> int:
    """Return the size of the largest strongly connected part, by Tarjan's algorithm.

    1 where nothing imports itself in a circle.
    """
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    sizes = [1]

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            at = stack.index(node)
            sizes.append(len(stack) - at)
            del stack[at:]

    for node in graph:
        if node not in index:
            visit(node)
    return max(sizes)


def measure(sources: Sequence[Source]) -> dict[str, str]:
    """Return the numbers of the files of a tree's autoround/, by what they count."""
    graph = import_graph(sources)
    sectioned, functions = sectioned_docstrings(sources)
    return {
        "comment lines a hundred lines of functions": f"{comment_density(sources):.1f}",
        "public docstrings, %": f"{docstring_share(sources):.0f}",
        f"Args/Returns/Raises in {', '.join(SECTIONED)}": f"{sectioned} of {functions}",
        "calls that settle an auto outside planning/": str(len(decisions_outside(sources))),
        "largest cycle of packages": str(largest_cycle(package_graph(graph))),
        "largest cycle of modules": str(largest_cycle(graph)),
    }
