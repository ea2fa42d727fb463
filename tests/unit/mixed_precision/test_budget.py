"""A bit budget becomes rules for layers, and comes back as it was in a run that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import OutputError, RecipeError, UsageError
from autoround.events import Event, StageStarted, Warned
from autoround.mixed_precision.budget import (
    ALLOCATION_FILE,
    describe_allocation,
    predicted_kl,
    resolve_budget,
    restore_budget,
    summary,
)
from autoround.mixed_precision.layer_groups import LayerGroup
from autoround.mixed_precision.search import ChosenAllocation
from autoround.recipe.schema import Recipe
from autoround.session.session import Session
from autoround.types import LayerPlan, Scheme

from ...runs import make_session, small
from ...tiny import make_model, token_ids

W2, W4 = Scheme(2, 32, False), Scheme(4, 32, False)
BUDGET: dict[str, object] = {
    "tuning.iters": 0,
    "tuning.init_scale": "minmax",
    "tuning.init_rounding": "nearest",
    "scheme.sym": False,
    "allocate.options": ["W2", "W4"],
    "allocate.avg_bits": 4.0,
}


def group(name: str, *, layers: int = 1) -> LayerGroup:
    own = tuple(LayerPlan(f"{name}{i}", (4, 8), W4) for i in range(layers))
    return LayerGroup(name, own, (W2, W4, None), (10 * layers, 20 * layers, 64 * layers))


CHOSEN = ChosenAllocation(
    groups=(group("a"), group("b", layers=3), group("c")),
    losses=((0.5, 0.25, 0.0), (0.4, 0.2, 0.0), (0.3, 0.1, 0.0)),
    picks=(0, 1, 2),
    fixed=1000,
    budget=("avg_bits", 6.5),
    corners=(),
    unreached=(),
)


def opened(
    values: dict[str, object] | None = None, *, sink: Any = lambda event: None
) -> tuple[Recipe, Session]:
    """Return a recipe with a budget, and the session of its plan."""
    own = {**BUDGET, **(values or {})}
    unlimited = {key: value for key, value in own.items() if not key.startswith("allocate.")}
    data = token_ids(4, 16)
    plain: dict[str, object] = {**unlimited, "tuning.iters": 1}
    return small(own), make_session(make_model("llama"), plain, data=data, sink=sink)


def test_an_allocation_in_one_line_and_as_it_is_kept() -> None:
    assert CHOSEN.bits == pytest.approx(8 * (10 + 60 + 64) / (5 * 32))
    assert describe_allocation(CHOSEN) == (
        "avg_bits 6.5: 6.700 bits a weight, predicted KL 0.7; "
        "layers: 1 × W2 g32 asym, 3 × W4 g32 asym, 1 × 16 bit"
    )
    kept = summary(small(BUDGET), CHOSEN)
    assert json.loads(json.dumps(kept)) == kept
    assert (kept["bytes"], kept["weights"]) == (134, 160)
    assert kept["predicted_kl"] == pytest.approx(0.7)
    assert kept["layers"] == {"W2 g32 asym": 1, "W4 g32 asym": 3, "16 bit": 1}
    assert kept["asked"]["avg_bits"] == 4.0


def test_a_budget_becomes_a_rule_for_every_layer() -> None:
    events: list[Event] = []
    recipe, session = opened({"layers": [{"match": "o_proj", "bits": 8}]}, sink=events.append)
    found, kept = resolve_budget(recipe, session)
    assert found.allocate.budgets == {}
    assert found.layers[0] == recipe.layers[0]
    rules = found.layers[1:]
    assert {rule.bits for rule in rules} == {2, 4}
    named = [name for rule in rules for name in rule.patterns]
    assert len(named) == len(set(named)) == 12
    assert kept["bits_per_weight"] <= 4.0
    (told,) = [e for e in events if isinstance(e, StageStarted) and e.stage == "allocate"]
    assert told.detail.startswith("avg_bits 4: ")
    assert not any(isinstance(event, Warned) for event in events)


def test_layers_are_not_scored_where_that_may_not_be(tmp_path: Path) -> None:
    recipe, session = opened()
    with pytest.raises(UsageError, match="'autoround allocate' does that"):
        resolve_budget(recipe, session, may_score=False)
    file = tmp_path / "scores.json"
    recipe, session = opened({"allocate.scores": str(file)})
    with pytest.raises(UsageError):
        resolve_budget(recipe, session, may_score=False)
    first = resolve_budget(recipe, session)
    assert resolve_budget(recipe, session, may_score=False) == first


def test_a_run_that_goes_on_takes_what_it_had_found() -> None:
    recipe, session = opened({"layers": [{"match": "o_proj", "bits": 8}]})
    found, kept = resolve_budget(recipe, session)
    stored = json.loads(json.dumps([found.to_dict(), kept]))
    again, told = restore_budget(recipe, *stored)
    assert again.layers == found.layers
    assert again.allocate.budgets == {}
    assert told == stored[1]
    assert again.to_dict() == found.to_dict()


def test_another_budget_or_other_rules_do_not_go_on() -> None:
    recipe, session = opened({"layers": [{"match": "o_proj", "bits": 8}]})
    found, kept = resolve_budget(recipe, session)
    resolved = found.to_dict()
    with pytest.raises(OutputError, match="the interrupted run had no bit budget"):
        restore_budget(recipe, resolved, None)
    with pytest.raises(OutputError, match="the interrupted run had no bit budget"):
        restore_budget(recipe, resolved, {})
    other, _ = opened({"layers": [{"match": "o_proj", "bits": 8}], "allocate.avg_bits": 3.5})
    with pytest.raises(OutputError, match=r"allocate.avg_bits: 4.0 then, 3.5 now\n.*--restart"):
        restore_budget(other, resolved, kept)
    for rules in ([{"match": "o_proj", "bits": 4}], [{"match": "q_proj", "bits": 8}]):
        ruled, _ = opened({"layers": rules})
        with pytest.raises(OutputError, match="other rules for layers"):
            restore_budget(ruled, resolved, kept)


def test_a_budget_out_of_reach_is_an_error_of_the_recipe() -> None:
    recipe, session = opened({"allocate.avg_bits": 1.5})
    with pytest.raises(RecipeError, match="is less than the"):
        resolve_budget(recipe, session)


def test_what_an_allocation_was_predicted_to_cost_is_read_from_its_folder(tmp_path: Path) -> None:
    assert predicted_kl(tmp_path) is None
    (tmp_path / ALLOCATION_FILE).write_text(json.dumps({"predicted_kl": 0.125}))
    assert predicted_kl(tmp_path) == 0.125


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "null", '{"predicted_kl": "0.1"}', '{"predicted_kl": -1}']
)
def test_what_cannot_be_read_of_it_is_left_out(text: str, tmp_path: Path) -> None:
    (tmp_path / ALLOCATION_FILE).write_text(text)
    assert predicted_kl(tmp_path) is None
