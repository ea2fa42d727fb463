"""Write the result tables of the documentation, and its plot, from the file of bench rows.

    python tools/bench/page.py docs/bench-rows.json --page docs/benchmarks.md --readme README.md \\
        --plot docs/frontier.svg

What stands between two marks of a page is replaced: the headline table (``headline``: whole models
with the most calibration tokens) in both pages, all rows (``bench rows``) in the page alone. Rows
that differ in their seed only make one line: the mean, and the standard deviation behind ± where
there are several. Of rows that differ in our code only, the code measured last counts. The plot
draws the tables of the headline, and in each the frontier: the methods that no other beats in both
time and divergence. It needs matplotlib (``pip install autoround-toolkit[bench]``).
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import store

HEADLINE, ROWS = "headline", "bench rows"
#: What rows of one table share.
SHARED = ("model", "grid", "group_size", "blocks", "samples", "batch", "machine")
#: Column -> (figure, digits).
COLUMNS: dict[str, tuple[str, int]] = {
    "perplexity": ("ppl", 2),
    "gap": ("gap", 4),
    "KL": ("kl", 4),
    "top-1 agreement": ("top1", 3),
    "gap, other domain": ("domain_gap", 4),
    "KL, other domain": ("domain_kl", 4),
    "multiple choice": ("choices", 3),
    "tuning s": ("tuning_s", 1),
    "process s": ("process_s", 1),
    "TFLOP": ("tflop", 1),
    "of ceiling": ("of_ceiling", 2),
    "peak GB": ("peak_gb", 2),
    "bits a weight": ("bpw", 3),
    "kept in 16 bit": ("kept_share", 2),
}
#: Program of a method -> what a reader calls it.
PROGRAMS = {
    "ours": "autoround",
    "peer": "auto-round",
    "hqq": "HQQ",
    "gptq": "GPTQ",
    "rtn": "round to nearest",
}
#: Variants of other programs -> how they are switched on.
VARIANTS = {"ext": "`enable_alg_ext`"}


def main() -> None:
    """Replace the sections, save the plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--page", type=Path, help="page to change; without it tables are printed")
    parser.add_argument("--readme", type=Path, help="page that gets the headline table alone")
    parser.add_argument("--plot", type=Path, help="picture to save: .svg or .png")
    args = parser.parse_args()
    contents = store.read(args.file)
    rows = newest([with_gaps(row) for row in contents["rows"].values()])
    tables = "\n\n".join(table(group) for group in grouped(rows, SHARED))
    head = headline(headline_tables(rows))
    if args.page is None:
        print(head, tables, sep="\n\n")
    else:
        text = replaced(args.page.read_text("utf-8"), head, mark=HEADLINE)
        args.page.write_text(replaced(text, tables, mark=ROWS), "utf-8")
    if args.readme is not None:
        text = replaced(args.readme.read_text("utf-8"), head, mark=HEADLINE)
        args.readme.write_text(text, "utf-8")
    if args.plot is not None:
        plot(headline_tables(rows), args.plot)


def with_gaps(row: dict[str, Any]) -> dict[str, Any]:
    """Add the gaps in log-perplexity to the 16-bit model."""
    full = {**row, "gap": math.log(row["ppl"] / row["ppl16"])}
    if row.get("domain_ppl"):
        full["domain_gap"] = math.log(row["domain_ppl"] / row["domain_ppl16"])
    return full


