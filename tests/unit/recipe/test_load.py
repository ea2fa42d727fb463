from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoround.errors import RecipeError
from autoround.recipe.load import OverrideSource, load_recipe, read_source
from autoround.recipe.schema import Recipe


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def mistakes(path: Path | str, *overrides: str, **values: object) -> list[str]:
    """Return the lines of the error, the folder of the file cut off."""
    with pytest.raises(RecipeError) as caught:
        load_recipe(path, overrides=overrides, values=values)
    folder = f"{Path(path).parent}{os.sep}"
    return str(caught.value).replace(folder, "").splitlines()


def test_keys_left_out_have_the_defaults(tmp_path: Path) -> None:
    assert load_recipe(write(tmp_path / "r.yaml", "seed: 42")) == Recipe()


def test_mappings_merge_and_lists_replace(tmp_path: Path) -> None:
    write(
        tmp_path / "base.yaml",
        "extends: default\ndescription: base\nignore: [a, b]\n"
        "tuning: {iters: 7, lr: 5e-3}\ncalibration: {dataset: [x, y]}\n",
    )
    path = write(
        tmp_path / "r.yaml",
        "extends: base.yaml\nignore: [c]\ntuning:\n  iters: 9\ncalibration: {dataset: z}\n",
    )
    recipe = load_recipe(path)
    assert recipe.ignore == ("c",)
    assert (recipe.tuning.iters, recipe.tuning.lr) == (9, 0.005)
    assert recipe.calibration.dataset == "z"
    assert recipe.tuning.batch_size == 8


def test_description_is_not_inherited_but_checked(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "description: base\n")
    path = write(tmp_path / "r.yaml", "extends: base.yaml\n")
    assert load_recipe(path).description == ""
    assert load_recipe(tmp_path / "base.yaml").description == "base"
    write(tmp_path / "base.yaml", "description: 5\n")
    assert mistakes(path) == ["base.yaml:1: description: expected text; got 5"]


def test_extends_is_relative_to_its_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    write(tmp_path / "a" / "base.yaml", "extends: b/deep.yaml\n")
    write(tmp_path / "a" / "b" / "deep.yaml", "seed: 7\n")
    write(tmp_path / "a" / "b" / "r.yaml", "extends: ../base.yaml\n")
    monkeypatch.chdir(tmp_path)
    assert load_recipe("a/b/r.yaml").seed == 7


def test_a_file_named_like_a_built_in_can_extend_it(tmp_path: Path) -> None:
    path = write(tmp_path / "light.yaml", "extends: light\nseed: 3\n")
    recipe = load_recipe(path)
    assert (recipe.seed, recipe.tuning.iters) == (3, 50)


def test_circles(tmp_path: Path) -> None:
    path = write(tmp_path / "a.yaml", "seed: 1\nextends: b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a.yaml\n")
    (message,) = mistakes(path)
    assert message == "b.yaml:1: extends runs in a circle: a.yaml -> b.yaml -> a.yaml"
    write(path, "extends: ./a.yaml\n")
    assert mistakes(path) == ["a.yaml:1: extends runs in a circle: a.yaml -> a.yaml"]


@pytest.mark.parametrize(
    ("extends", "part"),
    [
        ("ligth", "did you mean 'light'"),
        ("gone.yaml", "no such file"),
        ("[a, b]", "expected the name or the path of one recipe; got a list"),
        ("''", "got ''"),
        ("", "got null"),
        ("3", "got 3"),
    ],
)
def test_extends_that_leads_nowhere(tmp_path: Path, extends: str, part: str) -> None:
    path = write(tmp_path / "r.yaml", f"seed: 1\nextends: {extends}\n")
    (message,) = mistakes(path)
    assert message.startswith("r.yaml:2: extends: ")
    assert part in message


