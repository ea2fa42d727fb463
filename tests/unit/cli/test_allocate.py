from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

from autoround.recipe.load import load_recipe

from .conftest import Command

SMALL = ["--recipe", "opt-rtn", "--nsamples", 4, "--seqlen", 16]
SHAPE = ["--set", "scheme.group_size=32", "--set", "tuning.compute_dtype=float32"]


def test_scores_are_made_once_and_bits_found_from_them(
    autoround: Command, model: Path, text: Path, tmp_path: Path
) -> None:
    scores, recipe, plot = (tmp_path / n for n in ("scores.json", "mixed.yaml", "curve.svg"))
    common = [model, *SMALL, *SHAPE, "--dataset", text, "--save", scores]
    done = autoround(
        *("allocate", *common, "--avg-bits", 5, "--export", recipe, "--plot", plot, "--layers")
    )
    assert done.code == 0, done.err
    assert "score: 2 blocks, 64 tokens" in done.err
    lines = done.out.splitlines()
    assert lines[0] == "budget       avg_bits 5"
    assert lines[1].startswith("allocation   ")
    assert any(line.startswith("alternative  W8 g32 sym for all: 8.") for line in lines)
    assert sum(line.startswith("model.layers.0.") for line in lines) == 4  # q k v, o, gate up, down
    assert {"identity", "losses"} <= json.loads(scores.read_text()).keys()
    ET.parse(plot)
    loaded = load_recipe(recipe)
    assert loaded.allocate.budgets == {}
    assert sum(len(rule.patterns) for rule in loaded.layers) == 14

    again = autoround("allocate", *common, "--max-kl", 10)
    assert again.code == 0
    assert "score:" not in again.err
    assert "14 layers to W2 g32 sym" in again.out

    out = tmp_path / "out"
    asked = ["--set", "allocate.avg_bits=5", "--set", f"allocate.scores={scores}"]
    short = ["--eval-text", text, "--set", "evaluation.max_tokens=64"]
    made = autoround(
        *("quantize", model, *SMALL, *SHAPE, "--dataset", text, *asked, *short),
        *("-o", out, "--set", "evaluation.seqlen=32"),
    )
    assert made.code == 0, made.err
    assert "allocate: avg_bits 5: " in made.out
    assert "predicted KL  " in made.out
    by_hand = autoround("plan", model, "--recipe", recipe, "--json")
    planned = json.loads(by_hand.out)["plan"]["blocks"]
    written = json.loads((out / "plan.json").read_text())["blocks"]
    assert planned == written


def test_what_is_refused(autoround: Command, model: Path, tmp_path: Path) -> None:
    none = autoround("allocate", model, *SMALL)
    assert (none.code, none.out) == (2, "")
    assert "this recipe has no budget" in none.err
    far = autoround("allocate", model, *SMALL, "--avg-bits", 3, "--export", tmp_path / "no" / "x")
    assert far.code == 8
    assert "a folder that exists" in far.err
    wrong = autoround("allocate", model, *SMALL, "--avg-bits", 3, "--options", "W3,W9")
    assert wrong.code == 3
    assert "allocate.options[1]: expected W and bits" in wrong.err
    plan = autoround("plan", model, *SMALL, "--set", "allocate.avg_bits=3")
    assert plan.code != 0
