"""What lies outside the decoder blocks: kept, but for a head or towers asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from autoround.device.registry import open_device
from autoround.errors import FormatError, RecipeError
from autoround.model.skeleton import Skeleton, adopt_model, open_model
from autoround.planning.plan import make_plan
from autoround.types import LayerPlan, Plan, Scheme

from ...runs import small
from ...tiny import TinyModel, make_model, write_checkpoint
from ...zoo import make_model as make_family

W8 = Scheme(8, 32, True)


def plan_of(model: Any, values: dict[str, object] | None = None) -> Plan:
    skeleton = model if isinstance(model, Skeleton) else adopt_model(model)
    return make_plan(
        small(values), skeleton, runtime=open_device("cpu"), calibration="", model="tiny"
    )


def kept(plan: Plan) -> dict[str, LayerPlan]:
    return {layer.name: layer for layer in plan.kept}


def test_a_head_is_kept_unless_it_is_asked_for() -> None:
    head = kept(plan_of(make_model("llama")))["lm_head"]
    assert (head.scheme, head.reason) == (None, "outside the decoder blocks")
    asked = kept(plan_of(make_model("llama"), {"lm_head.bits": 8}))["lm_head"]
    assert (asked.scheme, asked.reason, asked.block) == (W8, "", "")


def test_a_tied_head_is_written_beside_the_embeddings_and_that_is_noted() -> None:
    plan = plan_of(make_model("gemma2"), {"lm_head.bits": 8})
    (note,) = [n for n in plan.notes if "shares its weight with the embeddings" in n]
    assert note.startswith("lm_head ")
    assert "tie_word_embeddings is set to false" in note
    apart = plan_of(make_model("llama"), {"lm_head.bits": 8})
    assert not any("shares its weight" in n for n in apart.notes)


def test_a_head_that_no_program_reads_is_refused() -> None:
    values: dict[str, object] = {"lm_head.bits": 4, "output.format": "auto_awq"}
    with pytest.raises(FormatError, match=r"^lm_head.bits=4 in format auto_awq: "):
        plan_of(make_model("llama"), values)


def test_a_head_that_the_recipe_ignores_as_well_is_an_error() -> None:
    with pytest.raises(RecipeError, match="lm_head.bits: the head stays in 16 bit: ignored by"):
        plan_of(make_model("llama"), {"lm_head.bits": 8, "ignore": ["lm_head"]})


def test_a_model_without_a_head_has_none_to_quantize() -> None:
    with pytest.raises(RecipeError, match="lm_head.bits: this model has no output head"):
        plan_of(TinyModel(), {"lm_head.bits": 8})


def test_towers_are_kept_unless_they_are_asked_for() -> None:
    model = make_family("llava")
    plain, asked = plan_of(model), plan_of(model, {"quantize_vision": True})
    tower = [name for name in kept(plain) if "vision_tower" in name]
    assert tower
    for name in tower:
        assert "quantize_vision: true includes it" in kept(plain)[name].reason
    rounded = [name for name in tower if kept(asked)[name].scheme is not None]
    assert rounded
    note = f"{len(rounded)} layers of vision or audio towers are rounded by searched scales"
    assert any(n.startswith(note) for n in asked.notes)
    assert not any("towers are rounded" in n for n in plain.notes)
    # Projectors between tower and decoder are in neither.
    between = [x for x in kept(asked).values() if "projector" in x.name]
    assert between
    assert all(x.scheme is None for x in between)


def test_matrices_that_the_class_drops_are_listed_as_copied(tmp_path: Path) -> None:
    folder = write_checkpoint("llama", tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"mtp.fc.weight": torch.ones(6, 4), "mtp.norm.weight": torch.ones(6)}
    tensors["mtp.fc.bias"] = torch.ones(6)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = [x for x in plan_of(open_model(folder)).kept if x.name.startswith("mtp")]
    assert found == [
        LayerPlan("mtp.fc", (6, 4), None, "unknown to the model class, copied as it is")
    ]
