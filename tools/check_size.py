"""Check the house limits that linters do not know: python tools/check_size.py PATH...

Prints ``file:line: what is wrong`` for each violation and ends with 1 if there is any.
The rules are listed in CONTRIBUTING.md.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 7
#: Folders whose code must not depend on environment variables.
NO_ENVIRONMENT = ("autoround", "backends")
#: Tests have sizes only: pytest's fixtures are arguments, and helpers pass options on.
SIZES_ONLY = "tests"
#: Files of tests that were too long when they came under the limit -> their lines then; the
#: numbers only fall, and a file that keeps the limit leaves the list.
LONG_FILES: dict[str, int] = {"tests/unit/resume/test_policy.py": 483, "tests/zoo.py": 641}
#: Files that may read the environment all the same: path -> why.
ENVIRONMENT_ALLOWED: dict[str, str] = {
    "autoround/data/hub.py": "where the library datasets keeps its cache",
    "backends/autoround_backends/_compile.py": "tells torch where to keep what it compiles",
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Violation:
    """One broken rule and the place to look at."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Place:
    """A function and where it stands: is it public, a method, a command?"""

    node: Function
    public: bool
    method: bool

    @property
    def command(self) -> bool:
        """Whether it is a command of the command line, or a kernel of Triton.

        The arguments of the one are its options, those of the other pointers and sizes by rule.
        """
        return any(
            (
                isinstance(d, ast.Call)
                and isinstance(d.func, ast.Attribute)
                and d.func.attr in ("command", "callback")
            )
            or ast.unparse(d).partition("(")[0] == "triton.jit"
            for d in self.node.decorator_list
        )


def functions(tree: ast.AST, public: bool = True, in_class: bool = False) -> Iterator[Place]:
    """Yield every function of a tree; one inside a private or local scope is not public."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef):
            yield from functions(node, public and not node.name.startswith("_"), True)
        elif isinstance(node, Function):
            dunder = node.name.startswith("__") and node.name.endswith("__")
            visible = public and (dunder or not node.name.startswith("_"))
            static = any(
                isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list
            )
            yield Place(node, visible, in_class and not static)
            yield from functions(node, False)
        else:
            yield from functions(node, public, in_class)


def function_violations(
    path: Path, tree: ast.AST, *, sizes_only: bool = False
) -> Iterator[Violation]:
    """Find functions that are too long, take too many arguments or hide them in ``**``.

    Args:
        path: the file, for messages.
        tree: its syntax.
        sizes_only: whether to look at lengths alone.
    """
    for place in functions(tree):
        node, arguments = place.node, place.node.args
        # The options of a command are declared in its signature, so only its body is counted.
        start = node.body[0].lineno if place.command else node.lineno
        lines = (node.end_lineno or start) - start + 1
        if lines > MAX_FUNCTION_LINES:
            message = f"{node.name} has {lines} lines; the limit is {MAX_FUNCTION_LINES}"
            yield Violation(path, node.lineno, message)
        if sizes_only:
            continue
        taken = len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)
        taken -= place.method
        if taken > MAX_ARGUMENTS and not place.command:
            message = f"{node.name} takes {taken} arguments; the limit is {MAX_ARGUMENTS}"
            yield Violation(path, node.lineno, message)
        if place.public and arguments.kwarg is not None:
            message = f"{node.name} is public and takes **{arguments.kwarg.arg}; name its arguments"
            yield Violation(path, node.lineno, message)


def environment_violations(path: Path, tree: ast.AST) -> Iterator[Violation]:
    """Find uses of os.environ and os.getenv: behaviour comes from arguments."""
    for node in ast.walk(tree):
        names: list[str] = []
        line = 0
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            names, line = [f"{node.value.id}.{node.attr}"], node.lineno
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            names, line = [f"os.{alias.name}" for alias in node.names], node.lineno
        for name in names:
            if name in ("os.environ", "os.environb", "os.getenv", "os.getenvb"):
                yield Violation(path, line, f"{name}: take an argument instead")


def swallow_violations(path: Path, tree: ast.AST) -> Iterator[Violation]:
    """Find handlers that catch everything and do nothing."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
        everything = any(
            kind is None
            or (isinstance(kind, ast.Name) and kind.id in ("Exception", "BaseException"))
            for kind in caught
        )
        silent = all(
            isinstance(statement, (ast.Pass, ast.Continue))
            or (isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant))
            for statement in node.body
        )
        if everything and silent:
            message = "every error is swallowed; name the exceptions that are expected"
            yield Violation(path, node.lineno, message)


def length_violations(path: Path, name: str, lines: int) -> Iterator[Violation]:
    """Find a file that is too long, or is shorter than LONG_FILES says."""
    listed = LONG_FILES.get(name)
    if lines > (listed or MAX_FILE_LINES):
        yield Violation(path, 1, f"{lines} lines; the limit is {listed or MAX_FILE_LINES}")
    elif listed is not None and lines < listed:
        yield Violation(path, 1, f"{lines} lines, {listed} in LONG_FILES; lower it there")


def check_file(path: Path, root: Path) -> list[Violation]:
    """Check one Python file; ``root`` is the folder that the rules' paths are relative to."""
    source = path.read_text(encoding="utf-8")
    tree = ast.parse(source, str(path))
    relative = path.resolve().relative_to(root.resolve())
    sizes_only = relative.parts[0] == SIZES_ONLY
    violations = [
        *function_violations(path, tree, sizes_only=sizes_only),
        *swallow_violations(path, tree),
        *length_violations(path, relative.as_posix(), len(source.splitlines())),
    ]
    if relative.parts[0] in NO_ENVIRONMENT and relative.as_posix() not in ENVIRONMENT_ALLOWED:
        violations.extend(environment_violations(path, tree))
    return sorted(violations, key=lambda violation: violation.line)


def main(arguments: list[str]) -> int:
    """Check the files and folders named and say how many violations there are."""
    if not arguments:
        print("usage: python tools/check_size.py PATH...", file=sys.stderr)
        return 2
    root = Path(__file__).resolve().parent.parent
    files: list[Path] = []
    for name in arguments:
        path = Path(name)
        if not path.exists():
            print(f"check_size: no such file or folder: {path}", file=sys.stderr)
            return 2
        files.extend(sorted(path.rglob("*.py")) if path.is_dir() else [path])
    found = [violation for path in files for violation in check_file(path, root)]
    for violation in found:
        print(violation)
    print(f"check_size: {len(files)} files, {len(found)} violations")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