def grouped(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[list[dict[str, Any]]]:
    """Put rows together that agree in some settings."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return [groups[key] for key in sorted(groups, key=str)]


def newest(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep, of each method in each table, the rows of the code that was measured last."""
    kept: list[dict[str, Any]] = []
    for same in grouped(rows, (*SHARED, "name")):
        last = max(same, key=lambda row: str(row.get("measured", "")))
        kept += [row for row in same if row.get("code") == last.get("code")]
    return kept


def by_method(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the seeds of each method together, the least divergence first."""
    methods = [same for same in grouped(rows, ("name",)) if same[0]["method"] != "16bit"]
    return sorted(methods, key=lambda same: statistics.fmean(row["kl"] for row in same))


def headline_tables(rows: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Return the tables that say most: whole models, the most tokens, ours beside another program.

    Rows with a name of their own (variants, what a recipe was before) are left to the full tables.
    """
    plain = [row for row in rows if row["name"] == row["method"] != "16bit" and whole(row)]
    most = max((tokens(row) for row in plain), default=0)
    tables = grouped([row for row in plain if tokens(row) == most], SHARED)
    tables = [group for group in tables if len({program(row) for row in group}) > 1]
    # The most bits first: what users start with.
    return sorted(tables, key=lambda group: (-bits(group[0]), str(group[0]["machine"])))


def headline(tables: Sequence[Sequence[dict[str, Any]]]) -> str:
    """Return one short table of all these, each row with its machine."""
    lines = ["| bits | method | KL | perplexity gap | minutes | peak GB | machine |"]
    lines.append("|---|---|---|---|---|---|---|")
    for group in tables:
        for same in by_method(group):
            minutes = [{"m": row["tuning_s"] / 60} for row in same if row.get("tuning_s")]
            cells = [str(bits(same[0])), label(same[0]), figure(same, "kl", 3)]
            cells += [figure(same, "gap", 3), figure(minutes, "m", 1)]
            cells.append(figure(same, "peak_gb", 1).partition(" ±")[0])  # of seeds, all alike
            lines.append("| " + " | ".join([*cells, machine(same[0])]) + " |")
    return "\n".join(lines)


def label(row: dict[str, Any]) -> str:
    """Name a method as a reader knows it: ours in bold by recipe, other programs with version."""
    name, variant = program(row), row["method"].partition(":")[2]
    if name == "ours":
        return f"**ours, {variant}**"
    version = f" {row['version']}" if row.get("version") else ""
    settings = f", {VARIANTS.get(variant, variant)}" if variant else ""
    return PROGRAMS.get(name, name) + version + settings


def whole(row: dict[str, Any]) -> bool:
    """Tell whether all blocks of the model were quantized."""
    first, _, last = row["blocks"].partition("/")
    return bool(first == last)


def tokens(row: dict[str, Any]) -> int:
    """Return how many calibration tokens a row was made with: ``512x128`` is 65,536."""
    nsamples, _, seqlen = row["samples"].partition("x")
    return int(nsamples) * int(seqlen)


def bits(row: dict[str, Any]) -> int:
    """Return the bits of the codes: ``4s`` is 4, symmetric."""
    return int(row["grid"][:-1])


def program(row: dict[str, Any]) -> str:
    """Return which program a method is of: ``ours:light[…]`` is ours."""
    return str(re.split(r"[:\[]", row["method"])[0])


def model(row: dict[str, Any]) -> str:
    """Return the model's name without the digests behind it."""
    return re.sub(r"(-[0-9a-f]{8})+$", "", row["model"])


def machine(row: dict[str, Any]) -> str:
    """Return the machine in short: ``Intel(R) Xeon(R) Processor, 1 threads`` is a Xeon."""
    short = re.sub(r"\(R\)|Intel|AMD|Processor|, 1 threads$", "", row["machine"])
    return " ".join(short.split())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return one table with all figures: methods in the order of their divergence."""
    heads = ["row", *COLUMNS, "seeds"]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    notes = {}
    for same in by_method(rows):
        cells = [figure(same, key, digits) for key, digits in COLUMNS.values()]
        lines.append("| " + " | ".join([same[0]["name"], *cells, str(len(same))]) + " |")
        if same[0].get("note"):
            notes[same[0]["name"]] = same[0]["note"]
    below = "".join(f"\n\n{name}: {note}." for name, note in notes.items())
    return title(rows) + "\n\n" + "\n".join(lines) + below


def title(rows: Sequence[dict[str, Any]]) -> str:
    """Say what all rows of a table share, and what the 16-bit model reaches."""
    first = rows[0]
    symmetry = "asymmetric" if first["grid"].endswith("a") else "symmetric"
    reached = [f"perplexity {first['ppl16']:.2f}"]
    plain = next((row for row in rows if row["method"] == "16bit"), {})
    if plain.get("choices") is not None:
        reached.append(f"choices {plain['choices']:.3f} of {plain['questions']} questions")
    programs = {
        f"{PROGRAMS.get(program(row), program(row))} {row['version']}"
        for row in rows
        if row.get("version")
    }
    days = sorted({str(row["measured"]) for row in rows if row.get("measured")})
    return (
        f"**{model(first)}, {bits(first)} bits {symmetry}, groups of "
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


def replaced(page: str, text: str, *, mark: str) -> str:
    """Put text between the two comments of a mark.

    Raises:
        SystemExit: the page has no such place.
    """
    begin, end = f"<!-- {mark} -->", f"<!-- /{mark} -->"
    before, opened, rest = page.partition(begin)
    _, closed, after = rest.partition(end)
    if not opened or not closed:
        raise SystemExit(f"the page has no {begin} … {end} to put the tables between")
    return f"{before}{begin}\n{text}\n{end}{after}"


def frontier(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the places (time, divergence) that no other is at least as good as in both."""
    best: list[tuple[float, float]] = []
    for place in sorted(set(places)):
        if not best or place[1] < best[-1][1]:
            best.append(place)
    return best


def plot(tables: Sequence[Sequence[dict[str, Any]]], path: Path) -> None:
    """Plot the divergence from the 16-bit model against the minutes of tuning, a panel a table."""
    import matplotlib

    if not tables:
        raise SystemExit("no table has two programs on a whole model: nothing to plot")
    matplotlib.use("agg")
    matplotlib.rcParams["svg.hashsalt"] = "autoround"  # the same rows give the same bytes
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text: a tenth of the size
    from matplotlib import pyplot

    columns = min(2, len(tables))
    count = -(-len(tables) // columns)
    picture, panels = pyplot.subplots(
        count, columns, figsize=(5 * columns, 3 * count), squeeze=False, sharex=True
    )
    for axes in panels.flat[len(tables) :]:
        axes.set_visible(False)
    for axes, rows in zip(panels.flat, tables, strict=False):
        panel(axes, rows)
    for axes in panels[-1]:
        axes.set_xlabel("tuning, minutes")
    first = tables[0][0]
    picture.suptitle(
        f"{model(first)}, {first['samples'].replace('x', ' × ')} calibration tokens: KL to the "
        "16-bit model against tuning time\nlower left is better; ● autoround, ✕ other programs",
        fontsize=10,
    )
    picture.tight_layout()
    picture.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(picture)


def panel(axes: Any, rows: Sequence[dict[str, Any]]) -> None:
    """Draw one table: a mark and its spread for each method, and the frontier."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    places: list[tuple[float, float]] = []
    for same in by_method([row for row in rows if row.get("tuning_s")]):
        minutes, divergence = [row["tuning_s"] / 60 for row in same], [row["kl"] for row in same]
        place = (statistics.fmean(minutes), statistics.fmean(divergence))
        spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in (minutes, divergence)]
        ours = program(same[0]) == "ours"
        style = {"fmt": "o", "color": "C0"} if ours else {"fmt": "X", "color": "C3"}
        axes.errorbar(*place, xerr=spread[0], yerr=spread[1], capsize=2, **style)
        # The best one's name below its mark, the others' above; inwards at the right edge.
        right, below = place[0] > 6, not places
        axes.annotate(
            re.sub(r"[*`]|ours, |enable_", "", label(same[0])),
            place,
            xytext=(-5 if right else 5, -12 if below else 5),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=8,
        )
        places.append(place)
    axes.step(*zip(*frontier(places), strict=True), where="post", color="0.6", zorder=0)
    axes.set(xscale="log", yscale="log", ylabel="KL, nats a token", xlim=(0.2, 30))
    for axis in (axes.xaxis, axes.yaxis):  # plain numbers: few panels span a power of ten
        axis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    axes.margins(y=0.25)
    axes.set_title(f"{bits(rows[0])} bits, {machine(rows[0])}", fontsize=10)
    axes.grid(visible=True, alpha=0.3)


if __name__ == "__main__":
    main()
