"""The bench's own parts: how rows are written, what is counted as work, what a page says."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "tools" / "bench"


@pytest.fixture(autouse=True)
def _beside(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(BENCH))
    known = set(sys.modules)
    yield
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(BENCH)):
            del sys.modules[name]


def test_rows_are_read_as_written() -> None:
    rows = importlib.import_module("rows")
    text = "rtn,ours:w2[tuning.iters=50,ignore=['a','b']]@mine,peer:light-ext[lr=0.01],gptq"
    one, two, three, four = rows.parse_rows(text)
    assert (one.method, one.fixed) == ("ours:rtn", True)
    assert two.options == ["tuning.iters=50", "ignore=['a','b']"]
    assert (two.name, two.fixed) == ("mine", False)
    assert three.options == {"lr": 0.01}
    assert four.method == "gptq"
    grids = rows.parse_grids("2,3a,4s", asym=False)
    assert [(g.bits, g.asym) for g in grids] == [(2, False), (3, True), (4, False)]


@pytest.mark.parametrize("text", ["theirs", "peer:fast", "ours:w2[iters]", "ours:w2[a=1"])
def test_rows_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="row"):
        importlib.import_module("rows").parse_rows(text)


def test_work_is_that_of_the_products() -> None:
    flops, geometry = importlib.import_module("flops"), importlib.import_module("geometry")
    shape = geometry.Geometry(
        blocks=3, prefix="b", matrices=((8, 4), (4, 8)), hidden=4, vocabulary=10, attention=4
    )
    samples = flops.Samples(blocks=2, nsamples=5, seqlen=7)
    block = 2 * 64 * 7 + 4 * 4 * 7 * 7
    found = flops.operations(shape, samples, {"steps": 10, "batch": 2, "passes": 2})
    assert found["steps"] == 3 * 10 * 2 * 2 * block
    assert found["passes"] == 2 * 5 * 2 * block
    assert found["total"] == found["steps"] + found["passes"]
    course = flops.operations(shape, samples, {"distill_steps": 3, "distill_batch": 2})
    assert course["whole"] == 3 * (4 * 2 * 3 * block + 6 * 10 * 4 * 2 * 7)


def row(name: str, seed: int, **figures: float) -> dict[str, Any]:
    return {
        **{"name": name, "method": f"ours:{name}", "model": "m-123", "grid": "2s", "seed": seed},
        **{"group_size": 64, "blocks": "2/2", "samples": "8x16", "batch": 8, "machine": "x"},
        **{"ppl": 12.0, "ppl16": 10.0, "kl": 0.2},
        **figures,
    }


def test_a_page_has_means_and_spreads(tmp_path: Path) -> None:
    page = importlib.import_module("page")
    rows = [row("a", 0, kl=0.3), row("a", 1, kl=0.5), row("b", 0, kl=0.1, tuning_s=3.21)]
    rows = [page.with_gaps(each) for each in rows]
    text = page.table(rows)
    first, second = (line.split(" | ") for line in text.splitlines()[-2:])
    assert first[0] == "| b"
    assert first[7] == "3.2"
    assert second[0] == "| a"
    assert second[2] == "0.1823 ± 0.0000"
    assert second[3] == "0.4000 ± 0.1414"
    before = f"x\n{page.BEGIN}\nold\n{page.END}\ny\n"
    assert page.replaced(before, text) == f"x\n{page.BEGIN}\n{text}\n{page.END}\ny\n"
    with pytest.raises(SystemExit, match="no <!--"):
        page.replaced("x", text)


def test_rows_accumulate(tmp_path: Path) -> None:
    store = importlib.import_module("store")
    path = tmp_path / "rows.json"
    for number in range(3):
        with store.changing(path) as contents:
            contents["rows"][str(number)] = {"seed": number}
    assert sorted(store.read(path)["rows"]) == ["0", "1", "2"]
    path.write_text("[]")
    with pytest.raises(SystemExit, match="no file of bench rows"):
        store.read(path)
