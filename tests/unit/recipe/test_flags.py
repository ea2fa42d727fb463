from __future__ import annotations

import subprocess
import sys

import pytest

from autoround.errors import UsageError
from autoround.recipe.flags import (
    BUDGET_FLAGS,
    FLAGS,
    RUN_ALIASES,
    Flag,
    as_argument,
    choose_spelling,
    flags_named,
    option_spellings,
)
from autoround.recipe.schema import Recipe, field_paths, keys_of
from autoround.recipe.section import Section

ALL = (*FLAGS, *BUDGET_FLAGS)


def test_every_flag_sets_a_key_of_its_own() -> None:
    # The name of a scheme stands for all keys of that section.
    assert {flag.key for flag in ALL} - {"scheme"} <= set(field_paths())
    assert len({flag.key for flag in ALL}) == len({flag.name for flag in ALL}) == len(ALL)


def test_every_option_is_one_flags_alone() -> None:
    options = [word for flag in ALL for option in flag.options for word in option.split("/")]
    options += [w for flag in ALL for alias in flag.aliases for w in option_spellings(alias)]
    options += [w for names in RUN_ALIASES.values() for n in names for w in option_spellings(n)]
    assert len(options) == len(set(options))
    assert all(word.startswith("--") for word in options)


@pytest.mark.parametrize("flag", ALL[1:], ids=lambda flag: flag.name)
def test_the_default_of_the_key_is_of_the_flags_type_or_a_word(flag: Flag) -> None:
    section: type[Section] = Recipe
    *above, name = flag.key.split(".")
    for key in above:
        kind = keys_of(section)[key]
        assert isinstance(kind, type)
        section = kind
    default = section.model_fields[name].default
    assert isinstance(default, (flag.kind, str, tuple)) or flag.name == "quant_lm_head"
    assert flag.help.endswith(".")


def test_spellings() -> None:
    (group,) = flags_named("group_size")
    assert group.options == ("--group-size", "--group_size")
    (bits,) = flags_named("bits")
    assert bits.options == ("--bits",)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("bits", 9, "--bits 9"),
        ("minmax_lr", 0.5, "--minmax-lr 0.5"),
        ("sym", True, "--sym"),
        ("sym", False, "--asym"),
        ("low_memory", True, "--low-memory"),
        ("low_memory", False, "--no-low-memory"),
    ],
)
def test_a_value_the_way_it_was_typed(name: str, value: object, words: str) -> None:
    assert flags_named(name)[0].as_typed(value) == words


def test_values_are_read() -> None:
    rows = {flag.name: flag for flag in BUDGET_FLAGS}
    assert rows["options"].read("W3, W4g64 ,16") == ["W3", "W4g64", "16"]
    assert rows["avg_bits"].read(2.5) == 2.5


def test_no_flag_has_another_name() -> None:
    with pytest.raises(KeyError):
        flags_named("bitz")


def test_the_table_imports_nothing_heavy() -> None:
    code = (
        "import sys, autoround.recipe.flags;"
        "assert not {'torch', 'pydantic', 'yaml', 'typer'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_argument_in_a_message_is_short() -> None:
    assert as_argument("bits", 9) == "bits=9"
    long = as_argument("layer_config", {"x" * 50: 1, "y" * 50: 2})
    assert len(long) == 80
    assert long.endswith("...")


def test_two_names_of_one_option() -> None:
    def choose(**given: object) -> object:
        return choose_spelling(given, "a", ("b", "c"), typed=lambda name: f"--{name}")

    assert choose() is None
    assert choose(b=3) == choose(a=3, c=3) == 3
    assert choose(b=False) is False
    with pytest.raises(UsageError, match="--a and --c are one option.*: 3 and 4"):
        choose(a=3, c=4)
