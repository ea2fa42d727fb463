"""Check that only autoround/storage changes the disk: python tools/check_files.py PATH...

Prints ``file:line: what is wrong`` for each call that writes, renames or deletes files elsewhere,
and ends with 1 if there is any. Reading is free. What a library writes by itself goes through
``write_by`` or ``replace_synced``, so that it can be made to fail as all else.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

#: The room that may.
STORAGE = "autoround/storage/"
#: Files that may all the same: path -> why.
ALLOWED: dict[str, str] = {
    "autoround/cli/_output.py": "opens the null device in place of streams that nobody reads",
    "autoround/confined.py": "opens the null device for a child process",
    "backends/autoround_backends/_compile.py": "a folder of this process for torch's compiler",
    "backends/autoround_backends/_compiled_libraries.py": "backends do not know storage",
    "backends/autoround_backends/_kernel_cache.py": "backends do not know storage",
    "backends/autoround_backends/_native.py": "a folder for the compiler",
    "backends/autoround_backends/_triton_cache.py": "backends do not know storage",
}
#: Functions of each module.
OS = """
chmod chown fdatasync fdopen fsync ftruncate link makedirs mkdir open posix_fallocate pwrite remove
removedirs rename renames replace rmdir symlink truncate unlink utime write writev
"""
SHUTIL = "copy copy2 copyfile copyfileobj copymode copytree move rmtree"
NUMPY = "memmap save savetxt savez savez_compressed"
#: An asterisk is all of them.
MODULES: dict[str, set[str]] = {
    "os": set(OS.split()),
    "shutil": set(SHUTIL.split()),
    "tempfile": {"*"},
    "np": set(NUMPY.split()),
    "torch": {"save"},
}
#: Methods of paths, arrays and models.
PATHS = "hardlink_to mkdir rmdir symlink_to touch unlink write_bytes write_text"
METHODS = {*PATHS.split(), "save_pretrained", "tofile"}
#: Functions by whatever name a module has them.
FUNCTIONS = {"save_file", "save_model"}
#: What runs a library's own writing.
THROUGH = {"write_by", "replace_synced"}
_MODE = re.compile(r"[rwaxbt+]{1,4}")


def places(tree: ast.AST, *, through: bool = False) -> Iterator[tuple[int, str]]:
    """Yield the calls of a file that change the disk, as lines and names.

    Args:
        tree: the syntax.
        through: whether it is an argument of a function that libraries write by.
    """
    for node in ast.iter_child_nodes(tree):
        inside = through
        if isinstance(node, ast.Call):
            name = _changes(node)
            if name and not (through and name.rpartition(".")[2] in METHODS | FUNCTIONS):
                yield node.lineno, name
            inside = through or ast.unparse(node.func).rpartition(".")[2] in THROUGH
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            names = MODULES[node.module]
            for alias in node.names:
                if alias.name in names or "*" in names:
                    yield node.lineno, f"from {node.module} import {alias.name}"
        yield from places(node, through=inside)


def _changes(call: ast.Call) -> str:
    """Return the name of a call that changes the disk; empty for any other."""
    function = call.func
    name = ast.unparse(function)
    if isinstance(function, ast.Name):
        if name in FUNCTIONS or (name == "open" and _writes(call, 1)):
            return name
        return ""
    if not isinstance(function, ast.Attribute):
        return ""
    owner, method = ast.unparse(function.value), function.attr
    if owner in MODULES:
        return name if method in MODULES[owner] or "*" in MODULES[owner] else ""
    plain = len(call.args) == 1 and not call.keywords and not isinstance(call.args[0], ast.Starred)
    # Of a path; texts take two arguments, dataclasses keywords.
    renames = method in ("replace", "rename") and plain
    return name if method in METHODS or renames or (method == "open" and _writes(call, 0)) else ""


def _writes(call: ast.Call, place: int) -> bool:
    """Tell whether a call opens a file for writing, by the argument that says how."""
    nodes = [keyword.value for keyword in call.keywords if keyword.arg == "mode"]
    nodes += call.args[place : place + 1]
    modes = [node.value for node in nodes if isinstance(node, ast.Constant)]
    return any(
        isinstance(mode, str) and bool(_MODE.fullmatch(mode)) and bool(set(mode) & set("wax+"))
        for mode in modes
    )


def main(roots: list[str]) -> int:
    """Check all Python files under some folders; returns the exit code."""
    files = sorted(file for root in roots for file in Path(root).rglob("*.py"))
    if not files:
        print(f"check_files: no Python file in {', '.join(roots) or 'nothing'}", file=sys.stderr)
        return 2
    count = 0
    for file in files:
        path = file.as_posix()
        if path in ALLOWED or path.startswith(STORAGE):
            continue
        for line, name in places(ast.parse(file.read_text(encoding="utf-8"))):
            print(f"{file}:{line}: {name} changes the disk; use autoround.storage.files")
            count += 1
    print(f"check_files: {len(files)} files, {count} violations")
    return 1 if count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
