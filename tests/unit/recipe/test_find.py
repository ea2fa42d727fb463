from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from autoround.errors import AutoRoundError, RecipeError
from autoround.recipe import find
from autoround.recipe.find import builtin_names, builtin_path, find_recipe
from autoround.recipe.load import load_recipe
from autoround.recipe.schema import Recipe

#: The algorithm of the SignRound paper alone.
PAPER: dict[str, object] = {
    "tuning.lr": 0.005,
    "tuning.init_scale": "minmax",
    "tuning.init_rounding": "nearest",
}


def test_the_built_in_recipes() -> None:
    assert builtin_names() == (
        *("best", "default", "demo", "flash", "gguf-q4_k_m-like", "light"),
        *("mixed-2.5bit", "mixed-3.5bit", "moe-w4-w8", "opt-rtn"),
        *("rtn", "signround", "signround-light", "turbo", "w2", "w3", "w4-mlp-w8-attn", "w8"),
    )


def test_default_states_every_default() -> None:
    default = load_recipe("default")
    assert default == Recipe(description=default.description)


END_TO_END: dict[str, object] = {
    "end_to_end.steps": 100,
    "end_to_end.tune_codes": True,
    "end_to_end.nsamples": "auto",
}


@pytest.mark.parametrize(
    ("name", "differences"),
    [
        ("default", {}),
        ("best", {"tuning.iters": 1000, "calibration.nsamples": 512, "end_to_end.steps": 100}),
        ("light", {"tuning.iters": 50}),
        ("turbo", {"tuning.iters": 20, "tuning.num_validations": 2}),
        ("flash", {"tuning.iters": 0, "tuning.init_rounding": "gptq"}),
        ("rtn", {"tuning.iters": 0, "tuning.init_scale": "minmax"}),
        ("opt-rtn", {"tuning.iters": 0}),
        ("signround", PAPER),
        ("signround-light", {**PAPER, "tuning.iters": 50}),
        (
            "w2",
            {
                **{"scheme.bits": 2, "scheme.group_size": 64, "scheme.sym": False},
                **{
                    "end_to_end.steps": 100,
                    "end_to_end.tune_codes": True,
                    "end_to_end.nsamples": "auto",
                },
            },
        ),
        (
            "w3",
            {
                **{"scheme.bits": 3, "scheme.group_size": 64},
                **{
                    "tuning.iters": 50,
                    "tuning.init_rounding": "by_block",
                    "end_to_end.steps": 100,
                    "end_to_end.tune_codes": True,
                    "end_to_end.nsamples": "auto",
                },
            },
        ),
        ("w8", {"scheme.bits": 8, "tuning.iters": 0}),
        ("w4-mlp-w8-attn", {"layers": [{"kind": "attention", "bits": 8}]}),
        ("moe-w4-w8", {"scheme.bits": 8, "layers": [{"kind": "experts", "bits": 4}]}),
        (
            "mixed-3.5bit",
            {
                "layers": [
                    {"kind": "attention", "bits": 4},
                    {"blocks": ["first 1/8", "last 1/8"], "bits": 4},
                ],
                **{"scheme.bits": 3, "tuning.iters": 50, "tuning.init_rounding": "by_block"},
                **{
                    "end_to_end.steps": 100,
                    "end_to_end.tune_codes": True,
                    "end_to_end.nsamples": "auto",
                },
            },
        ),
        (
            "mixed-2.5bit",
            {
                "layers": [
                    {"kind": "attention", "bits": 3, "group_size": 128},
                    {"blocks": ["first 1", "last 1"], "bits": 3, "group_size": 128},
                ],
                **{"scheme.bits": 2, "scheme.group_size": 64, "scheme.sym": False},
                **{
                    "end_to_end.steps": 100,
                    "end_to_end.tune_codes": True,
                    "end_to_end.nsamples": "auto",
                },
            },
        ),
        (
            "gguf-q4_k_m-like",
            {
                "layers": [
                    {"kind": "attention", "type": "q4_k"},
                    {"kind": "mlp", "type": "q4_k"},
                    {
                        "match": r"re:(v_proj|qkv_proj|c_attn|down_proj|mlp\.c_proj)$",
                        "blocks": ["first 1/8", "last 1/8", "every 3"],
                        "type": "q6_k",
                    },
                ],
                "output.format": "gguf:q4_k_s",
            },
        ),
    ],
)
def test_what_each_built_in_recipe_changes(name: str, differences: dict[str, object]) -> None:
    recipe = load_recipe(name)
    expected = load_recipe("default", values={**differences, "description": recipe.description})
    assert recipe == expected
    assert recipe.description
    assert builtin_path(name).read_text(encoding="utf-8").startswith("# ")


