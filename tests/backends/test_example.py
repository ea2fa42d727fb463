"""The example of docs/backends.md as a stranger would have it: built, installed, found, used."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ..tiny import write_checkpoint

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "backend"
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
    target = tmp_path_factory.mktemp("example")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", "--target", str(target)]
    done = subprocess.run(
        [*command, str(EXAMPLE)], capture_output=True, text=True, timeout=300, check=False
    )
    if "No module named pip" in done.stderr or "hatchling" in done.stderr:
        pytest.skip(f"it cannot be built here: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return target


def test_an_installed_backend_passes_the_suite_and_quantizes(
    installed: Path, tmp_path: Path
) -> None:
    model = write_checkpoint("llama", tmp_path / "model", tokenizer=True)
    text = tmp_path / "text.txt"
    text.write_text("\n".join(f"the number {n} is not {n * 7 % 11}" for n in range(400)))
    path = os.pathsep.join([str(installed), *(p for p in sys.path if p)])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(model), str(tmp_path), str(text)],
        env={**os.environ, "PYTHONPATH": path},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
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
        assert (EXAMPLE / name).read_text(encoding="utf-8") in page, name
