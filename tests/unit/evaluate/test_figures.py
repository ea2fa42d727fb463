from __future__ import annotations

import json
import math
from pathlib import Path

from autoround.evaluate.figures import FIGURES_FILE, figures_of, save_figures
from autoround.types import EvalResult


def test_figures_are_kept_under_their_names(tmp_path: Path) -> None:
    save_figures(tmp_path, figures_of(EvalResult(2.5, 7, 2.0, 0.1, 0.9), text="a.txt"))
    assert json.loads((tmp_path / FIGURES_FILE).read_text()) == {
        "perplexity": 2.5,
        "original_perplexity": 2.0,
        "kl": 0.1,
        "top1": 0.9,
        "text": "a.txt",
        "tokens": 7,
    }
    save_figures(tmp_path, figures_of(EvalResult(math.nan, 0), text="a.txt"))
    assert json.loads((tmp_path / FIGURES_FILE).read_text())["perplexity"] is None
