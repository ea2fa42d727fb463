"""Every format: what it can hold, and the configs its clients read."""

# Tests: autoround/formats/names.py
from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import pytest

from autoround._version import __version__
from autoround.errors import FormatError
from autoround.formats import registry
from autoround.formats.dequantized.format import DequantizedFormat
from autoround.formats.format import BaseLayout
from autoround.formats.names import BUILT_IN_NAMES
from autoround.formats.registry import BUILT_IN, find_format, format_of, notes, plan_output
from autoround.types import BlockPlan, LayerPlan, OutputPlan, Plan, Scheme

from ...tiny_quantized import make_plan

W4, W3, W8 = Scheme(4, 32, True), Scheme(3, 32, True), Scheme(8, 64, True)
ASYM = Scheme(4, 32, False)


def block(index: int, *schemes: Scheme | None) -> BlockPlan:
    names = ("attn.q", "attn.k", "mlp.up")
    layers = tuple(
        LayerPlan(f"model.layers.{index}.{name}", (64, 64), scheme, "" if scheme else "kept")
        for name, scheme in zip(names, schemes, strict=True)
    )
    return BlockPlan(index, f"model.layers.{index}", layers)


def plan_of(*blocks: BlockPlan) -> Plan:
    head = LayerPlan("lm_head", (64, 64), None, "outside the decoder blocks")
    return replace(make_plan(blocks), kept=(head,))


def config(plan: Plan, output: OutputPlan) -> dict[str, Any]:
    return format_of(output).config(plan, output)


def output(name: str, scheme: Scheme = W4) -> OutputPlan:
    return plan_output(name, {scheme: ""}, dtype="bfloat16", chosen=False, folder="")


@pytest.mark.parametrize(
    ("name", "scheme", "packing", "dtype"),
    [
        ("auto_round", W4, "auto_round:auto_gptq", "bfloat16"),
        ("auto_round", ASYM, "auto_round", "bfloat16"),
        ("auto_round:auto_awq", ASYM, "auto_round:auto_awq", "bfloat16"),
        ("auto_gptq", W3, "gptq", "float16"),
        ("gptq_v2", ASYM, "gptq_v2", "float16"),
        ("auto_awq", W4, "awq", "float16"),
    ],
)
def test_a_format_has_a_packing_and_a_dtype(
    name: str, scheme: Scheme, packing: str, dtype: str
) -> None:
    assert output(name, scheme) == OutputPlan(name, packing, dtype)
    asked = plan_output(name, {scheme: ""}, dtype="float32", chosen=True, folder="here")
    assert asked == OutputPlan(name, packing, "float32", "here")


@pytest.mark.parametrize(
    ("name", "scheme", "words"),
    [
        ("auto_awq", W3, "it holds 4 bits only, not 3; formats that can: auto_round, "),
        ("auto_round:auto_awq", W8, "it holds 4 bits only, not 8"),
        ("auto_gptq", Scheme(5, 32, True), "it holds 2, 3, 4 or 8 bits, not 5"),
        ("marlin", W4, f"'marlin' is no format; legal: {', '.join(one.name for one in BUILT_IN)}"),
    ],
)
def test_what_a_format_cannot_hold_is_refused(name: str, scheme: Scheme, words: str) -> None:
    with pytest.raises(FormatError, match=re.escape(words)):
        output(name, scheme)


def test_gptq_of_a_uniform_model_needs_no_rules() -> None:
    found = config(plan_of(block(0, W4, W4, W4), block(1, W4, W4, W4)), output("auto_gptq"))
    assert found["quant_method"] == "gptq"
    assert found["checkpoint_format"] == "gptq"
    assert (found["bits"], found["group_size"], found["sym"]) == (4, 32, True)
    assert found["desc_act"] is False
    assert found["block_name_to_quantize"] == "model.layers"
    assert "dynamic" not in found
    assert "modules_in_block_to_quantize" not in found


def test_gptq_names_layers_that_differ_by_rules_that_match_nothing_else() -> None:
    plan = plan_of(block(0, W4, W8, None), block(1, W4, W4, None))
    found = config(plan, output("gptq_v2"))
    assert found["checkpoint_format"] == "gptq_v2"
    assert found["dynamic"] == {
        r"+:^model\.layers\.0\.attn\.k$": {"bits": 8, "group_size": 64, "sym": True},
        r"-:^model\.layers\.0\.mlp\.up$": {},
        r"-:^model\.layers\.1\.mlp\.up$": {},
    }
    assert found["modules_in_block_to_quantize"] == [["attn.q", "attn.k"]]
    names = [layer.name for b in plan.blocks for layer in b.layers]
    for rule in found["dynamic"]:
        assert sum(re.match(rule[2:], name) is not None for name in names) == 1


