"""Predicted seconds of a block: the arithmetic, held against numbers worked out by hand."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "bench" / "predict.py"


@pytest.fixture
def predict(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(TOOL.parent))
    return importlib.import_module("predict")


def test_steps_of_an_8b_block_are_products_and_bytes_of_weights(predict: Any) -> None:
    shape, card = predict.SHAPES["llama-3.1-8b"], predict.CARDS["h100"]
    weights = 2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336
    batch = 8 * 2048
    products = 6 * weights * batch / 0.70e15
    attention = 6 * batch * 2048 * 4096 / 0.70e15
    traffic = (36 * weights + 8 * batch * 4096) / 2.4e12
    seconds = predict.predict(shape, card, recipe="default")["steps"]
    assert seconds == pytest.approx(200 * (products + attention + traffic), rel=1e-3)


def test_a_mixture_multiplies_each_token_by_its_own_experts(predict: Any) -> None:
    shape, card = predict.SHAPES["qwen3-30b-a3b"], predict.CARDS["h100"]
    seconds = predict.predict(shape, card, recipe="flash")
    active = 2 * 2048 * 4096 + 2 * 2048 * 512 + 8 * 3 * 2048 * 768
    tokens = 128 * 2048
    expected = tokens * (2 * active + 2 * 2048 * 4096) / 0.70e15
    assert seconds["forward of the original"] == pytest.approx(expected + 238 * 5e-6)
    assert seconds["steps"] == seconds["scores"] == 0


def test_the_table_has_each_recipe() -> None:
    done = subprocess.run(
        [sys.executable, str(TOOL), "--json"], capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout)["seconds"]
    totals = [sum(rows[name].values()) for name in ("default", "light", "turbo", "flash")]
    assert totals == sorted(totals, reverse=True)