def test_all_mistakes_of_all_files_at_once(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "seed: -1\nscheme: {bits: 9}\nextends: gone\n")
    path = write(
        tmp_path / "r.yaml",
        "extends: base.yaml\nscheme:\n  bits: 4\n  bits: 3\n  sym: no\ntuning:\n  itres: 3\n",
    )
    found = mistakes(
        path, "tuning.lrr=5e-3", "foo", **{"scheme.bits": OverrideSource(1, "--bits 1")}
    )
    assert [line.split(": ")[0] for line in found] == [
        "r.yaml:4",
        "r.yaml:5",
        "r.yaml:7",
        "base.yaml:1",
        "base.yaml:2",
        "base.yaml:3",
        "--set foo",
        "--bits 1",
        "--set tuning.lrr=5e-3",
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("scheme: {bits: '4'}", "scheme.bits: expected an integer from 2 to 8; got text '4' "),
        ("scheme: {bits: '4'}", "(remove the quotes)"),
        ("scheme: {bits: 4.0}", "got 4.0 (write 4)"),
        ("scheme: {bits: true}", "got true"),
        ("scheme: {bits: 1}", "got 1"),
        ("scheme: {bits: 9}", "got 9"),
        ("scheme: {bits: }", "got null (nothing)"),
        ("scheme: {bits: four}", "got text 'four'"),
        ("scheme: {group_size: -2}", "-1 (one scale per channel) or 0 (one per tensor); got -2"),
        ("scheme: {sym: no}", "scheme.sym: expected true or false; got text 'no' (the words"),
        ("scheme: {sym: 'true'}", "(remove the quotes)"),
        ("scheme: {sym: 1}", "expected true or false; got 1"),
        ("scheme: 4", "scheme: expected a mapping with keys of bits, group_size, sym; got 4"),
        ("tuning:", "tuning: expected a mapping with keys of iters"),
        ("tuning: {iters: -1}", "tuning.iters: expected an integer of at least 0; got -1"),
        ("tuning: {lr: 0}", "tuning.lr: expected auto or a number above 0; got 0"),
        ("tuning: {lr: -1e-3}", "got -0.001"),
        ("tuning: {lr: .nan}", "got nan"),
        ("tuning: {lr: .inf}", "got inf"),
        ("tuning: {lr: 1e999}", "got inf"),
        ("tuning: {lr: '5e-3'}", "got text '5e-3' (remove the quotes)"),
        ("tuning: {lr: false}", "got false"),
        ("tuning: {lr: automatic}", "got text 'automatic'"),
        ("tuning: {lr: {float: 3}}", "tuning.lr: expected auto or a number above 0; got a map"),
        ("tuning: {batch_size: 0}", "expected an integer of at least 1; got 0"),
        ("tuning: {batch_size: 1_000}", "got text '1_000' (write 1000)"),
        ("tuning: {batch_size: 0128}", "got text '0128' (write 128)"),
        ("tuning: {num_validations: 0}", "got 0"),
        (
            "tuning: {init_scale: Search}",
            "expected minmax or search; got text 'Search' (did you mean search?)",
        ),
        ("output: {format: 'auto_gptq, auto_gptq'}", "'auto_gptq' is named twice"),
        ("calibration: {nsamples: 0}", "got 0"),
        ("calibration: {seqlen: 1:30}", "got text '1:30'"),
        ("calibration: {dataset: ''}", "calibration.dataset: expected text or a list of texts"),
        ("calibration: {dataset: []}", "got a list"),
        ("calibration: {dataset: 3}", "got 3"),
        ("calibration: {dataset: [a, 3]}", "calibration.dataset[1]: expected text that is not"),
        ("evaluation: {seqlen: 1}", "expected an integer of at least 2; got 1"),
        ("output: {format: 'auto_gptq,'}", "a name is empty"),
        ("output: {dtype: fp16}", "auto or float16 or bfloat16 or float32; got text 'fp16'"),
        ("output: {max_shard_size: 5gb}", "KB, MB, GB, KiB, MiB, GiB"),
        ("output: {max_shard_size: 0}", "at least one byte"),
        ("output: {max_shard_size: true}", "got true"),
        ("ignore: lm_head", "got text 'lm_head' (write ['lm_head'])"),
        ("ignore: [a, 3]", "ignore[1]: expected a layer name, a glob"),
        ("ignore: ['']", "ignore[0]: "),
        ("ignore: ['re:(']", "not a regular expression"),
        ("seed: 4294967296", "seed: expected an integer from 0 to 4294967295"),
        ("seed: " + "9" * 5000, "got text '9999"),
        ("description: [a]", "description: expected text; got a list"),
    ],
)
def test_illegal_values(tmp_path: Path, text: str, message: str) -> None:
    (found,) = mistakes(write(tmp_path / "r.yaml", f"\n\n{text}\n"))
    assert found.startswith("r.yaml:3: ")
    assert message in found
    assert found.isprintable()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bits: 4", "unknown key bits; did you mean scheme.bits or lm_head.bits?"),
        ("seqlen: 4", "did you mean calibration.seqlen or evaluation.seqlen?"),
        ("extend: light", "did you mean extends? Legal keys: extends, description, scheme"),
        ("tuning: {lrr: 1}", "unknown key tuning.lrr; did you mean tuning.lr?"),
        ("tuning: {batch-size: 1}", "did you mean tuning.batch_size?"),
        (
            "nsample: 4",
            "allocate.nsamples, end_to_end.nsamples or calibration.nsamples?",
        ),
        ("scheme: {zzzz: 1}", "unknown key scheme.zzzz. Legal keys of scheme: bits, group_size, s"),
        ("scheme: {extends: light}", "Legal keys of scheme: bits, group_size, sym"),
        ("4: x", "unknown key 4."),
        ("<<: {seed: 1}", "unknown key <<."),
        ("'a\\nb': x", "unknown key a"),
    ],
)
def test_unknown_keys(tmp_path: Path, text: str, message: str) -> None:
    (found,) = mistakes(write(tmp_path / "r.yaml", f"\n{text}\n"))
    assert found.startswith("r.yaml:2: ")
    assert message in found


