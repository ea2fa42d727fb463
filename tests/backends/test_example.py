"""The example of docs/backends.md as a stranger would have it: built, installed, found, used."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..installed import EXAMPLES, install_example, run_beside

ROOT = Path(__file__).parents[2]
#: Run beside the installed example: the suite, then one recipe on two devices.
SCRIPT = """
import json, sys
from autoround.cli.main import run
from autoround.device.registry import open_device
from autoround.evaluate.compare import compare
from autoround_backends.conformance.__main__ import main as suite
model, folder, text = sys.argv[1:]
found = {"suite": suite(["mine"]), "auto": open_device().name}
options = "--iters 10 --nsamples 8 --seqlen 32 --batch_size 4 --group_size 32".split()
options += ["--dataset", text, "--set", "tuning.compute_dtype=float32"]
for device in ("cpu", "mine"):
    out = f"{folder}/{device}"
    found[device] = run(["quantize", model, *options, "--device", device, "-o", out])
    scores = compare(out, None, text=text, seqlen=32, max_tokens=2048, device="cpu")
    found[f"perplexity {device}"] = scores.perplexity
    found[f"plan {device}"] = json.load(open(f"{out}/plan.json"))["device"]
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example into a folder of its own."""
    return install_example("backend", tmp_path_factory.mktemp("example"))


def test_an_installed_backend_passes_the_suite_and_quantizes(
    installed: Path, tmp_path: Path
) -> None:
    found, done = run_beside(installed, SCRIPT, tmp_path)
    assert found["suite"] == 0, done.stdout
    assert (found["cpu"], found["mine"]) == (0, 0), done.stderr
    assert (found["plan cpu"], found["plan mine"]) == ("cpu", "mine on cpu")
    assert found["auto"] != "mine", "its rank is below zero"
    ours, theirs = found["perplexity cpu"], found["perplexity mine"]
    assert abs(theirs / ours - 1) < 0.005
    assert (tmp_path / "mine" / "config.json").is_file()


def test_the_page_shows_the_example_as_it_is() -> None:
    page = (ROOT / "docs" / "backends.md").read_text(encoding="utf-8")
    for name in ("mine_backend.py", "pyproject.toml"):
        assert (EXAMPLES / "backend" / name).read_text(encoding="utf-8") in page, name
