"""Make a table and a plot of quality against time of the rows that vs_peer.py collected.

    python tools/bench/page.py rows.json [more.json ...] --plot docs/frontier.svg

Prints Markdown. The plot needs matplotlib, which nothing else here does.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

COLUMNS = {
    "row": "row",
    "scheme": "scheme",
    "iters": "steps",
    "samples": "samples",
    "ppl": "perplexity",
    "gap": "gap",
    "kl": "KL",
    "top1": "same first choice",
    "domain_kl": "KL, other domain",
    "choices": "choices",
    "tuning_s": "tuning s",
    "peak_gb": "peak GB",
}


def main() -> None:
    """Print the table; save the plot if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--plot", type=Path)
    args = parser.parse_args()
    rows = [described(row) for file in args.files for row in json.loads(file.read_text("utf-8"))]
    print("| " + " | ".join(COLUMNS.values()) + " |")
    print("|" + "---|" * len(COLUMNS))
    for row in rows:
        print("| " + " | ".join(str(row.get(key, "")) for key in COLUMNS) + " |")
    if args.plot is not None:
        plot(rows, args.plot)


def described(row: dict[str, Any]) -> dict[str, Any]:
    """Add what is worked out of a row: its scheme in words, and the gap in log-perplexity."""
    kind = "asym" if row["asym"] else "sym"
    return {
        **row,
        "scheme": f"W{row['bits']} g{row['group_size']} {kind}",
        "samples": f"{row['nsamples']} × {row['seqlen']}",
        "gap": round(math.log(row["ppl"] / row["ppl16"]), 4),
    }


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Plot the divergence from the 16-bit model against the seconds of tuning."""
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    for scheme in sorted({row["scheme"] for row in rows}):
        own = [row for row in rows if row["scheme"] == scheme]
        axes.scatter([r["tuning_s"] for r in own], [r["kl"] for r in own], label=scheme)
        for row in own:
            place = (row["tuning_s"], row["kl"])
            axes.annotate(row["row"], place, xytext=(4, 4), textcoords="offset points", fontsize=8)
    axes.set(xscale="log", yscale="log", xlabel="tuning, seconds", ylabel="KL divergence, nats")
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


if __name__ == "__main__":
    main()