def test_the_line_is_that_of_the_value(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "ignore:\n  - a\n  - 'b'\n  - 5\ntuning:\n  lr:\n    x\n")
    assert [line.split(" ")[0] for line in mistakes(path)] == ["r.yaml:4:", "r.yaml:7:"]


def test_rate_without_tuning_is_legal(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "tuning: {iters: 0, lr: 5e-3}")
    assert load_recipe(path).tuning.lr == 0.005


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("tuning.lr=5e-3", {"tuning": {"lr": 0.005}}),
        ("tuning.lr=auto", {"tuning": {"lr": "auto"}}),
        ("scheme.sym=false", {"scheme": {"sym": False}}),
        ("scheme.group_size=-1", {"scheme": {"group_size": -1}}),
        (" seed = 7 ", {"seed": 7}),
        ("ignore=['*.gate', lm_head]", {"ignore": ["*.gate", "lm_head"]}),
        ("ignore=[]", {"ignore": []}),
        ("tuning={iters: 3, lr: 1}", {"tuning": {"iters": 3, "lr": 1.0}}),
        ("description=a: b # c", {"description": "a: b # c"}),
        ("description='5'", {"description": "5"}),
        ("description=a=b", {"description": "a=b"}),
        ("calibration.dataset=*x", {"calibration": {"dataset": "*x"}}),
    ],
)
def test_overrides(tmp_path: Path, override: str, values: dict[str, object]) -> None:
    path = write(tmp_path / "r.yaml", "ignore: [z]")
    expected = Recipe.model_validate({"ignore": ["z"], **values})
    assert load_recipe(path, overrides=[override]) == expected