def test_descriptions_differ() -> None:
    assert len({load_recipe(name).description for name in builtin_names()}) == len(builtin_names())


def test_nearest_name() -> None:
    with pytest.raises(RecipeError, match="no built-in recipe 'ligth'; did you mean 'light'"):
        builtin_path("ligth")
    with pytest.raises(RecipeError, match=r"no recipe 'ligth.yaml'.*did you mean 'light'"):
        find_recipe("ligth.yaml")
    with pytest.raises(RecipeError, match=r"Built-in recipes: best, default"):
        find_recipe("zzz")


def test_a_bare_name_is_built_in_first(tmp_path: Path) -> None:
    (tmp_path / "light").write_text("seed: 1")
    assert find_recipe("light", folder=tmp_path) == builtin_path("light")
    assert find_recipe("./light", folder=tmp_path) == tmp_path / "light"
    assert find_recipe(Path("light"), folder=tmp_path) == tmp_path / "light"


def test_a_bare_name_that_is_not_built_in_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("seed: 1")
    assert find_recipe("mine", folder=tmp_path) == tmp_path / "mine"


@pytest.mark.parametrize("name", ["light.yaml", "light.yml"])
def test_a_yaml_name_is_a_file_first(tmp_path: Path, name: str) -> None:
    assert find_recipe(name, folder=tmp_path) == builtin_path("light")
    (tmp_path / name).write_text("seed: 1")
    assert find_recipe(name, folder=tmp_path) == tmp_path / name


def test_a_path_is_never_built_in(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"no recipe '\./light\.yaml'"):
        find_recipe("./light.yaml", folder=tmp_path)
    with pytest.raises(RecipeError, match="no file"):
        find_recipe(Path("light.yaml"), folder=tmp_path)


@pytest.mark.parametrize("source", ["", "\0", "x" * 5000, "a/\0.yaml", ".", ".."])
def test_strange_names(source: str) -> None:
    with pytest.raises(RecipeError):
        load_recipe(source)


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "mine.yaml").write_text("seed: 1")
    assert find_recipe("~/mine.yaml") == tmp_path / "mine.yaml"


def test_installed_recipes_come_before_the_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "site" / "autoround" / "recipe" / "find.py"
    monkeypatch.setattr(find, "__file__", str(module))
    with pytest.raises(AutoRoundError, match="reinstall the package"):
        builtin_names()
    checkout = tmp_path / "site" / "recipes"
    checkout.mkdir(parents=True)
    (checkout / "far.yaml").write_text("seed: 1")
    assert builtin_names() == ("far",)
    packaged = tmp_path / "site" / "autoround" / "_recipes"
    packaged.mkdir(parents=True)
    (packaged / "near.yaml").write_text("seed: 1")
    assert builtin_names() == ("near",)


def test_finding_needs_no_heavy_import() -> None:
    code = (
        "import sys, autoround.recipe.find as f; f.builtin_names();"
        "assert not {'torch', 'pydantic', 'yaml'} & set(sys.modules)"
    )
    root = str(Path(find.__file__).parents[2])
    subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
