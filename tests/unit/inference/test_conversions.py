"""What transformers is told of a checkpoint's names, in its own terms."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers.core_model_loading import WeightConverter, WeightRenaming

from autoround.inference.conversions import (
    KnownNames,
    ReadByUs,
    SavedAsIs,
    loading_conversions,
    saving_conversions,
)

from ...zoo import make_model


def test_known_names_come_before_rules() -> None:
    rule = WeightRenaming("old", "new")
    names = KnownNames({"old.a": "b", "b": "c"}, stay={"old.stays"}, others=[rule])
    assert names.rename_source_key("old.a") == ("b", None)
    assert names.rename_source_key("old.other") == ("new.other", None)
    assert names.rename_source_key("old.stays") == ("old.stays", None)
    assert names.reverse_transform() is names
    assert names.was_used()


def test_what_is_made_of_several_tensors_is_read_once_all_are_there() -> None:
    asked: list[str] = []

    def read(name: str) -> Mapping[str, Tensor]:
        asked.append(name)
        return {name: torch.ones(2), "beside": torch.zeros(1)}

    rule = ReadByUs({"part.0": "whole", "part.1": "whole"}, read)
    assert rule.rename_source_key("part.1") == ("whole", "autoround")
    assert rule.rename_source_key("elsewhere") == ("elsewhere", None)
    one = copy.deepcopy(rule)
    for key in ("part.0", "part.1"):
        one.add_tensor("whole", key, "autoround", torch.full((9,), 7.0))
    assert asked == []
    made = one.convert("whole", model=None, config=None)
    assert asked == ["whole"]
    assert made.keys() == {"whole", "beside"}
    assert one.force_cpu


def test_tensors_are_saved_as_they_are() -> None:
    rule = SavedAsIs(frozenset({"a"}))
    assert rule.rename_source_key("a") == ("a", "autoround")
    assert rule.rename_source_key("b") == ("b", None)
    one, tensor = copy.deepcopy(rule), torch.ones(3)
    one.add_tensor("a", "a", "autoround", tensor)
    assert one.convert("a")["a"] is tensor


def test_rules_for_loading_are_two() -> None:
    theirs: list[Any] = [WeightRenaming("x", "y")]
    known, ours = loading_conversions(theirs, {"model": "file"}, {"part": "whole"}, dict)
    assert known.rename_source_key("file") == ("model", None)
    assert known.rename_source_key("part") == ("part", None)
    assert known.rename_source_key("x.z") == ("y.z", None)
    assert ours.rename_source_key("part")[0] == "whole"


def test_a_mixture_is_saved_under_the_names_of_its_files() -> None:
    model = make_model("mixtral")
    inside, file = "model.layers.0.mlp.gate.weight", "model.layers.0.block_sparse_moe.gate.weight"
    model._weight_conversions = saving_conversions(model, {inside: file})
    rules = [rule.reverse_transform() for rule in model._weight_conversions[::-1]]
    assert isinstance(rules[0], SavedAsIs)
    assert isinstance(rules[1], KnownNames)
    assert rules[1].rename_source_key(inside)[0] == file
    assert rules[1].rename_source_key(file)[0] == file
    # What is not known goes by transformers' rules, as experts that are stacked and not packed do.
    assert (
        rules[1].rename_source_key("model.layers.1.mlp.gate.weight")[0].endswith("moe.gate.weight")
    )
    assert all(isinstance(rule, WeightConverter) for rule in rules[2:])
    assert len(rules) > 2
