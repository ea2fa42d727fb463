"""The table of serving engines, and its schema."""

from __future__ import annotations

import datetime
from typing import Any

import pytest
import yaml

from autoround.errors import UsageError
from autoround.formats.registry import BUILT_IN
from autoround.planning.serving.table import (
    FILE,
    Engine,
    check_engines,
    engine_table,
    matches_packing,
    read_table,
)

TABLE = engine_table()
ENGINES = pytest.mark.parametrize("engine", TABLE.values(), ids=TABLE)
PACKINGS = [layout.name for one in BUILT_IN for layout in one.layouts]


def test_the_engines_are_those_of_the_command_line() -> None:
    assert list(TABLE) == [
        *("vllm", "sglang", "llama.cpp", "mlx", "transformers"),
        *("gptqmodel", "auto-round", "compressed-tensors"),
    ]


@ENGINES
def test_every_engine_is_dated(engine: Engine) -> None:
    assert datetime.date(2026, 11, 1) <= engine.looked_at
    assert engine.version
    assert engine.seen


@ENGINES
def test_packings_are_those_that_formats_have(engine: Engine) -> None:
    patterns = [p for entry in (*engine.reads, *engine.rules) for p in entry.packings]
    for pattern in patterns:
        assert any(matches_packing(name, [pattern]) for name in PACKINGS), pattern


@ENGINES
def test_rules_have_names_of_their_own_and_are_about_what_is_read(engine: Engine) -> None:
    assert len({rule.id for rule in engine.rules}) == len(engine.rules)
    read = [name for name in PACKINGS if engine.serving(name) is not None]
    for rule in engine.rules:
        assert any(matches_packing(name, rule.packings) for name in read), rule.id


@ENGINES
def test_what_no_command_serves_is_refused_as_a_whole(engine: Engine) -> None:
    for served in engine.reads:
        for packing in served.packings:
            whole = [
                r for r in engine.rules if packing in r.packings and not r.when.model_fields_set
            ]
            refused = any(rule.effect == "refuses" and not rule.on for rule in whole)
            assert refused == (not served.command), packing


def test_every_built_in_format_is_read_by_some_engine() -> None:
    for name in PACKINGS:
        assert any(engine.serving(name) is not None for engine in TABLE.values()), name


def _changed(**changes: Any) -> str:
    values = yaml.safe_load(FILE.read_text(encoding="utf-8"))
    values["engines"]["vllm"]["rules"][0].update(changes)
    return yaml.safe_dump(values)


def test_the_schema_takes_the_table_and_nothing_else() -> None:
    assert read_table(_changed()) == TABLE
    wrong: list[dict[str, Any]] = [
        {"effect": "dislikes"},
        {"evidence": "hearsay"},
        {"when": {"bit": [4]}},
        {"when": {"bits": ["four"]}},
        {"packings": []},
        {"says": ""},
        {"another": 1},
    ]
    for changes in wrong:
        with pytest.raises(ValueError, match=next(iter(changes))):
            read_table(_changed(**changes))


def test_names_of_engines_may_be_several_in_one() -> None:
    assert check_engines(["vllm,sglang", "mlx", "vllm"]) == ("vllm", "sglang", "mlx")
    assert check_engines([]) == ()


def test_an_unknown_engine_is_named_with_the_legal_ones() -> None:
    with pytest.raises(UsageError) as caught:
        check_engines(["vllm, tgi"])
    assert str(caught.value) == (
        "--for tgi: nothing is known of it; legal: vllm, sglang, llama.cpp, mlx, transformers, "
        "gptqmodel, auto-round, compressed-tensors"
    )
