from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from autoround.recipe.find import builtin_names
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import (
    LEGAL_DTYPES,
    OutputOptions,
    Recipe,
    Section,
    field_paths,
    keys_of,
)
from autoround.recipe.values import SIZE_UNITS, Legal, parse_size
from autoround.types import Scheme

DOC = Path(__file__).parents[3] / "docs" / "recipes.md"

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
#: Texts that YAML, or one version of it, would take for something else.
traps = st.sampled_from(
    [
        "no",
        "5e-3",
        "0128",
        "1_000",
        "1:30",
        "null",
        "~",
        "*.gate",
        "&a",
        "!x",
        "# a",
        "a: b",
        "-",
        "?",
        ".inf",
        "2024-01-01",
        "true",
        "4",
        "<<",
        "=",
        " a ",
        "a\n",
        "%",
        "---",
        "\ufeff",
    ]
)
count = st.integers(1, 10**12)
rate = st.just("auto") | st.floats(0, exclude_min=True, allow_nan=False, allow_infinity=False)
layer = (text | traps).filter(lambda name: bool(name.strip()) and not name.startswith("re:"))
source = (text | traps).filter(bool)
size = st.builds(
    lambda number, unit: f"{number}{unit}",
    st.integers(1, 999) | st.sampled_from(["1.5", "2 "]),
    st.sampled_from(sorted(SIZE_UNITS)),
)
rule = st.fixed_dictionaries(
    {"match": layer | st.lists(layer, min_size=1, max_size=3), "bits": st.integers(2, 8)},
    optional={
        "kind": st.sampled_from(["any", "attention", "mlp", "experts"]),
        "blocks": st.integers(0, 99)
        | st.lists(st.sampled_from(["first 2", "last 1/8", "every 3", "3-5", "7"]), max_size=3),
        "group_size": st.integers(-1, 4096) | st.just("auto"),
        "sym": st.booleans() | st.just("auto"),
        "type": st.sampled_from(["auto", "q4_k", "f16"]),
    },
)
recipes: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {},
    optional={
        "description": text | traps,
        "scheme": st.fixed_dictionaries(
            {},
            optional={
                "bits": st.integers(2, 8),
                "group_size": st.integers(-1, 4096),
                "sym": st.booleans(),
            },
        ),
        "layers": st.lists(rule, max_size=2),
        "ignore": st.lists(layer | st.just(r"re:.*\.(q|k)_proj"), max_size=4),
        "tuning": st.fixed_dictionaries(
            {},
            optional={
                "iters": st.integers(0, 5000),
                "lr": rate,
                "minmax_lr": rate,
                "batch_size": count,
                "tune_minmax": st.booleans(),
                "init_scale": st.sampled_from(["minmax", "search"]),
                "init_rounding": st.sampled_from(["auto", "nearest", "gptq"]),
                "num_validations": count,
            },
        ),
        "calibration": st.fixed_dictionaries(
            {"dataset": source | st.lists(source, min_size=1, max_size=3), "nsamples": count}
        ),
        "evaluation": st.fixed_dictionaries({"seqlen": st.integers(2, 10**6)}),
        "output": st.fixed_dictionaries(
            {
                "format": st.sampled_from(["auto_round", "auto_gptq,gguf:q4_k_m", "another"]),
                "dtype": st.sampled_from(LEGAL_DTYPES),
                "max_shard_size": size | count,
            }
        ),
        "seed": st.integers(0, 2**32 - 1),
    },
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(values=recipes)
def test_a_resolved_recipe_loads_back_to_an_equal_one(
    values: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    recipe = Recipe.model_validate(values)
    path = tmp_path_factory.getbasetemp() / "round-trip.yaml"
    path.write_bytes(recipe.to_yaml().encode())
    assert load_recipe(path) == recipe
    assert Recipe.model_validate(recipe.to_dict()) == recipe
    assert hash(Recipe.model_validate(recipe.to_dict())) == hash(recipe)


@settings(max_examples=150, deadline=None)
@given(values=recipes)
def test_other_yaml_readers_see_the_same_texts(values: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(values)
    read = yaml.safe_load(recipe.to_yaml())
    assert read["description"] == recipe.description
    assert read["ignore"] == list(recipe.ignore)


def test_defaults_are_the_documented_ones() -> None:
    assert Recipe().to_dict() == {
        "description": "",
        "scheme": {"bits": 4, "group_size": 128, "sym": True},
        "lm_head": {"bits": 16, "group_size": "auto"},
        "quantize_vision": False,
        "allow_partial": False,
        "layers": [],
        "ignore": [],
        "tuning": {
            "iters": 200,
            "lr": "auto",
            "minmax_lr": "auto",
            "batch_size": 8,
            "gradient_accumulate_steps": 1,
            "low_memory": False,
            "tune_minmax": True,
            "init_scale": "search",
            "init_rounding": "auto",
            "quantized_inputs": True,
            "num_validations": 5,
            "validation_samples": 16,
            "compute_dtype": "auto",
            "threads": "auto",
            "deterministic": False,
            "compile": "auto",
        },
        "allocate": {
            "avg_bits": "none",
            "target_size": "none",
            "max_kl": "none",
            "options": ["W2", "W3", "W4", "W8"],
            "method": "fisher",
            "iters": 20,
            "nsamples": 32,
            "fused": "auto",
            "lm_head": "none",
            "scores": "none",
        },
        "end_to_end": {
            **{"steps": 0, "lr": "auto", "batch_size": 8, "tune_codes": False},
            **{"nsamples": 0, "dataset": "auto"},
        },
        "calibration": {
            "dataset": "NeelNanda/pile-10k",
            "images": "none",
            "nsamples": 128,
            "seqlen": 2048,
        },
        "evaluation": {
            "seqlen": 1024,
            "max_tokens": 16384,
            "text": "none",
            "gate": "none",
        },
        "output": {"format": "auto_round", "dtype": "auto", "max_shard_size": "5GB"},
        "seed": 42,
    }


def test_a_recipe_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Recipe().seed = 3
    with pytest.raises(ValidationError):
        Recipe().tuning.iters = 3


def test_scheme_as_shared_value() -> None:
    assert Recipe().scheme.as_scheme() == Scheme(bits=4, group_size=128, sym=True)


@pytest.mark.parametrize(
    ("size", "count"),
    [(7, 7), ("5GB", 5 * 10**9), ("1.5 KiB", 1536), ("2MiB", 2**21), ("1KB", 1000)],
)
def test_sizes(size: int | str, count: int) -> None:
    assert parse_size(size) == count
    assert OutputOptions(max_shard_size=size).max_shard_bytes == count


@pytest.mark.parametrize("size", [0, -1, "0GB", "5gb", "5", "GB", "-1GB", "5 TB", "1e3KB", "5GB\n"])
def test_sizes_refused(size: int | str) -> None:
    with pytest.raises(ValueError, match=r"byte|number"):
        parse_size(size)


@pytest.mark.parametrize("key", ["description", "ignore"])
def test_text_that_no_file_can_hold(key: str) -> None:
    with pytest.raises(ValidationError, match="half a character"):
        Recipe.model_validate({key: "\ud800" if key == "description" else ["\ud800"]})


def sections(section: type[Section]) -> list[type[Section]]:
    kinds = [k.entries if isinstance(k, Legal) else k for k in keys_of(section).values()]
    below = [kind for kind in kinds if kind is not None]
    return [section, *(deeper for kind in below for deeper in sections(kind))]


def test_every_key_has_a_description() -> None:
    for section in sections(Recipe):
        for name, field in section.model_fields.items():
            assert field.description, name


def test_every_key_is_in_the_reference() -> None:
    rows = {
        line.split("|")[1].strip().strip("`"): line
        for line in DOC.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    }
    for path, legal in field_paths().items():
        default: Any = Recipe().to_dict()
        section: type[Section] = Recipe
        *above, name = path.split(".")
        for key in above:
            kind = keys_of(section)[key.removesuffix("[]")]
            if isinstance(kind, Legal):  # a list of sections
                assert key.endswith("[]")
                assert kind.entries is not None
                section = kind.entries
                default = {n: field.default for n, field in section.model_fields.items()}
            else:
                section = kind
                default = default[key]
        assert path in rows, f"docs/recipes.md has no row for {path}"
        row = rows[path]
        assert f"| `{spell(default[name])}` |" in row
        assert f"| {legal.text} |" in row
        assert str(section.model_fields[name].description) in row


def spell(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return {"": "''", "()": "[]"}.get(str(value), str(value))


def test_the_reference_has_no_key_that_is_gone() -> None:
    paths = set(field_paths())
    for line in DOC.read_text(encoding="utf-8").partition("## Keys")[2].splitlines():
        if line.startswith("| `"):
            assert line.split("`")[1] in paths


def test_every_built_in_recipe_is_in_the_reference() -> None:
    text = DOC.read_text(encoding="utf-8")
    for name in builtin_names():
        assert f"| `{name}` |" in text
