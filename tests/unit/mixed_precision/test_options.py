"""Options of a budget: their schemes, their sizes and their rules, by bits and by GGUF's types."""

from __future__ import annotations

import pytest

from autoround.errors import FormatError, RecipeError
from autoround.mixed_precision.options import options_for, schemes_of, why_unfit
from autoround.recipe.schema import Recipe
from autoround.types import LayerPlan, OutputPlan, Scheme

GPTQ = OutputPlan("auto_gptq", "gptq", "float16")
GGUF = OutputPlan("gguf:q4_k_m", "gguf:q4_k_m", "float32")
DENSE = OutputPlan("fake", "fake", "bfloat16")
BASE = Scheme(4, 32, True)
LAYER = LayerPlan("model.layers.0.mlp.down_proj", (64, 256), None)


def test_bits_name_a_scheme_with_what_the_recipe_says() -> None:
    options = options_for(GPTQ)
    assert options.scheme_of("W3", BASE) == Scheme(3, 32, True)
    assert options.scheme_of("16", BASE) is None


def test_a_type_names_its_scheme() -> None:
    assert options_for(GGUF).scheme_of("q4_0", BASE) == Scheme(4, 32, True)
    assert options_for(GGUF).scheme_of("16", BASE) is None


@pytest.mark.parametrize(("output", "text"), [(GPTQ, "q4_k"), (GGUF, "W4")])
def test_options_of_the_other_kind_are_refused(output: OutputPlan, text: str) -> None:
    with pytest.raises(RecipeError, match=f"{text} is no option for {output.format}"):
        options_for(output).scheme_of(text, BASE)


def test_bits_that_a_format_lacks_are_refused() -> None:
    with pytest.raises(FormatError, match="has no W5"):
        options_for(GPTQ).scheme_of("W5", BASE)


def test_an_option_is_there_once() -> None:
    recipe = Recipe.model_validate({"allocate": {"avg_bits": 4, "options": ["W4", "W4"]}})
    with pytest.raises(RecipeError, match="twice"):
        schemes_of(recipe, GPTQ)


def test_sizes_count_scales_and_zero_points() -> None:
    # 64 x 256 codes of 4 bits; 8 groups a row with a float16 scale and a 4-bit zero; g_idx int32.
    assert options_for(GPTQ).layer_bytes(LAYER, BASE) == 64 * (128 + 8 * 2 + 4) + 4 * 256
    # Blocks of 256 weights in 144 bytes.
    q4_k = options_for(GGUF).scheme_of("q4_k", BASE)
    assert options_for(GGUF).layer_bytes(LAYER, q4_k) == 64 * 144
    # A format that writes weights out: what the codes would take.
    assert options_for(DENSE).layer_bytes(LAYER, BASE) < 64 * 256


@pytest.mark.parametrize("output", [GPTQ, GGUF, DENSE])
def test_a_layer_in_16_bit_takes_two_bytes_a_weight(output: OutputPlan) -> None:
    assert options_for(output).layer_bytes(LAYER, None) == 2 * 64 * 256


def test_a_row_must_hold_whole_blocks() -> None:
    narrow = LayerPlan("x", (64, 96), None)
    kinds = options_for(GGUF)
    q4_k, q4_0 = kinds.scheme_of("q4_k", BASE), kinds.scheme_of("q4_0", BASE)
    assert "no multiple of a block" in why_unfit(narrow, q4_k, GGUF)
    assert why_unfit(narrow, q4_0, GGUF) == why_unfit(narrow, None, GGUF) == ""
    # A scheme that no type has: no block fits.
    assert why_unfit(LAYER, Scheme(3, 128, False), GGUF)


def test_rules_say_an_option_in_the_words_of_its_kind() -> None:
    rule = options_for(GPTQ).rule(Scheme(3, 32, False), ["a", "b"])
    assert (rule.bits, rule.group_size, rule.sym, rule.gguf_type) == (3, 32, False, "")
    q6_k = options_for(GGUF).scheme_of("q6_k", BASE)
    assert q6_k is not None
    typed = options_for(GGUF).rule(q6_k, ["a"])
    assert (typed.gguf_type, typed.patterns) == ("q6_k", ("a",))
