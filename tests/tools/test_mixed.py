"""The parts of the bench of mixed bits: recipes of its rows, its page, its random allocations."""

from __future__ import annotations

import argparse
import importlib
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autoround.recipe.load import load_recipe

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"
ARGS = argparse.Namespace(
    group_size=64, sym=False, iters=0, batch_size=8, nsamples=32, seqlen=256, options="2,3,4,8"
)


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCH))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


@pytest.mark.parametrize(("budget", "first", "last"), [(3.0, 5, 5), (2.5, 2, 1), (2.3, 0, 0)])
def test_more_bits_for_the_ends_stay_in_the_budget(budget: float, first: int, last: int) -> None:
    recipes = importlib.import_module("mixed_recipes")
    found = recipes.ends(SimpleNamespace(blocks=30), ARGS, budget)
    recipe = load_recipe("default", overrides=[*recipes.shared(ARGS), *found])
    assert recipe.scheme.bits == 2
    more = first + last
    assert [rule.forms for rule in recipe.layers] == [
        (f"{end} {count}",) for end, count in (("first", first), ("last", last)) if count
    ]
    low, high = recipes.stored(2, 64), recipes.stored(4, 64)
    assert (more * high + (30 - more) * low) / 30 <= budget
    assert ((more + 1) * high + (29 - more) * low) / 30 > budget


def test_the_bits_of_a_peer_become_rules() -> None:
    recipes = importlib.import_module("mixed_recipes")
    scheme = {"group_size": 64, "sym": False}
    config = {
        "model.layers.0.mlp.up_proj": {"bits": 2, **scheme},
        "model.layers.1.mlp.up_proj": {"bits": 4, **scheme},
        "model.layers.2.mlp.up_proj": {"bits": 2, **scheme},
        "lm_head": {"bits": 16, "group_size": None, "sym": None},
    }
    recipe = load_recipe("default", overrides=[recipes.by_peer(config)])
    assert [(rule.bits, rule.sym, len(rule.patterns)) for rule in recipe.layers] == [
        (2, False, 2),
        (4, False, 1),
    ]
    words = recipes.uniform("W3gchannel")
    assert load_recipe("default", overrides=words).scheme.as_scheme().group_size == -1


def test_the_page_has_a_line_for_every_row(tmp_path: Path) -> None:
    page = importlib.import_module("mixed_page")
    row: dict[str, Any] = {"iters": 0, "samples": "8x128", "eval_tokens": 64, "machine": "here"}
    row |= {"ppl16": 28.0, "ppl": 40.0, "kl": 0.5, "bpw": 2.99}
    rows = {
        "a": {**row, "name": "auto", "budget": 3.0, "predicted_kl": 0.4, "scoring_cpu_s": 60.0},
        "b": {**row, "name": "uniform:W3g64", "budget": None, "kl": 0.6},
    }
    kind = {"name": "varied", "spearman": 0.97, "ratio": 0.8, "real": [0.1, 2.0]}
    contents = {"rows": rows, "correlation": {"x": {"count": 20, "tokens": 64, "kinds": [kind]}}}
    place = tmp_path / "page.md"
    place.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n", "utf-8")
    page.write_page(place, contents)
    text = place.read_text("utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "| 3 | automatic | 2.990 | 40.00 | 0.5000 | 0.4000 | 60 |  |" in text
    assert "|  | W3g64 for all | 2.990 | 40.00 | 0.6000 |" in text
    assert "| varied | 0.970 | 0.80 | 0.100 to 2.000 |" in text


def test_random_allocations_are_of_their_kind() -> None:
    found = importlib.import_module("mixed_correlate")
    layers, words = [str(n) for n in range(400)], ["W2", "W4"]
    shares = [
        [list(draw(layers, words, random.Random(seed)).values()).count("W2") for seed in range(8)]
        for draw in (found.varied, found.alike)
    ]
    assert max(shares[0]) - min(shares[0]) > 100
    assert all(abs(share - 200) < 40 for share in shares[1])
    pairs = [(0.1, 0.2), (0.3, 0.4), (0.2, 0.9)]
    summary = found.summary("varied", pairs)
    assert summary["spearman"] == 0.5
    assert summary["real"] == [0.2, 0.9]