def test_the_order_of_precedence(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "tuning: {iters: 1}\nseed: 1")
    recipe = load_recipe(
        path,
        overrides=["tuning.iters=3", "tuning.iters=4"],
        values={"tuning.iters": 2, "seed": OverrideSource(2, "--seed 2")},
    )
    assert (recipe.tuning.iters, recipe.seed) == (4, 2)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("foo", "write PATH=VALUE"),
        ("=3", "write PATH=VALUE"),
        ("ignore=*.gate", "(write ['*.gate'])"),
        ("ignore=[*.gate]", "quote text that begins with '*'"),
        ("ignore=[a", "YAML syntax"),
        ("scheme.bits=", "got null"),
        ("scheme.bits={a: 1, a: 2}", "key 'a' is already given"),
        ("tuning.lr.x=3", "tuning.lr: expected auto or a number above 0; got a mapping"),
        ("tuning..lr=3", "unknown key tuning."),
        ("extends=light", "extends is for files"),
        ("description=\udcff", "expected text"),
    ],
)
def test_mistakes_in_overrides(override: str, message: str) -> None:
    (found,) = mistakes("default", override)
    assert found.startswith("--set ")
    assert message in found
    assert found.isprintable()


def test_a_hidden_mistake_in_an_override_is_reported() -> None:
    (found,) = mistakes("default", "tuning.iters=x", "tuning.iters=5")
    assert found.startswith("--set tuning.iters=x: ")


def test_values_of_python(tmp_path: Path) -> None:
    recipe = load_recipe("default", values={"ignore": ("a", "b"), "tuning": {"iters": 3}})
    assert recipe.ignore == ("a", "b")
    assert recipe.tuning.iters == 3
    (found,) = mistakes("default", **{"calibration.dataset": tmp_path})
    assert found.startswith("calibration.dataset: calibration.dataset: expected text")
    (found,) = mistakes("default", **{"scheme.bits": None})
    assert "got null" in found


def test_a_missing_recipe_does_not_hide_other_mistakes() -> None:
    found = mistakes("ligth", "seed=x")
    assert found[0].startswith("no recipe 'ligth'")
    assert found[1].startswith("--set seed=x: ")


def test_things_that_are_not_files(tmp_path: Path) -> None:
    assert mistakes(str(tmp_path))[0].endswith("not a file")
    path = write(tmp_path / "r.yaml", "extends: ./folder.yaml\n")
    (tmp_path / "folder.yaml").mkdir()
    assert mistakes(path) == ["folder.yaml: not a file"]
    with pytest.raises(RecipeError, match="not a file"):
        read_source(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes are of Unix")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "r.yaml")
    assert mistakes(tmp_path / "r.yaml") == ["r.yaml: not a file"]


def test_a_large_file_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "#" * 1_000_001)
    assert mistakes(path) == ["r.yaml: larger than 1000000 bytes: not a recipe"]
    with pytest.raises(RecipeError, match="larger than"):
        read_source(path)


def test_source_text(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "# é\nnot: valid\n")
    assert read_source(path) == "# é\nnot: valid\n"
    assert "extends: default" in read_source("light")


KEYS = st.sampled_from(["scheme", "bits", "tuning", "lr", "ignore", "seed", "extends", "x", "0"])
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-5, 300)
    | st.floats()
    | st.text(max_size=4)
    | st.binary(max_size=2)
)
TREES = st.recursive(
    LEAVES,
    lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(KEYS, deeper, max_size=4),
    max_leaves=12,
)


def outcome(overrides: list[str], values: dict[str, object]) -> Recipe | str:
    try:
        return load_recipe("rtn", overrides=overrides, values=values)
    except RecipeError as error:
        return str(error)


def is_sound(result: Recipe | str) -> bool:
    if isinstance(result, str):
        return bool(result) and all(line.isprintable() for line in result.split("\n"))
    return Recipe.model_validate(result.to_dict()) == result


@settings(max_examples=100, deadline=None)
@given(values=st.dictionaries(KEYS, TREES, max_size=4))
def test_any_values_give_a_recipe_or_one_kind_of_error(values: dict[str, object]) -> None:
    assert is_sound(outcome([], values))


@settings(max_examples=100, deadline=None)
@given(paths=st.lists(st.tuples(st.lists(KEYS, max_size=3), st.text(max_size=8)), max_size=3))
def test_any_overrides_give_a_recipe_or_one_kind_of_error(
    paths: list[tuple[list[str], str]],
) -> None:
    assert is_sound(outcome([f"{'.'.join(keys)}={value}" for keys, value in paths], {}))
