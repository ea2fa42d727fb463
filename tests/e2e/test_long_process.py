"""Two hundred runs in one process: no more files, threads or memory than after the first few."""

from __future__ import annotations

import gc
import os
import shutil
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from autoround import api
from autoround.checkpoints.convert import convert
from autoround.inference.load import load
from autoround.recipe.load import load_recipe

from ..runs import SMALL, even_device
from ..tiny import token_ids

__all__ = ["even_device"]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="counts by /proc"),
]
RUNS = 200
#: Runs in which libraries make their caches.
FIRST = 20
#: Bytes that a run may leave on average: a hundredth of what a model of this size takes to load.
LEFT = 20_000


def resident() -> int:
    """Return the bytes of memory that this process has."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def test_two_hundred_runs_leave_nothing_behind(
    checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    model, ids = checkpoint("llama"), token_ids(4, 16)
    formats = ("auto_round", "auto_gptq", "gguf:q4_0", "auto_awq")
    rows = []
    for number in range(RUNS):
        out = tmp_path / f"{number}"
        if number % 4 == 3:
            # As one that ends with an error does.
            with pytest.raises(Exception, match="not empty"):
                api.quantize(model, "rtn", output_dir=model.parent, device="cpu")
        values: dict[str, object] = {**SMALL, "tuning.iters": 1, "output.dtype": "auto"}
        recipe = load_recipe("default", values={**values, "output.format": formats[0]})
        api.quantize(model, recipe, output_dir=out / "out", data=ids, device="cpu")
        loaded = load(out / "out", device="cpu")
        with torch.no_grad():
            loaded(input_ids=ids[:1])
        del loaded
        convert(out / "out", out / "other", formats=[formats[1 + 2 * (number % 2)]])
        shutil.rmtree(out)
        rows.append((len(os.listdir("/proc/self/fd")), threading.active_count(), resident()))
    files, threads, memory = (np.array(column) for column in zip(*rows, strict=True))
    slope = float(np.polyfit(np.arange(FIRST, RUNS), memory[FIRST:], 1)[0])
    print(
        f"{RUNS} runs: files {files[FIRST]} to {files[-1]}, threads {threads[FIRST]} to "
        f"{threads[-1]}, memory {memory[FIRST] / 1e6:.1f} to {memory[-1] / 1e6:.1f} MB, "
        f"{slope:.0f} bytes a run"
    )
    assert set(files[FIRST:]) == {files[FIRST]}
    assert set(threads[FIRST:]) == {threads[FIRST]}
    assert slope < LEFT
