"""Folders of version 0.1 load, are inspected, reported, converted; what does not go on says why.

tests/golden/written-by-0.1 is a tiny Llama, quantized by version 0.1 (the state of 2026-11-27) to
W4 in groups of 32, in two formats. Sums of its weights are of what that version itself unpacked.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

import autoround
from autoround.checkpoints.convert import convert
from autoround.checkpoints.inspect import inspect_folder
from autoround.cli.main import run
from autoround.errors import OutputError, RecipeError
from autoround.recipe.load import load_recipe
from autoround.recipe.renamed import RENAMED_KEYS
from autoround.resume.journal import Journal

GOLDEN = Path(__file__).parents[1] / "golden" / "written-by-0.1"
FORMATS = ("auto_round", "auto_gptq")
LAYERS = ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight")
#: First digits of the SHA-256 of the weights of LAYERS in float32, as version 0.1 loaded them.
SUMS = {
    "auto_round": ("60bd963a4fdf5628", "7d1816de162b983d"),
    "auto_gptq": ("49533021f2e61e91", "3faa3805993c9795"),
}


@pytest.fixture(params=FORMATS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Return a copy of a folder of 0.1, for commands that write into it."""
    return Path(shutil.copytree(GOLDEN / request.param, tmp_path / "out"))


@pytest.mark.parametrize("name", FORMATS)
def test_weights_are_those_that_the_earlier_version_read(name: str) -> None:
    weights = autoround.load(GOLDEN / name, device="cpu", dense=True).state_dict()
    for layer, digits in zip(LAYERS, SUMS[name], strict=True):
        data = weights[layer].float().contiguous().numpy().tobytes()
        assert hashlib.sha256(data).hexdigest().startswith(digits), layer


def test_packed_layers_run_as_unpacked_ones_do(folder: Path) -> None:
    tokens = torch.arange(4, 20)[None]
    with torch.no_grad():
        packed = autoround.load(folder, device="cpu", dtype=torch.float32)(tokens).logits
        dense = autoround.load(folder, device="cpu", dense=True, dtype=torch.float32)(tokens).logits
    torch.testing.assert_close(packed, dense, rtol=1e-3, atol=1e-3)


def test_it_is_inspected_and_converted(folder: Path, tmp_path: Path) -> None:
    assert len(inspect_folder(folder).layers) == 14
    result = convert(folder, tmp_path / "both", formats=FORMATS)
    assert (result.exact, result.lossy) == (14, {})


def test_a_report_is_made_of_what_is_there(folder: Path) -> None:
    assert run(["report", str(folder)]) == 0
    page = (folder / "report.html").read_text("utf-8")
    assert "W4" in page
    # Its plan is that of both formats.
    name = "auto_gptq" if (folder / "quantize_config.json").exists() else "auto_round"
    assert f"format {name}" in page


def test_its_recipe_names_every_new_word(folder: Path) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(folder / "recipe.yaml"))
    lines = str(caught.value).splitlines()
    text = (folder / "recipe.yaml").read_text("utf-8")
    old = [path for path in RENAMED_KEYS if f"{path.rpartition('.')[2]}:" in text]
    assert len(old) == 7
    for path in old:
        (line,) = [line for line in lines if f"{path} is now {RENAMED_KEYS[path]};" in line]
        number = int(line.partition("recipe.yaml:")[2].partition(":")[0])
        assert text.splitlines()[number - 1].strip().startswith(path.rpartition(".")[2])


def test_an_unfinished_run_of_it_is_refused_in_words(tmp_path: Path) -> None:
    journal = tmp_path / "out.journal"
    journal.mkdir()
    header = {"layout": 1, "streams": str(journal / "streams"), "identity": {"autoround": "0.1.0"}}
    (journal / "run.json").write_text(json.dumps(header))
    with pytest.raises(OutputError, match=r"has layout 1, .* go on with the version that began it"):
        Journal(tmp_path / "out").open()
