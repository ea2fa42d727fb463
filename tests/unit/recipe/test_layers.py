from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoround.errors import RecipeError
from autoround.recipe.layers import LayerRule
from autoround.recipe.load import load_recipe
from autoround.recipe.ranges import chosen, parse_blocks
from autoround.recipe.schema import Recipe, SchemeOptions
from autoround.types import Scheme


@pytest.mark.parametrize(
    ("forms", "count", "wanted"),
    [
        (["all"], 3, {0, 1, 2}),
        ([1], 3, {1}),
        (["1"], 3, {1}),
        ([5], 3, set()),
        (["1-2"], 5, {1, 2}),
        (["3-9"], 5, {3, 4}),
        (["first 2"], 5, {0, 1}),
        (["first 9"], 5, {0, 1, 2, 3, 4}),
        (["last 2"], 5, {3, 4}),
        (["last 9"], 2, {0, 1}),
        (["first 1/8"], 32, {0, 1, 2, 3}),
        (["last 1/8"], 30, {27, 28, 29}),
        (["first 1/8"], 3, {0}),
        (["every 3"], 8, {2, 5}),
        (["first 1", "last 1", 3], 6, {0, 3, 5}),
        ([], 6, set()),
    ],
)
def test_which_blocks_are_meant(forms: list[int | str], count: int, wanted: set[int]) -> None:
    assert chosen(forms, count) == wanted


@pytest.mark.parametrize(
    "form",
    [
        *("", "frist 2", "first", "first 0", "first 3/2", "first 1/0", "first 0/4", "every 0"),
        *("-1", "3-1", "1.5", "first  2", "last 2 ", "1-", "2,3", "every", "first -1", "9999999"),
    ],
)
def test_what_means_no_block_is_refused(form: str) -> None:
    with pytest.raises(ValueError, match="none of these|no block|ends before"):
        parse_blocks(form)


@given(st.text(max_size=12), st.integers(1, 40))
def test_any_text_is_refused_or_means_blocks_that_are_there(text: str, count: int) -> None:
    try:
        found = chosen([text], count)
    except ValueError:
        return
    assert found <= set(range(count))


def rule(**keys: Any) -> LayerRule:
    return LayerRule.model_validate(keys)


def test_what_a_rule_leaves_out_is_the_schemes() -> None:
    base = SchemeOptions(bits=3, group_size=64, sym=False)
    assert rule(kind="mlp", bits=8).as_scheme(base) == Scheme(8, 64, False)
    assert rule(kind="mlp", group_size=-1, sym=True).as_scheme(base) == Scheme(3, -1, True)
    assert rule(kind="mlp", bits=16).as_scheme(base) is None


def test_what_a_rule_says_to_which_formats() -> None:
    typed = rule(kind="mlp", type="q4_k")
    assert (typed.plain, typed.gguf_type) == (False, "q4_k")
    kept = rule(kind="mlp", bits=16)
    assert (kept.plain, kept.gguf_type) == (True, "f16")
    both = rule(kind="mlp", bits=3, type="q3_k")
    assert (both.plain, both.gguf_type) == (True, "q3_k")


def test_rules_that_say_the_same_are_equal_wherever_they_stand() -> None:
    one, other = rule(match="q_proj", bits=8), rule(match="q_proj", bits=8)
    one.place("here.yaml:3")
    assert one == other
    assert hash(one) == hash(other)
    assert one.origin == "here.yaml:3"
    assert one != rule(match="q_proj", bits=4)
    assert one != "q_proj"


def test_a_resolved_rule_says_no_more_than_was_written() -> None:
    written = [{"kind": "attention", "bits": 8}, {"match": ["a", "b"], "blocks": ["first 2"]}]
    written[1]["sym"] = False
    assert Recipe.model_validate({"layers": written}).to_dict()["layers"] == written


MISTAKES = """\
extends: default
layers:
  - kind: attentoin
    bits: 8
  - {match: ['*.down_proj', 're:('], bits: 9}
  - words
  - {kind: mlp}
  - {bits: 3}
  - {blocks: all, kind: any, bits: 3}
  - {kind: mlp, bit: 4}
  - {kind: mlp, foo: 4, blocks: [frist 2], sym: no}
  - {kind: mlp, bits: 16, sym: true}
  - {kind: mlp, bits: 16, type: q4_k}
  - {kind: lm_head, bits: 8, blocks: first 2}
  - {kind: embeddings, bits: 8}
  - {kind: mlp, bits: 3, type: q4k}
"""


def test_every_mistake_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(MISTAKES)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    lines = str(caught.value).replace(str(path), "mine.yaml").splitlines()
    for line, words in zip(
        lines,
        [
            "mine.yaml:3: layers[0].kind: expected any, attention, .*did you mean attention?",
            "mine.yaml:5: layers[1].match[1]: expected a layer name, .*not a regular expression",
            "mine.yaml:5: layers[1].bits: expected auto, 16, or an integer from 2 to 8; got 9",
            "mine.yaml:6: layers[2]: expected a mapping with keys of match, kind, blocks, bits",
            "mine.yaml:7: layers[3]: a rule sets at least one of bits, group_size, sym and type",
            "mine.yaml:8: layers[4]: a rule says which layers it is about",
            "mine.yaml:9: layers[5]: a rule says which layers it is about",
            "mine.yaml:10: unknown key layers[6].bit; did you mean layers[6].bits? Legal keys of",
            "mine.yaml:11: layers[7].blocks: expected all, a number, .*'frist 2' is none of these",
            "mine.yaml:11: layers[7].sym: expected auto, true or false; got text 'no'",
            "mine.yaml:11: unknown key layers[7].foo. Legal keys of layers[7]: match, kind",
            "mine.yaml:12: layers[8]: weights kept in 16 bits have neither group_size nor sym",
            "mine.yaml:13: layers[9]: bits: 16 and type: q4_k contradict each other",
            "mine.yaml:14: layers[10]: kind: lm_head lies outside the blocks; leave blocks out",
            "mine.yaml:15: layers[11]: embeddings stay in 16 bits in all formats but GGUF",
            "mine.yaml:16: layers[12].type: expected auto, f16, .*did you mean q4_k?",
        ],
        strict=True,
    ):
        for part in words.split(".*"):
            assert part in line


def test_rules_are_set_from_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: rtn\nlayers:\n  - {kind: mlp, bits: 3}\n")
    assert load_recipe(path).layers[0].origin == f"{path}:3"
    text = "layers=[{kind: attention, bits: 8}, {match: q_proj, bits: 2}]"
    recipe = load_recipe(path, overrides=[text])
    assert [str(one) for one in recipe.layers] == ["attention", "'q_proj'"]
    assert recipe.layers[1].origin == f"--set {text}"
    assert load_recipe(path, overrides=["layers=[]"]).layers == ()
    with pytest.raises(RecipeError, match=r"layers: expected a list of rules.*got a mapping"):
        load_recipe(path, overrides=["layers={kind: mlp, bits: 3}"])
    given = load_recipe(path, values={"layers": [{"kind": "mlp", "bits": 8}]})
    assert given.layers == (rule(kind="mlp", bits=8),)


def test_a_rule_says_what_it_is_about() -> None:
    assert str(rule(match=["a", "b", "c"], kind="mlp", blocks=["first 2", 7], bits=3)) == (
        "'a' and 2 more, mlp, first 2, 7"
    )
    assert str(rule(blocks=3, bits=3)) == "blocks 3"
