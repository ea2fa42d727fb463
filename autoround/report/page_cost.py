"""The parts of a report about what a run took: by phase, and against what was predicted."""

from __future__ import annotations

from autoround.report.curve import Point, curve_svg
from autoround.report.figures import MISSING, change, decimal, size, span
from autoround.report.folder import RunFolder, mapping, mappings, number, sequence, text
from autoround.report.markup import Cell, Heading, Html, el, join, table
from autoround.report.svg import Spot, bars_svg

#: What phases are called, by their names in the file.
PHASES = {
    "prepare": "prepare",
    "fetch": "fetch weights",
    "score": "score layers",
    "tune": "quantize blocks",
    "end_to_end": "tune end to end",
    "outside": "layers outside",
    "write": "write",
    "verify": "verify",
}


#: Phases that an estimate of time does not count: libraries, downloads and scores come before it.
BEFORE = ("prepare", "fetch", "score")


def phases_part(run: RunFolder) -> Html:
    """Return time and memory by phase: bars and a table.

    Args:
        run: with what it measured; a folder without that has a sentence instead.
    """
    phases = mappings(run.run.get("phases"))
    if not phases:
        return el("p", "This folder was written without the times of its phases.")
    seconds = [number(phase, "seconds") or 0.0 for phase in phases]
    names = [PHASES.get(text(phase, "name"), text(phase, "name")) for phase in phases]
    bars = [Spot(name, time, 0.0) for name, time in zip(names, seconds, strict=True)]
    labels = [span(time) for time in seconds]
    said = ", ".join(f"{name} {label}" for name, label in zip(names, labels, strict=True))
    rows: list[list[Cell | str]] = [
        [
            name,
            Cell(span(time), time),
            Cell(size(peak := number(phase, "peak_bytes")), peak),
        ]
        for name, time, phase in zip(names, seconds, phases, strict=True)
    ]
    headings = [
        Heading("Phase"),
        Heading("Time", numbers=True),
        Heading("Peak memory so far", numbers=True),
    ]
    parts = [
        bars_svg(bars, labels=labels, title="Time by phase", description=said),
        table("Time and memory by phase, up to the end of the checks", headings, rows),
    ]
    if run.run.get("resumed") is True:
        resumed = (
            "The run went on from an interrupted one: these are the times of its last command. "
            "Those of the blocks are in the table of blocks."
        )
        parts.insert(0, el("p", resumed))
    return join(parts)


def predicted_part(run: RunFolder) -> Html:
    """Return what the plan predicted beside what came of it.

    Args:
        run: with the estimate of its plan.
    """
    estimate = mapping(run.run.get("estimate"))
    device = number(estimate, "device_bytes") or 0.0
    # The peak is that of the device where it has memory of its own, else of the process.
    memory = device or number(estimate, "memory_bytes")
    low, high = number(estimate, "seconds_low"), number(estimate, "seconds_high")
    predicted_size = number(run.run, "predicted_bytes")
    actual_size = float(run.weight_bytes) or None
    peak, seconds = number(run.run, "peak_bytes"), _estimated_seconds(run)
    smaller = change(predicted_size, actual_size)
    rows = [
        ["size of the weights", size(predicted_size), size(actual_size), smaller],
        ["peak memory", size(memory), size(peak), change(memory, peak)],
        [
            "time from the first block on",
            *(_range(low, high), span(seconds), _inside(low, high, seconds)),
        ],
    ]
    predicted = number(run.allocation, "predicted_kl")
    if predicted is not None:
        measured = number(run.evaluation, "kl")
        both = (decimal(predicted, 4), decimal(measured, 4), change(predicted, measured))
        rows.append(["KL divergence", *both])
    headings = [
        Heading("What"),
        *(Heading(name, numbers=True) for name in ("Predicted", "Actual", "Difference")),
    ]
    notes = []
    if not estimate:
        notes.append("This folder was written without the estimate of its plan.")
    elif (number(run.run, "formats") or 1) > 1:
        notes.append("Memory and time are those of a run that wrote several formats.")
    shown = table("Predicted by the plan, and measured", headings, rows)
    return join([*(el("p", note) for note in notes), shown])


def _estimated_seconds(run: RunFolder) -> float | None:
    """Return the seconds of the phases that the estimate counts."""
    phases = mappings(run.run.get("phases"))
    if not phases:
        return number(run.run, "seconds")
    return sum(number(x, "seconds") or 0.0 for x in phases if text(x, "name") not in BEFORE)


def _range(low: float | None, high: float | None) -> str:
    return MISSING if low is None or high is None else f"{span(low)} to {span(high)}"


def _inside(low: float | None, high: float | None, seconds: float | None) -> str:
    if low is None or high is None or seconds is None:
        return MISSING
    if low <= seconds <= high:
        return "within"
    return "quicker" if seconds < low else f"{seconds / high:.1f} × the most"


def allocation_part(run: RunFolder) -> Html:
    """Return size against predicted loss, where a budget chose the bits.

    Args:
        run: with its allocation; one without has no such part.
    """
    allocation = run.allocation
    bits, loss = number(allocation, "bits_per_weight"), number(allocation, "predicted_kl")
    if bits is None or loss is None:
        return Html("")
    said = f"Chosen: {bits:.3f} bits a weight at a predicted KL of {loss:.4g} nats a token."
    curve = [
        Point("", x, y)
        for x, y in (_pair(item) for item in sequence(allocation.get("curve")))
        if x is not None and y is not None
    ]
    uniform = [
        Point(text(item, "name"), x, y)
        for item in mappings(allocation.get("uniform"))
        if (x := number(item, "bits")) is not None and (y := number(item, "loss")) is not None
    ]
    parts = [el("p", said)]
    if curve:
        measured = number(run.evaluation, "kl")
        svg = curve_svg(
            curve,
            chosen=[Point(f"chosen, {bits:.2f} bits", bits, loss)],
            others=uniform,
            measured=[] if measured is None else [Point("measured", bits, measured)],
            title="Size against predicted loss",
        )
        box = {"class": "scroll curve", "tabindex": "0", "role": "group"}
        box["aria-label"] = "Size against predicted loss"
        parts.append(el("div", Html(svg), attrs=box))
    if uniform:
        headings = [Heading("For all layers"), Heading("Bits", True), Heading("Predicted KL", True)]
        rows = [[point.name, f"{point.bits:.3f}", f"{point.loss:.4g}"] for point in uniform]
        parts.append(table("One option for all layers instead", headings, rows))
    return join(parts)


def _pair(item: object) -> tuple[float | None, float | None]:
    values = sequence(item)
    if len(values) != 2:
        return None, None
    return number({"x": values[0]}, "x"), number({"y": values[1]}, "y")
