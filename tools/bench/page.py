"""Write the tables of docs/benchmarks.md, and a plot, from the file that rows accumulate in.

    python tools/bench/page.py rows.json --page docs/benchmarks.md --plot docs/frontier.svg

What stands between the two ``bench rows`` comments of the page is replaced. Rows that differ in
their seed only make one line: the mean, and the standard deviation behind ± where there are
several. Of rows that differ in our code only, the code measured last counts. The plot draws the
frontier: the methods that no other beats in both time and divergence. It needs matplotlib
(``pip install autoround-toolkit[bench]``).
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
    "KL, other domain": ("domain_kl", 4),
    "choices": ("choices", 3),
    "tuning s": ("tuning_s", 1),
    "process s": ("process_s", 1),
    "TFLOP": ("tflop", 1),
    "of ceiling": ("of_ceiling", 2),
    "peak GB": ("peak_gb", 2),
    "bits a weight": ("bpw", 3),
    "kept in 16 bit": ("kept_share", 2),
}


def main() -> None:
    """Replace the section, save the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--page", type=Path, help="page to change; without it tables are printed")
    parser.add_argument("--plot", type=Path, help="picture to save: .svg or .png")
    args = parser.parse_args()
    contents = store.read(args.file)
    rows = newest([with_gaps(row) for row in contents["rows"].values()])
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


def newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep, of each method in each table, the rows of the code that was measured last."""
    found: list[dict[str, Any]] = []
    for own in grouped(rows, (*SHARED, "name")):
        last = max(own, key=lambda row: str(row.get("measured", "")))
        found += [row for row in own if row.get("code") == last.get("code")]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one table: methods in the order of their divergence."""
    heads = ["row", *COLUMNS, "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    methods = [own for own in grouped(rows, ("name",)) if own[0]["method"] != "16bit"]
    notes = {}
    for own in sorted(methods, key=lambda own: statistics.fmean(row["kl"] for row in own)):
        cells = [figure(own, key, digits) for key, digits in COLUMNS.values()]
        lines.append("| " + " | ".join([own[0]["name"], *cells, str(len(own))]) + " |")
        if own[0].get("note"):
            notes[own[0]["name"]] = own[0]["note"]
    said = "".join(f"\n\n{name}: {note}." for name, note in notes.items())
    return title(rows) + "\n\n" + "\n".join(lines) + said


def title(rows: Sequence[dict[str, Any]]) -> str:
    """Say what all rows of a table share, and what the 16-bit model reaches."""
    first = rows[0]
    kind = "asymmetric" if first["grid"].endswith("a") else "symmetric"
    reached = [f"perplexity {first['ppl16']:.2f}"]
    plain = next((row for row in rows if row["method"] == "16bit"), {})
    if plain.get("choices") is not None:
        reached.append(f"choices {plain['choices']:.3f} of {plain['questions']} questions")
    programs = {
        f"{row['method'].split(':')[0].split('[')[0]} {row['version']}"
        for row in rows
        if row.get("version")
    }
    days = sorted({str(row["measured"]) for row in rows if row.get("measured")})
    return (
        f"**{first['model'].rpartition('-')[0]}, {first['grid'][0]} bits {kind}, groups of "
        f"{first['group_size']}**; blocks {first['blocks']}, samples {first['samples']}, "
        f"batch {first['batch']}; {first['machine']}; 16 bit: {', '.join(reached)}. "
        + ", ".join([*sorted(programs), *days[-1:]])
    ).rstrip()


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


def frontier(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the places (time, divergence) that no other is at least as good as in both."""
    best: list[tuple[float, float]] = []
    for place in sorted(set(places)):
        if not best or place[1] < best[-1][1]:
            best.append(place)
    return best


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Plot the divergence from the 16-bit model against the seconds of tuning, a panel a table."""
    import matplotlib

    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "autoround"  # the same rows give the same bytes
    from matplotlib import pyplot

    timed = [row for row in rows if row.get("tuning_s")]
    tables = [own for own in grouped(timed, SHARED) if len(own) > 1]
    if not tables:
        raise SystemExit("no table has two rows with a time: nothing to plot")
    columns = min(2, len(tables))
    count = -(-len(tables) // columns)
    picture, panels = pyplot.subplots(
        count, columns, figsize=(6 * columns, 4 * count), squeeze=False
    )
    for axes in panels.flat[len(tables) :]:
        axes.set_visible(False)
    for axes, own in zip(panels.flat, tables, strict=False):
        panel(axes, own)
    picture.tight_layout()
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(picture)


def panel(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw one table: a mark and its spread for each method, and the frontier."""
    places = []
    for own in grouped(rows, ("name",)):
        seconds, divergence = ([row[key] for row in own] for key in ("tuning_s", "kl"))
        place = (statistics.fmean(seconds), statistics.fmean(divergence))
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in (seconds, divergence)]
        mine = own[0]["method"].startswith("ours")
        kind = {"fmt": "o", "color": "C0"} if mine else {"fmt": "x", "color": "C3"}
        axes.errorbar(*place, xerr=spread[0], yerr=spread[1], capsize=2, **kind)
        axes.annotate(own[0]["name"], place, xytext=(4, 4), textcoords="offset points", fontsize=8)
        places.append(place)
    axes.step(*zip(*frontier(places), strict=True), where="post", color="0.6", zorder=0)
    axes.set(xscale="log", yscale="log", xlabel="tuning, seconds", ylabel="KL, nats")
    first = rows[0]
    model = first["model"].rpartition("-")[0]
    axes.set_title(
        f"{model}, {first['grid'][0]} bits, blocks {first['blocks']}, {first['samples']}",
        fontsize=9,
    )
    axes.grid(visible=True, which="both", alpha=0.3)


if __name__ == "__main__":
    main()
