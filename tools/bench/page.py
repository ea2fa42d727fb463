"""Write the tables of docs/benchmarks.md, and a plot, from the file that rows accumulate in.

    python tools/bench/page.py rows.json --page docs/benchmarks.md --plot docs/frontier.svg

What stands between the two ``bench rows`` comments of the page is replaced. Rows that differ in
their seed only make one line: the mean, and the standard deviation behind ± where there are
several. The plot needs matplotlib (``pip install autoround[bench]``).
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import store

BEGIN, END = "<!-- bench rows -->", "<!-- /bench rows -->"
#: What rows of one table share.
SHARED = ("model", "grid", "group_size", "blocks", "samples", "batch", "machine")
#: Column -> (figure, digits).
COLUMNS: dict[str, tuple[str, int]] = {
    "perplexity": ("ppl", 2),
    "gap": ("gap", 4),
    "KL": ("kl", 4),
    "same first choice": ("top1", 3),
    "gap, other domain": ("domain_gap", 4),
    "choices": ("choices", 3),
    "tuning s": ("tuning_s", 1),
    "TFLOP": ("tflop", 1),
    "of ceiling": ("of_ceiling", 2),
    "peak GB": ("peak_gb", 2),
    "bits a weight": ("bpw", 3),
}


def main() -> None:
    """Replace the section, save the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--page", type=Path, help="page to change; without it tables are printed")
    parser.add_argument("--plot", type=Path, help="picture to save: .svg or .png")
    args = parser.parse_args()
    rows = [with_gaps(row) for row in store.read(args.file)["rows"].values()]
    text = "\n\n".join(table(own) for own in grouped(rows, SHARED))
    if args.page is None:
        print(text)
    else:
        args.page.write_text(replaced(args.page.read_text("utf-8"), text), "utf-8")
    if args.plot is not None:
        plot(rows, args.plot)


def with_gaps(row: dict[str, Any]) -> dict[str, Any]:
    """Add the gaps in log-perplexity to the 16-bit model."""
    found = {**row, "gap": math.log(row["ppl"] / row["ppl16"])}
    if row.get("domain_ppl"):
        found["domain_gap"] = math.log(row["domain_ppl"] / row["domain_ppl16"])
    return found


def grouped(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Put rows together that agree in some settings."""
    found: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return [found[key] for key in sorted(found, key=str)]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one table: methods in the order of their divergence."""
    first = rows[0]
    kind = "asymmetric" if first["grid"].endswith("a") else "symmetric"
    title = (
        f"**{first['model'].rpartition('-')[0]}, {first['grid'][0]} bits {kind}, groups of "
        f"{first['group_size']}; blocks {first['blocks']}, {first['samples']} tokens, "
        f"{first['machine']}** (16-bit perplexity {first['ppl16']:.2f})"
    )
    heads = ["row", *COLUMNS, "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    methods = [own for own in grouped(rows, ("name", "code")) if own[0]["method"] != "16bit"]
    for own in sorted(methods, key=lambda own: statistics.fmean(row["kl"] for row in own)):
        cells = [figure(own, key, digits) for key, digits in COLUMNS.values()]
        lines.append("| " + " | ".join([own[0]["name"], *cells, str(len(own))]) + " |")
    return title + "\n\n" + "\n".join(lines)


def figure(rows: Sequence[dict[str, Any]], key: str, digits: int) -> str:
    """Return the mean of a figure over seeds, with its spread where there are several."""
    values = [row[key] for row in rows if row.get(key) is not None]
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def replaced(page: str, text: str) -> str:
    """Put the tables between the comments.

    Raises:
        SystemExit: the page has no such place.
    """
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page has no {BEGIN} … {END} to put the tables between")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the divergence from the 16-bit model against the seconds of tuning, a panel a table."""
    from matplotlib import pyplot  # type: ignore[import-not-found, unused-ignore]

    tables = [
        own for own in grouped(rows, SHARED) if sum(bool(row.get("tuning_s")) for row in own) > 1
    ]
    columns = min(2, len(tables))
    count = -(-len(tables) // columns)
    figure_, panels = pyplot.subplots(count, columns, figsize=(6 * columns, 4 * count))
    for axes, own in zip(panels.flat if len(tables) > 1 else [panels], tables, strict=False):
        for method in grouped([row for row in own if row.get("tuning_s")], ("name",)):
            place = tuple(statistics.fmean(row[k] for row in method) for k in ("tuning_s", "kl"))
            mine = method[0]["method"].startswith("ours")
            axes.scatter(*place, marker="o" if mine else "x", color="C0" if mine else "C3")
            axes.annotate(
                method[0]["name"], place, xytext=(4, 4), textcoords="offset points", fontsize=8
            )
        axes.set(xscale="log", yscale="log", xlabel="tuning, seconds", ylabel="KL, nats")
        first = own[0]
        axes.set_title(f"{first['grid'][0]} bits, blocks {first['blocks']}, {first['samples']}")
        axes.grid(visible=True, which="both", alpha=0.3)
    figure_.tight_layout()
    figure_.savefig(path)


if __name__ == "__main__":
    main()
