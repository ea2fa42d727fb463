"""The numbers of structure.py, on trees small enough to count by hand."""

from __future__ import annotations

from pathlib import Path

from tools import structure, structure_details
from tools.check_words import Source, sources

OPS = '''
"""A module."""


def half(x):
    """Halve it.

    Args:
        x: a number.
    """
    # Exact: only the exponent changes.
    return x / 2


def _private(x):
    return x


class Thing:
    def bare(self):
        return 1
'''
PLANNED = "def needs_data(recipe):\n    return True\n\n\ndef _own(recipe):\n    return 1\n"
ASKING = "from autoround.planning.hyperparameters import needs_data\n\n\ndef go(x):\n    {}\n"


def tree(root: Path, files: dict[str, str]) -> list[Source]:
    for name, text in files.items():
        path = root / "autoround" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return sources(root, "autoround")


def test_comments_and_docstrings(tmp_path: Path) -> None:
    modules = tree(tmp_path, {"core/ops.py": OPS})
    # Bodies without docstrings: two lines, one and one; the first of them is a comment.
    assert structure_details.comment_density(modules) == 100 / 4
    # Of half, Thing and bare, the first has one.
    assert structure_details.docstring_share(modules) == 100 / 3
    assert structure_details.sectioned_docstrings(modules) == (1, 2)


def test_decisions_count_outside_planning_alone(tmp_path: Path) -> None:
    asks = ASKING.format("return needs_data(x), _own(x), x.needs_data")
    planning = {"planning/hyperparameters.py": PLANNED, "planning/plan.py": asks}
    modules = tree(tmp_path, {**planning, "tuning/block.py": asks})
    assert structure_details.decisions_outside(modules) == [
        ("autoround/tuning/block.py", 5, "needs_data")
    ]


def test_earlier_trees_have_decisions_of_their_own(tmp_path: Path) -> None:
    asks = "def go(x):\n    return compiles(x), rates.rounding_rate(x), x.y.compiles(x)\n"
    modules = tree(tmp_path, {"stages/tune.py": asks, "stages/compiled.py": asks})
    names = [name for *_, name in structure_details.decisions_outside(modules)]
    # The file that holds a decision may call it.
    assert sorted(names) == ["compiles", "rounding_rate", "rounding_rate"]


def test_lazy_imports_close_a_cycle_and_those_of_types_do_not(tmp_path: Path) -> None:
    lazy = "def go():\n    from autoround.core import ops\n"
    typed = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from autoround import api\n"
    files = {"core/ops.py": "import autoround.data.text\n", "data/text.py": lazy, "api.py": typed}
    modules = tree(tmp_path, files)
    graph = structure_details.import_graph(modules)
    assert graph["autoround.api"] == set()
    assert structure_details.largest_cycle(graph) == 2
    assert structure_details.largest_cycle(structure_details.package_graph(graph)) == 2


def test_a_cycle_is_as_large_as_the_modules_in_it() -> None:
    ring = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"d"}}
    assert structure_details.largest_cycle(ring) == 3
    assert structure_details.largest_cycle({"a": {"b"}, "b": set()}) == 1


def test_this_tree_has_no_cycle_and_settles_autos_in_planning() -> None:
    numbers = structure.measure(Path(__file__).parents[2])
    assert numbers["largest cycle of packages"] == "1"
    assert numbers["calls that settle an auto outside planning/"] == "0"
