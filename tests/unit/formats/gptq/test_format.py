"""GPTQ checkpoints of any program are read by their config and the names of their tensors."""

from __future__ import annotations

from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.formats.gptq.format import FORMATS
from autoround.types import LayerPlan, OutputPlan, Scheme

from .._plans import plan_of, read_back, schemes

V1, V2 = FORMATS
W4, W8 = Scheme(4, 32, False), Scheme(8, -1, False)
CONFIG: dict[str, Any] = {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}
SHAPES = {"a.q": (64, 64), "a.k": (64, 64), "head": (64, 64)}


def read(config: dict[str, Any], *, ordered: bool = True) -> dict[str, tuple[Scheme, str]]:
    parts = ("qweight", "qzeros", "scales", *(["g_idx"] if ordered else []))
    tensors = {f"{name}.{part}" for name in ("a.q", "a.k") for part in parts} | {"head.weight"}
    found = V1.packed_layers({**CONFIG, **config}, SHAPES, tensors)
    return {name: (held.scheme, held.packing) for name, held in found.items()}


@pytest.mark.parametrize("one", FORMATS, ids=lambda one: one.name)
def test_what_is_written_reads_back_as_planned(one: Any) -> None:
    plan = plan_of([W4, W8, None], [W4, W4, W4], head=W8)
    assert read_back(one, plan) == schemes(plan)


@pytest.mark.parametrize(
    ("version", "ordered", "layout"),
    [
        ("gptq", True, "gptq"),
        ("gptq", False, "auto_round:auto_gptq"),
        ("gptq_v2", True, "gptq_v2"),
        ("gptq_v2", False, "auto_round"),
    ],
)
def test_the_layout_is_told_by_version_and_tensors(
    version: str, ordered: bool, layout: str
) -> None:
    wanted = {name: (W4, layout) for name in ("a.q", "a.k")}
    assert read({"checkpoint_format": version}, ordered=ordered) == wanted
    assert read({"format": version}, ordered=ordered) == wanted


def test_the_first_rule_that_matches_sets_what_differs() -> None:
    rules = {"-:.*k$": {}, r"+:^a\.k": {"bits": 8}, "a": {"group_size": -1}, ".*": {"bits": 2}}
    found = read({"dynamic": rules})
    assert found["a.k"][0] == Scheme(8, 32, False)
    assert found["a.q"][0] == Scheme(4, -1, False)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"checkpoint_format": "marlin"}, "'marlin' cannot be read; legal: gptq, gptq_v2"),
        ({"dynamic": ["a"]}, "dynamic is not a table"),
        ({"dynamic": {"+:(": {"bits": 4}}}, "is not a regex"),
        ({"dynamic": {"a": 4}}, "dynamic rule 'a' is not a table of keys"),
        ({"bits": 9}, "bits of layer a.q is 9"),
    ],
)
def test_configs_that_cannot_be_read_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(FormatError, match=words):
        read(config)


def test_gptqmodel_finds_its_config_in_a_file_of_its_own() -> None:
    assert V1.side_files(CONFIG) == {"quantize_config.json": CONFIG}


def test_zero_points_that_version_1_lacks_are_noted() -> None:
    layers = [LayerPlan("a", (64, 64), Scheme(4, 32, sym)) for sym in (True, False)]
    first, second = (OutputPlan(x.name, x.layouts[0].name, "float16") for x in (V1, V2))
    (note,) = V1.notes(layers, first)
    assert note.startswith("auto_gptq: it holds no zero point of 0")
    assert V1.notes(layers[:1], first) == V1.notes([LayerPlan("a", (64, 64), None)], first) == []
    assert V2.notes(layers, second) == []


def test_scales_are_written_in_half_precision() -> None:
    assert V1.kept_dtype("bfloat16", chosen=False) == "float16"
    assert V1.kept_dtype("bfloat16", chosen=True) == "bfloat16"
