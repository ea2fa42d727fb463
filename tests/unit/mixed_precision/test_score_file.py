"""Scores in a file serve other budgets of the same model and data, and no others."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from autoround.errors import OutputError, RecipeError
from autoround.mixed_precision.score_file import (
    Scores,
    load_scores,
    save_scores,
    scores_identity,
)
from autoround.recipe.allocate import AllocateOptions
from autoround.session.session import Session
from autoround.types import OutputPlan, Scheme

from ...runs import make_session
from ...tiny import make_model, token_ids

W2, W4 = Scheme(2, 32, False), Scheme(4, 32, False)
IDENTITY = {"scores": 1, "model files": {"config": "abc"}, "seed": 42}
SCORES = Scores(
    IDENTITY,
    {"a": {str(W2): 0.25, str(W4): 1e-9}, "b": {str(W2): math.nan, str(W4): math.nan}},
    384,
    1.25,
    10,
)


def session(values: dict[str, object] | None = None, *, seed: int = 0) -> Session:
    return make_session(make_model("llama", seed=seed), values, data=token_ids(4, 16))


def test_scores_come_back_with_what_is_not_known_of_parts_that_saw_nothing(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "scores.json"
    save_scores(path, SCORES)
    assert "NaN" not in path.read_text()
    found = load_scores(path, identity=IDENTITY)
    assert found.losses["a"] == SCORES.losses["a"]
    assert all(math.isnan(loss) for loss in found.losses["b"].values())
    assert replace(found, losses={}) == replace(SCORES, losses={})


def test_an_option_that_was_not_scored_is_told_with_those_that_were() -> None:
    assert SCORES.loss("a", W2) == 0.25
    assert SCORES.loss("a", None) == SCORES.loss("unknown", None) == 0.0
    for part, scheme in (("a", Scheme(3, 32, False)), ("unknown", W2)):
        words = f"hold nothing of {part} in {scheme}; they were taken for W2 g32 asym, W4 g32 asym"
        with pytest.raises(RecipeError, match=words):
            SCORES.loss(part, scheme)


def test_scores_of_something_else_are_refused_line_by_line(tmp_path: Path) -> None:
    save_scores(tmp_path / "scores", SCORES)
    other = {**IDENTITY, "seed": 7, "model files": {"config": "xyz"}}
    with pytest.raises(RecipeError, match="scores of something else") as raised:
        load_scores(tmp_path / "scores", identity=other)
    assert str(raised.value).splitlines()[1:3] == [
        "  model files.config: abc then, xyz now",
        "  seed: 42 then, 7 now",
    ]


def stored(folder: Path, **changes: Any) -> Path:
    save_scores(folder / "scores", SCORES)
    values = {**json.loads((folder / "scores").read_text()), **changes}
    (folder / "scores").write_text(json.dumps(values))
    return folder / "scores"


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": {"a": {"W4": -0.5}}},
        {"losses": {"a": {"W4": math.inf}}},
        {"losses": {"a": [1.0]}},
        {"losses": None},
        {"tokens": "many"},
        {"tokens": math.inf},
        {"seconds": None},
        {"identity": 3},
    ],
)
def test_values_that_are_no_scores_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is no file of scores"):
        load_scores(stored(tmp_path, **changes), identity=IDENTITY)


def test_files_that_cannot_be_read_or_written_are_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be read"):
        load_scores(tmp_path / "missing", identity=IDENTITY)
    (tmp_path / "file").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeError, match="no file of scores"):
        load_scores(tmp_path / "file", identity=IDENTITY)
    with pytest.raises(OutputError, match="cannot be written"):
        save_scores(tmp_path / "file" / "scores", SCORES)


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate((64 << 20) + 1)
    with pytest.raises(RecipeError, match="no file of scores$"):
        load_scores(tmp_path / "large", identity=IDENTITY)


def test_the_identity_is_of_all_that_scores_depend_on() -> None:
    plain = scores_identity(AllocateOptions(), session())
    assert plain == scores_identity(AllocateOptions(), session())
    assert json.loads(json.dumps(plain)) == plain
    measured = AllocateOptions(method="measured")
    base = session()
    assert base.tokens is not None
    fewer = replace(base.tokens, ids=base.tokens.ids[:2], lengths=base.tokens.lengths[:2])
    outputs = (OutputPlan("auto_round", "auto_round", "float32"),)
    others = [
        scores_identity(measured, base),
        scores_identity(measured.model_copy(update={"iters": 7}), base),
        scores_identity(AllocateOptions(), session({"tuning.init_scale": "minmax"})),
        scores_identity(AllocateOptions(), session({"seed": 1})),
        scores_identity(AllocateOptions(), session(seed=1)),
        scores_identity(AllocateOptions(), replace(base, tokens=fewer)),
        scores_identity(AllocateOptions(), replace(base, plan=replace(base.plan, outputs=outputs))),
    ]
    assert len({json.dumps(one) for one in [plain, *others]}) == len(others) + 1
    # Budgets, and what is chosen under them, are none of it.
    same = AllocateOptions(avg_bits=3.0, options=("W2", "W8"), lm_head=4, fused=True, iters=9)
    assert scores_identity(same, base) == plain


@pytest.mark.parametrize(("block", "seen"), [(0, True), (2, True), (1, False)])
def test_the_first_and_the_last_block_are_compared(block: int, seen: bool) -> None:
    def identity(change: float) -> dict[str, Any]:
        model = make_model("gemma3_text")
        with torch.no_grad():
            model.model.layers[block].mlp.up_proj.weight[0, 0] += change
        return scores_identity(AllocateOptions(), make_session(model, data=token_ids(4, 16)))

    assert (identity(0.0) != identity(0.5)) == seen
