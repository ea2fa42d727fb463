"""Bits under a budget: scores against measured divergences, constraints, and the recipe by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.func import functional_call

from autoround.api import allocate, plan
from autoround.core.rounding import dense_weight
from autoround.errors import AutoRoundError, FormatError, OutputError, RecipeError, UsageError
from autoround.inference.load import load
from autoround.mixed_precision import search as stage
from autoround.mixed_precision.search import ChosenAllocation
from autoround.planning.estimate import disk_bytes
from autoround.recipe.load import load_recipe
from autoround.types import Plan

from ...runs import even_device, logits, make_session, quantized, small, tensors_of
from ...tiny import make_byte_tokenizer, make_model, token_ids, write_checkpoint
from ..resume.test_policy import BASE, Stop, content, quantize, stop_after

__all__ = ["even_device"]

IDS = token_ids(24, 16)
#: Options that the tiny models can take, and rounding by search alone.
BUDGET: dict[str, object] = {
    "tuning.iters": 0,
    "scheme.sym": False,
    "calibration.nsamples": 24,
    "allocate.options": ["W2", "W4", "W8"],
    "allocate.avg_bits": 5.0,
    "allocate.fused": False,
}


def found_for(model: Any, values: dict[str, object] | None = None, **more: Any) -> ChosenAllocation:
    return allocate(model, small({**BUDGET, **(values or {})}), data=IDS, **more)[1]


def divergence(model: Any, layers: dict[str, torch.Tensor], ids: torch.Tensor) -> float:
    """Return the mean KL of a model with other weights from the model itself."""
    with torch.no_grad():
        own = functional_call(model, layers, (), {"input_ids": ids, "use_cache": False}).logits
    p, q = logits(model, ids).log_softmax(-1), own.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_are_near_the_divergence_of_each_layer_rounded_alone(kind: str) -> None:
    model = make_model(kind)
    many: dict[str, object] = {"tuning.iters": 0, "scheme.sym": False, "calibration.nsamples": 128}
    ids = token_ids(128, 16)
    asked = {**BUDGET, **many, "allocate.nsamples": 128, "allocate.options": ["W3", "W4"]}
    scores = allocate(model, small({**asked, "allocate.avg_bits": 6}), data=ids)[2]
    job = make_session(model, {**many, "scheme.bits": 3}, data=ids)
    turned = {x.name for b in job.plan.blocks for x in b.layers if x.transposed}
    pairs = []
    for name, layer in quantized(job).items():
        weight = dense_weight(layer)
        own = {f"{name}.weight": weight.t() if name in turned else weight}
        pairs.append((scores.losses[name][str(layer.scheme)], divergence(model, own, ids)))
    ratios = [score / real for score, real in pairs]
    assert min(ratios) > 0.6
    assert max(ratios) < 1.6
    total = sum(score for score, _ in pairs) / sum(real for _, real in pairs)
    assert 0.8 < total < 1.25


def test_experts_are_judged_together_and_get_one_scheme() -> None:
    model = make_model("qwen2_moe")
    found = found_for(model, {"allocate.avg_bits": 4.5})
    experts = [unit for unit in found.groups if unit.name.endswith("experts")]
    assert len(experts) == 2
    assert all(len(unit.layers) == 2 for unit in experts)
    scores = allocate(model, small(BUDGET), data=IDS)[2]
    for unit in experts:
        own = list(scores.losses[unit.name].values())
        assert own == sorted(own, reverse=True)
        assert own[0] > 0


def test_what_does_not_fit_the_memory_goes_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    inside = allocate(model, small(BUDGET), data=IDS)[2]
    monkeypatch.setattr("autoround.mixed_precision.fisher_pass.IN_MEMORY", 0)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    outside = allocate(model, small(BUDGET), data=IDS)[2]
    assert inside.losses == outside.losses
    assert list(tmp_path.iterdir()) == []


def test_padding_is_left_out() -> None:
    model = make_model("llama")
    short = [row[:9].tolist() for row in IDS]
    long = [*short[:-1], IDS[-1].tolist()]
    values = {**BUDGET, "calibration.nsamples": 24}
    padded = allocate(model, small(values), data=long)[2]
    assert padded.tokens == 23 * 9 + 16
    again = allocate(model, small(values), data=[row + [5] * 0 for row in long])[2]
    assert padded.losses == again.losses
    assert all(loss > 0 for own in padded.losses.values() for loss in own.values())


def test_measured_losses_are_those_left_by_a_short_tuning() -> None:
    model = make_model("llama")
    plain = allocate(model, small(BUDGET), data=IDS)[2]
    values = {**BUDGET, "allocate.method": "measured", "allocate.iters": 12}
    tuned = allocate(model, small(values), data=IDS)[2]
    shares = {}
    for name, own in plain.losses.items():
        for scheme, loss in own.items():
            shares.setdefault((name.split(".")[2], scheme), []).append(
                tuned.losses[name][scheme] / loss
            )
    for found in shares.values():
        assert max(found) - min(found) < 1e-6  # one share a block and option
        assert 0 < found[0] <= 1
    assert min(found[0] for found in shares.values()) < 0.9


def same_work(one: Plan, other: Plan) -> bool:
    return replace(one, recipe={}) == replace(other, recipe={}) and one.recipe == other.recipe


def test_the_export_is_the_same_plan_and_gives_the_same_bytes(tmp_path: Path) -> None:
    source = write_checkpoint("llama", tmp_path / "source")
    values = {**BASE, **BUDGET, "tuning.iters": 2}
    by_hand, found, _ = allocate(source, small(values), data=IDS)
    place = tmp_path / "mixed.yaml"
    place.write_text(by_hand.to_yaml(), encoding="utf-8")
    assert load_recipe(place) == by_hand
    assert len(set(found.counts)) > 1
    assert found.bits <= 5.0
    one = quantize(source, tmp_path / "one", values, data=IDS)
    # An export says of itself what it is.
    same = {**by_hand.to_dict(), "description": small(values).description}
    two = quantize(source, tmp_path / "two", same, data=IDS)
    assert same_work(one.plan, two.plan)
    first, second = content(tmp_path / "one"), content(tmp_path / "two")
    told = json.loads(first.pop("allocation.json"))
    assert first == second
    assert told["predicted_kl"] == found.loss
    assert told["layers"] == found.counts
    planned = {x.name: x.scheme for b in one.plan.blocks for x in b.layers}
    for unit, scheme in found.schemes:
        assert all(planned[layer.name] == scheme for layer in unit.layers)
    loaded = load(tmp_path / "one")
    assert torch.isfinite(logits(loaded, IDS[:2])).all()


def test_an_average_is_counted_in_the_bytes_of_the_files(tmp_path: Path) -> None:
    source = write_checkpoint("llama", tmp_path / "source")
    done = quantize(source, tmp_path / "out", BUDGET, data=IDS)
    found = found_for(source)
    names = {layer.name for unit in found.groups for layer in unit.layers}
    tensors = tensors_of(tmp_path / "out")
    held = [t.nbytes for n, t in tensors.items() if n.rpartition(".")[0] in names]
    assert sum(held) == found.size
    assert 8 * sum(held) / found.weights <= 5.0
    assert found.size + found.fixed == sum(t.nbytes for t in tensors.values())
    assert done.disk_bytes >= found.size + found.fixed


def test_a_size_is_met_and_used() -> None:
    model = make_model("llama")
    low = found_for(model, {"allocate.avg_bits": 3.7})
    target = low.size + low.fixed + 5000
    wish = {"allocate.avg_bits": "none", "allocate.target_size": target}
    by_hand, found, _ = allocate(model, small({**BUDGET, **wish}), data=IDS)
    assert target - 5000 <= found.size + found.fixed <= target
    job = make_session(model, by_hand.to_dict(), data=IDS)
    assert disk_bytes(job.plan, job.skeleton) == found.size + found.fixed


def test_a_divergence_is_met_with_the_least_size() -> None:
    model = make_model("llama")
    one = found_for(model, {"allocate.avg_bits": 5.0})
    wish = {"allocate.avg_bits": "none", "allocate.max_kl": one.loss}
    other = found_for(model, wish)
    assert other.loss <= one.loss * (1 + 1e-9)
    assert other.size <= one.size


def test_more_room_never_costs_more() -> None:
    model = make_model("llama")
    losses = [found_for(model, {"allocate.avg_bits": b}).loss for b in (3.7, 4.5, 6.0, 9.0)]
    assert losses == sorted(losses, reverse=True)


def test_merged_layers_get_one_scheme_where_engines_merge_them() -> None:
    model = make_model("llama")
    found = found_for(model, {"allocate.fused": "auto", "allocate.avg_bits": 4.2})
    sizes = sorted(len(unit.layers) for unit in found.groups)
    assert sizes == [1, 1, 1, 1, 2, 2, 3, 3]
    apart = found_for(model, {"allocate.fused": False, "allocate.avg_bits": 4.2})
    assert {len(unit.layers) for unit in apart.groups} == {1}
    assert apart.loss <= found.loss


def test_a_layer_may_stay_in_16_bits() -> None:
    model = make_model("llama")
    values = {"allocate.options": ["W2", 16], "allocate.avg_bits": 9.0}
    by_hand, found, _ = allocate(model, small({**BUDGET, **values}), data=IDS)
    assert found.counts["16 bit"] > 0
    job = make_session(model, by_hand.to_dict(), data=IDS)
    kept = [x for b in job.plan.blocks for x in b.layers if x.scheme is None]
    assert len(kept) == found.counts["16 bit"]


def test_layers_that_rules_decide_about_are_left_alone() -> None:
    model = make_model("llama")
    rules = [{"kind": "mlp", "bits": 8}]
    values = {"layers": rules, "allocate.avg_bits": 4.0, "ignore": ["layers.0.self_attn.o_proj"]}
    by_hand, found, scores = allocate(model, small({**BUDGET, **values}), data=IDS)
    assert all("self_attn" in unit.name for unit in found.groups)
    assert len(found.groups) == 7
    assert scores.losses.keys() == {unit.name for unit in found.groups}
    job = make_session(model, by_hand.to_dict(), data=IDS)
    planned = {x.name: x.scheme for b in job.plan.blocks for x in b.quantized}
    assert {str(s) for n, s in planned.items() if "mlp" in n} == {"W8 g32 asym"}
    assert len(planned) == 13
    assert disk_bytes(job.plan, job.skeleton) == found.size + found.fixed
    assert found.bits <= 4.0


def test_the_head_takes_part_with_a_floor() -> None:
    model = make_model("llama")
    values = {"allocate.lm_head": 4, "allocate.avg_bits": 4.0}
    by_hand, found, scores = allocate(model, small({**BUDGET, **values}), data=IDS)
    head = next(unit for unit in found.groups if unit.name == "lm_head")
    assert {option.bits for option in head.options if option} == {4, 8}
    four, eight = (scores.losses["lm_head"][str(option)] for option in head.options)
    assert four > eight > 0
    job = make_session(model, by_hand.to_dict(), data=IDS)
    planned = next(x for x in job.plan.kept if x.name == "lm_head")
    assert planned.scheme in head.options
    assert disk_bytes(job.plan, job.skeleton) == found.size + found.fixed
    own = {"tuning.iters": 0, "scheme.sym": False, "calibration.nsamples": 24}
    layers = quantized(make_session(model, {**own, "lm_head.bits": 4}, data=IDS))
    real = divergence(model, {"lm_head.weight": dense_weight(layers["lm_head"])}, IDS)
    assert scores.losses["lm_head"][str(layers["lm_head"].scheme)] == pytest.approx(real, rel=0.05)


def test_types_of_gguf_are_options(tmp_path: Path) -> None:
    source = write_checkpoint("llama", tmp_path / "source")
    values: dict[str, object] = {
        "output.format": "gguf:q4_0",
        "output.dtype": "auto",
        "allocate.options": ["q4_0", "q5_1", "q8_0"],
        "allocate.avg_bits": 6.5,
    }
    recipe = small({**BUDGET, **values})
    by_hand, found, _ = allocate(source, recipe, data=IDS, tokenizer=make_byte_tokenizer())
    assert len(found.counts) > 1
    assert found.bits <= 6.5
    done = quantize(source, tmp_path / "out", by_hand.to_dict(), data=IDS)
    planned = {x.name: x.scheme for b in done.plan.blocks for x in b.layers}
    for unit, scheme in found.schemes:
        assert all(planned[layer.name] == scheme for layer in unit.layers)


def test_scores_are_kept_and_serve_other_budgets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama")
    place = tmp_path / "deep" / "scores.json"
    first = found_for(model, {"allocate.scores": str(place)})
    assert json.loads(place.read_text())["losses"]
    monkeypatch.setattr(stage, "layer_losses", None)
    again = found_for(model, {"allocate.scores": str(place)})
    assert again == first
    less = found_for(model, {"allocate.scores": str(place), "allocate.avg_bits": 4.0})
    assert less.loss > first.loss
    shown, estimate = plan(
        model, small({**BUDGET, "allocate.scores": str(place), "allocate.avg_bits": 4.0}), data=IDS
    )
    assert {str(x.scheme) for b in shown.blocks for x in b.quantized} == set(less.counts)
    assert estimate.disk_bytes == less.size + less.fixed
    with pytest.raises(RecipeError, match=r"hold nothing of .* in W3 g32 asym; they were taken"):
        found_for(model, {"allocate.scores": str(place), "allocate.options": ["W2", "W3"]})
    with pytest.raises(RecipeError, match="scores of something else:\n.*calibration tokens"):
        allocate(
            model, small({**BUDGET, "allocate.scores": str(place)}), data=token_ids(24, 16, seed=5)
        )
    other = make_model("llama", seed=3)
    with pytest.raises(RecipeError, match="scores of something else"):
        found_for(other, {"allocate.scores": str(place)})


@pytest.mark.parametrize(
    "text", ["", "[]", '{"identity": {}}', '{"losses": {"a": {"b": "x"}}}', "[" * 5000]
)
def test_files_that_are_no_scores(tmp_path: Path, text: str) -> None:
    place = tmp_path / "scores.json"
    place.write_text(text)
    with pytest.raises(RecipeError, match="no file of scores|something else"):
        found_for(make_model("llama"), {"allocate.scores": str(place)})


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"allocate.max_kl": 0.1}, RecipeError, "avg_bits and max_kl are both given"),
        ({"allocate.avg_bits": 2.0}, RecipeError, r"2 is less than the 2\.\d+ bits that"),
        (
            {"allocate.avg_bits": "none", "allocate.target_size": 1000},
            RecipeError,
            "target_size: 0.0 MB is less than the",
        ),
        (
            {"allocate.avg_bits": "none", "allocate.max_kl": 1e-12},
            RecipeError,
            "cost at best; add an option of more bits, or 16",
        ),
        (
            {"layers": [{"kind": "mlp", "bits": 8}, {"kind": "attention", "bits": 8}]},
            RecipeError,
            "every layer; none is left",
        ),
        ({"allocate.options": ["W2", "q4_0"]}, RecipeError, "q4_0 is no option for auto_round"),
        ({"allocate.options": ["W2", "W2g32"]}, RecipeError, "W2g32 is there twice"),
        ({"output.format": "auto_awq"}, FormatError, "auto_awq"),
        (
            {"output.format": "auto_gptq", "allocate.options": ["W4", "W5"]},
            FormatError,
            "has no W5: it holds 2, 3, 4 or 8 bits",
        ),
        ({"allocate.lm_head": 16}, RecipeError, "no option has 16 bits or more"),
        ({"output.format": "auto_round,gguf:q4_0"}, AutoRoundError, "one of them at a time"),
    ],
)
def test_what_cannot_be(values: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        found_for(make_model("llama"), values)


def test_a_recipe_without_budget_allocates_nothing() -> None:
    with pytest.raises(UsageError, match="set allocate.avg_bits"):
        found_for(make_model("llama"), {"allocate.avg_bits": "none"})


def test_a_plan_does_not_score() -> None:
    with pytest.raises(UsageError, match="'autoround allocate' does that"):
        plan(make_model("llama"), small(BUDGET), data=IDS)


def test_parts_that_no_token_comes_to_get_the_most_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama")
    whole = stage.layer_losses

    def with_gap(*args: Any, **named: Any) -> Any:
        found = whole(*args, **named)
        name = "model.layers.1.mlp.down_proj"
        return {**found, name: dict.fromkeys(found[name], math.nan)}

    monkeypatch.setattr(stage, "layer_losses", with_gap)
    found = found_for(model, {"allocate.avg_bits": 4.5})
    assert found.unreached == ("model.layers.1.mlp.down_proj",)
    given = {unit.name: scheme for unit, scheme in found.schemes}
    scheme = given["model.layers.1.mlp.down_proj"]
    assert scheme is not None
    assert scheme.bits == 8


def test_a_run_goes_on_with_the_bits_it_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_checkpoint("llama", tmp_path / "source")
    values = {**BUDGET, "tuning.iters": 1}
    quantize(source, tmp_path / "whole", values, data=IDS)
    output = tmp_path / "out" / "model"
    output.parent.mkdir()
    with pytest.raises(Stop):
        quantize(source, output, values, data=IDS, sink=stop_after(1, output))
    monkeypatch.setattr(stage, "layer_losses", None)
    with pytest.raises(OutputError, match=r"another bit budget:\n  allocate.avg_bits: 5.0 then"):
        quantize(source, output, {**values, "allocate.avg_bits": 4.0}, data=IDS, resume=True)
    quantize(source, output, values, data=IDS, resume=True)
    assert content(output) == content(tmp_path / "whole")


def test_what_is_exported_is_described_by_its_budget() -> None:
    recipe, found, _ = allocate(
        make_model("llama"), small({**BUDGET, "description": "x"}), data=IDS
    )
    key, value = found.budget
    assert f"{key} {value:g}: {found.bits:.3f} bits a weight" in recipe.description
    assert recipe.description.startswith("Bits of LlamaForCausalLM by its layers' scores")