def test_blocks_that_differ_cannot_be_told_by_one_list() -> None:
    plan = plan_of(block(0, W4, None, W4), block(1, W4, W4, W4))
    assert "modules_in_block_to_quantize" not in config(plan, output("auto_gptq"))


@pytest.mark.parametrize("scheme", [W4, ASYM])
def test_awq_lists_what_is_kept(scheme: Scheme) -> None:
    found = config(plan_of(block(0, scheme, scheme, None)), output("auto_awq", scheme))
    assert found == {
        "quant_method": "awq",
        "version": "gemm",
        "bits": 4,
        "group_size": 32,
        "zero_point": True,
        "modules_to_not_convert": ["model.layers.0.mlp.up", "lm_head"],
        # GPTQModel reads no other key, and takes what lies outside the blocks for plain.
        "dynamic": {r"-:^model\.layers\.0\.mlp\.up$": {}},
        "meta": {"quantizer": [f"autoround-toolkit:{__version__}"], "sym": scheme.sym},
    }
    plain = config(plan_of(block(0, scheme, scheme, scheme)), output("auto_awq", scheme))
    assert "dynamic" not in plain


def test_gptq_has_its_config_in_a_file_of_its_own_too() -> None:
    found = {"bits": 4}
    assert format_of(output("auto_gptq")).side_files(found) == {"quantize_config.json": found}
    assert format_of(output("auto_awq")).side_files(found) == {}


def test_the_plan_says_what_version_1_does_to_zero_points() -> None:
    layers = block(0, ASYM, ASYM, None).layers
    (note,) = notes(layers, [output("auto_gptq", ASYM)])
    assert note.startswith("auto_gptq: it holds no zero point of 0")
    assert notes(layers, [output("gptq_v2", ASYM), output("auto_awq", ASYM)]) == []
    assert notes(block(0, W4, W4, None).layers, [output("auto_gptq")]) == []


class Mine(DequantizedFormat):
    name = "mine"


class Taken(DequantizedFormat):
    name = "auto_gptq"


FORMATS = (Mine(),)
TAKEN = Taken()
NONE = object()


class OtherGptq(BaseLayout):
    """A layout of theirs that takes the name of one of ours."""

    name = "gptq"
    to_tensors = from_tensors = lambda self, *rest: {}


class Clash(Taken):
    """A format whose layout clashes with ours."""

    name = "clash"
    layouts = (OtherGptq(),)


CLASH = Clash()


@pytest.fixture
def brought(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Let another package bring what a name of this module is."""

    def bring(name: str) -> None:
        entry = EntryPoint("theirs", f"{__name__}:{name}", registry.GROUP)
        monkeypatch.setattr(registry, "entry_points", lambda group: [entry])
        monkeypatch.setattr(EntryPoint, "load", lambda self: globals()[name])
        registry.registry.cache_clear()

    yield bring
    monkeypatch.undo()
    registry.registry.cache_clear()


def test_a_package_that_brings_a_taken_layout_or_name_or_no_format_is_named(
    brought: Callable[[str], None],
) -> None:
    for name, reason in (
        ("CLASH", "ValueError: a layout named 'gptq' is there already"),
        ("TAKEN", "ValueError: a format named 'auto_gptq' is there already"),
        ("NONE", "TypeError: it has no .*name"),
    ):
        brought(name)
        with pytest.raises(FormatError, match=f"'theirs' could not be loaded \\({reason}"):
            output("mine")
        assert output("auto_gptq").packing == "gptq"


class Alias(Taken):
    """A second name for files of a layout that is ours."""

    name = "alias"
    layouts = registry.BUILT_IN[0].layouts


class Bare:
    """A layout that can neither pack nor unpack."""

    name = "bare"


class WithBare(Alias):
    """A format whose layout is no layout."""

    name = "with_bare"
    layouts = (Bare(),)


ALIAS = Alias()
ALIAS_THEN_BARE = (ALIAS, WithBare())


def test_formats_may_share_a_layout(brought: Callable[[str], None]) -> None:
    brought("ALIAS")
    assert registry.find_format("alias").layouts == registry.BUILT_IN[0].layouts


def test_a_package_with_a_broken_format_brings_none(brought: Callable[[str], None]) -> None:
    brought("ALIAS_THEN_BARE")
    formats, broken = registry.registry()
    assert "alias" not in formats
    assert "to_tensors" in broken["theirs"]


@pytest.mark.parametrize(("name", "meant"), [("gptq", "auto_gptq"), ("awq", "auto_awq")])
def test_the_name_of_a_method_means_its_first_format(name: str, meant: str) -> None:
    with pytest.raises(FormatError, match=f"did you mean '{meant}'"):
        find_format(name)


def test_the_list_of_names_is_that_of_the_formats() -> None:
    assert tuple(one.name for one in BUILT_IN) == BUILT_IN_NAMES
