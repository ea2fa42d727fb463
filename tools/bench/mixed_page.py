"""The figures of ``mixed.py`` as tables, put between two marks of a page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- figures: tools/bench/mixed.py --page -->", "<!-- end of figures -->"
WORDS = {
    "auto": "automatic",
    "auto-fused": "automatic, merged layers alike",
    "auto-measured": "automatic, method measured",
    "ends": "4 bits for the first and last blocks, 2 elsewhere",
    "peer": "AutoScheme, rounded by auto-round",
    "peer-bits": "AutoScheme's bits, rounded by ours",
}


def write_page(page: Path, contents: dict[str, Any]) -> None:
    """Replace the figures of a page."""
    text = page.read_text("utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables(contents)}\n{END}{after}", "utf-8")


def tables(contents: dict[str, Any]) -> str:
    """Return all tables, one for each number of samples and steps."""
    rows = list(contents["rows"].values())
    parts = []
    for samples, iters in sorted({(row["samples"], row["iters"]) for row in rows}):
        own = [row for row in rows if (row["samples"], row["iters"]) == (samples, iters)]
        parts.append(_table(own, iters))
    for found in contents.get("correlation", {}).values():
        parts.append(_correlation(found))
    return "\n\n".join(parts) + "\n"


def _table(rows: list[dict[str, Any]], iters: int) -> str:
    first = rows[0]
    head = (
        f"{'Searched scales, no tuning' if not iters else f'{iters} tuning steps'}; "
        f"{first['samples']} calibration tokens, {first['eval_tokens']} scored; "
        f"{first['machine']}. The original's perplexity is {first['ppl16']:.2f}.\n\n"
        "| budget | method | bits a weight in the files | perplexity | KL | predicted KL | "
        "scoring, CPU s | its peak, GB |\n|---|---|---|---|---|---|---|---|\n"
    )
    ordered = sorted(rows, key=lambda r: (-(r["budget"] or r["bpw"]), r["kl"]))
    return head + "\n".join(_line(row) for row in ordered)


def _line(row: dict[str, Any]) -> str:
    word = row["name"]
    word = f"{word.partition(':')[2]} for all" if word.startswith("uniform:") else WORDS[word]
    budget = "" if row["budget"] is None else f"{row['budget']:g}"
    cells = [budget, word, f"{row['bpw']:.3f}", f"{row['ppl']:.2f}", f"{row['kl']:.4f}"]
    predicted, seconds, peak = (
        row.get(key) for key in ("predicted_kl", "scoring_cpu_s", "scoring_peak_gb")
    )
    cells.append("" if predicted is None else f"{predicted:.4f}")
    cells.append("" if seconds is None else f"{seconds:.0f}")
    cells.append("" if peak is None else f"{peak:.2f}")
    return f"| {' | '.join(cells)} |"


def _correlation(found: dict[str, Any]) -> str:
    lines = [
        f"Rank correlation of predicted and real KL, {found['count']} random allocations each, "
        f"{found['tokens']} tokens scored:\n",
        "| allocations | rank correlation | predicted over real, median | real KL |",
        "|---|---|---|---|",
    ]
    for kind in found["kinds"]:
        low, high = kind["real"]
        lines.append(
            f"| {kind['name']} | {kind['spearman']:.3f} | {kind['ratio']:.2f} | "
            f"{low:.3f} to {high:.3f} |"
        )
    return "\n".join(lines)
