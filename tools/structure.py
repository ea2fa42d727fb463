"""Print numbers of the code of one tree or two, as a markdown table: structure.py TREE [TREE].

Only the syntax is read; nothing of the project is imported but the counting of check_words.
"""

from __future__ import annotations

import ast
import re
import statistics
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def measure(root: Path) -> dict[str, str]:
    """Return the numbers of a tree's autoround/, by what they count."""
    from tools import check_words as words
    from tools import structure_details

    modules = words.sources(root, "autoround")
    lengths = [len(x.text.splitlines()) for x in modules]
    functions = [pair for x in modules for pair in words.functions(x.tree)]
    nodes = [node for x in modules for node in ast.walk(x.tree)]
    any_names = sum(isinstance(x, ast.Name) and x.id == "Any" for x in nodes)
    results = Counter(name for x in modules for name, _ in words.empty_names(x.tree))
    outside = [x for x in modules if x.path.parts[1] != "formats"]
    joined = "\n".join(x.text for x in modules)
    tests = "\n".join(x.text for x in words.sources(root, "tests"))
    return {
        "modules": str(len(modules)),
        "median lines": str(statistics.median(lengths)),
        "files over 400 lines": str(sum(x > 400 for x in lengths)),
        "functions over 60 lines": str(
            sum((f.end_lineno or f.lineno) - f.lineno >= 60 for f, _ in functions)
        ),
        "functions over 7 arguments": str(
            sum(
                len([*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]) - method > 7
                for f, method in functions
            )
        ),
        "Any a thousand lines": f"{1000 * any_names / sum(lengths):.1f}",
        "modules in the fullest folder": str(max(Counter(x.path.parent for x in modules).values())),
        "comparisons of packing names outside formats/": str(
            sum(len(list(words.packing_tests(x.tree))) for x in outside)
        ),
        'removeprefix(... + ".")': str(len(re.findall(r'removeprefix\([^)]*\+ "\."\)', joined))),
        "bare participles": str(sum(len(list(words.participles(x.tree))) for x in modules)),
        **{f"results named {name}": str(results[name]) for name in words.EMPTY_NAMES},
        "monkeypatch.setattr in tests": str(tests.count("monkeypatch.setattr")),
        **structure_details.measure(modules),
    }


def main(arguments: list[str]) -> int:
    """Print the table; returns the exit code."""
    if not 1 <= len(arguments) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    columns = [measure(Path(x)) for x in arguments]
    print(f"| | {' | '.join(arguments)} |\n|---|{'---|' * len(columns)}")
    for name in columns[0]:
        print(f"| {name} | {' | '.join(x[name] for x in columns)} |")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
