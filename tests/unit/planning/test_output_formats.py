"""Formats of a recipe: unknown names, and the packing and folder of each."""

# Tests: autoround/planning/format_names.py
from __future__ import annotations

from pathlib import Path

import pytest

from autoround.errors import FormatError, RecipeError
from autoround.planning.format_names import check_formats
from autoround.planning.output_formats import plan_outputs
from autoround.recipe.load import load_recipe


def test_an_unknown_format_is_named_where_the_recipe_says_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("extends: light\noutput:\n  format: auto_gtpq\n")
    words = r"mine\.yaml:3: output\.format: 'auto_gtpq' is no format; did you mean 'auto_gptq'"
    with pytest.raises(RecipeError, match=words):
        check_formats(load_recipe(file))
    with pytest.raises(RecipeError, match=r"--set .*: output\.format: 'nothing'"):
        check_formats(load_recipe("light", overrides=["output.format=nothing"]))


def test_several_formats_get_a_folder_each() -> None:
    recipe = load_recipe("light", overrides=["output.format=auto_gptq,gguf:q4_k_m"])
    gptq, gguf = plan_outputs(recipe, "bfloat16", schemes={}, weights=[])
    assert (gptq.packing, gptq.dtype, gptq.folder) == ("gptq", "float16", "auto_gptq")
    assert (gguf.packing, gguf.dtype, gguf.folder) == ("gguf:q4_k_m", "float32", "gguf-q4_k_m")


def test_a_format_that_lacks_the_bits_is_refused() -> None:
    recipe = load_recipe("light", overrides=["output.format=auto_awq", "scheme.bits=3"])
    with pytest.raises(FormatError, match="auto_awq cannot hold"):
        plan_outputs(recipe, "bfloat16", schemes={}, weights=[])
