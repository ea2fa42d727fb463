"""The example of docs/formats.md as a stranger would have it: built, installed, found, used."""

# Tests: autoround/formats/format.py

from __future__ import annotations

from pathlib import Path

import pytest

from ..installed import install_example, run_beside

#: Run beside the installed example: plan, quantize with its read-back check, load, convert.
SCRIPT = """
import json, sys
import torch
import autoround
from autoround.cli.main import run
model, folder, text = sys.argv[1:]
options = "--iters 2 --nsamples 4 --seqlen 32 --batch_size 4 --group_size 32".split()
options += ["--dataset", text, "--set", "tuning.compute_dtype=float32", "--device", "cpu"]
# One dtype for what is not quantized, in every format.
options += ["--set", "output.dtype=float16"]
codes = {
    "plan": run(["plan", model, *options, "--format", "mine"]),
    "quantize": run(["quantize", model, *options, "--format", "mine,fake", "-o", f"{folder}/out"]),
    "inspect": run(["inspect", f"{folder}/out/mine"]),
    "convert": run(["convert", f"{folder}/out/mine", "--to", "auto_gptq", "-o", f"{folder}/gptq"]),
}
ids = torch.arange(4, 20)[None]
logits = {}
for name in ("out/mine", "out/fake", "gptq"):
    loaded = autoround.load(f"{folder}/{name}", device="cpu", dtype=torch.float32, dense=True) \\
        if name != "out/fake" else None
    if loaded is None:
        from transformers import AutoModelForCausalLM
        loaded = AutoModelForCausalLM.from_pretrained(f"{folder}/{name}", dtype=torch.float32)
    logits[name] = loaded(input_ids=ids, use_cache=False).logits
codes["apart"] = float((logits["out/mine"] - logits["out/fake"]).abs().max())
codes["converted"] = float((logits["out/mine"] - logits["gptq"]).abs().max())
print(json.dumps(codes))
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the example into a folder of its own."""
    return install_example("format", tmp_path_factory.mktemp("example"))


def test_an_installed_format_is_planned_written_read_back_and_loaded(
    installed: Path, tmp_path: Path
) -> None:
    codes, done = run_beside(installed, SCRIPT, tmp_path)
    assert [codes[name] for name in ("plan", "quantize", "inspect", "convert")] == [0] * 4
    assert "packing mine-bytes" in done.stdout
    # Products of rounded weights are those of float16.
    assert codes["apart"] < 0.02
    assert codes["converted"] < 0.02
