"""``report.html``: one run as a page of its own, readable without network and script."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from autoround.formats.checkpoints import format_among
from autoround.report.figures import MISSING, change, decimal, percent, size, span
from autoround.report.folder import RunFolder, mapping, mappings, number, text
from autoround.report.markup import Heading, Html, el, join, table
from autoround.report.page_cost import allocation_part, phases_part, predicted_part
from autoround.report.page_layers import bits_part, errors_part, losses_part
from autoround.report.page_settings import (
    command_part,
    generations_part,
    notes_part,
    recipe_part,
    versions_part,
)
from autoround.report.style import policy, style_and_script
from autoround.report.task_scores import tasks_part

#: Name of the file.
REPORT_FILE = "report.html"
#: A figure: what it is called, its value, and what is said below it.
Figure = tuple[str, str, str]


def report_page(run: RunFolder) -> str:
    """Return the report of a run: the same text for the same values.

    Args:
        run: what the output folder says of it.
    """
    parts = (
        ("Notes and warnings", "notes", notes_part(run)),
        ("Quality", "quality", _quality_part(run)),
        ("Tasks", "tasks", tasks_part(run)),
        ("Loss by block", "losses", losses_part(run)),
        ("Bits by layer", "bits", bits_part(run)),
        ("Error by layer", "errors", errors_part(run)),
        ("Size against predicted loss", "allocation", allocation_part(run)),
        ("Predicted and actual", "predicted", predicted_part(run)),
        ("Time and memory", "phases", phases_part(run)),
        ("Generated texts", "texts", generations_part(run)),
        ("Recipe and settings", "recipe", recipe_part(run)),
        ("Command", "command", command_part(run)),
        ("Versions", "versions", versions_part(run)),
    )
    shown = [(title, mark, content) for title, mark, content in parts if content]
    name = model_name(run)
    head = el("header", el("h1", name), el("p", _subtitle(run), attrs={"class": "soft"}))
    sections = [
        el("section", el("h2", title, attrs={"id": mark}), content)
        for title, mark, content in shown
    ]
    links = [el("li", el("a", title, attrs={"href": f"#{mark}"})) for title, mark, _ in shown]
    contents = el("nav", el("ul", *links), attrs={"aria-label": "Contents"})
    figures = figure_list(headline(run))
    return document(f"{name}: quantization report", [head, figures, contents, *sections])


def document(title: str, parts: Sequence[Html]) -> str:
    """Return a whole page.

    Args:
        title: of the page.
        parts: what is on it.
    """
    style, script = style_and_script()
    policies = {"http-equiv": "Content-Security-Policy", "content": policy()}
    view = {"name": "viewport", "content": "width=device-width, initial-scale=1"}
    head = el(
        "head",
        el("meta", attrs={"charset": "utf-8"}),
        el("meta", attrs=policies),
        el("meta", attrs=view),
        el("title", title),
        style,
    )
    body = el("body", el("main", *parts), script)
    return "<!DOCTYPE html>\n" + el("html", head, body, attrs={"lang": "en"}) + "\n"


def model_name(run: RunFolder) -> str:
    """Return what a run's model is called, without the folders before it."""
    return PurePath(text(run.plan, "model")).name or "model"


def format_name(run: RunFolder) -> str:
    """Return the format that a folder holds.

    Folders of version 0.1 have no file that says so, and a plan of all formats of their run: there
    the config tells which, and the first of the plan is taken where it does not.
    """
    output = mapping(run.run.get("output"))
    outputs = mappings(run.plan.get("outputs"))
    said = text(output, "format")
    if said or len(outputs) < 2:
        return said or (text(outputs[0], "format") if outputs else "")
    planned = {text(x, "format"): text(x, "packing") for x in outputs}
    return format_among(planned, run.quantization)


def _subtitle(run: RunFolder) -> str:
    finished = text(run.run, "finished").replace("T", " ").replace("+00:00", " UTC")
    words = [
        f"format {format_name(run)}",
        text(run.run, "method"),
        text(run.plan, "architecture"),
        f"finished {finished}" if finished else "",
    ]
    return " · ".join(word for word in words if word)


def headline(run: RunFolder) -> list[Figure]:
    """Return the figures that a reader wants first.

    Args:
        run: figures that it lacks are left out, but for size and bits.
    """
    before = number(run.run, "estimate", "source_bytes")
    after = float(run.weight_bytes) or None
    smaller = f"{before / after:.1f} times smaller" if before and after else ""
    bits, seconds = number(run.run, "bits_per_weight"), number(run.run, "seconds")
    tuning = sum(number(result, "seconds") or 0.0 for result in run.results)
    peak = number(run.run, "peak_bytes") or max(
        (number(result, "peak_bytes") or 0.0 for result in run.results), default=0.0
    )
    resumed = run.run.get("resumed") is True
    figures = [
        ("Size", f"{size(before)} → {size(after)}" if before else size(after), smaller),
        ("Bits a weight", decimal(bits, 2), "of quantized layers, scales counted"),
        *_quality_figures(run),
        (
            "Time",
            span(seconds if seconds is not None else tuning),
            "of the last command" if resumed else "" if seconds is not None else "of the blocks",
        ),
        ("Peak memory", size(peak or None), text(run.plan, "device")),
    ]
    return figures


def _quality_figures(run: RunFolder) -> list[Figure]:
    scores = run.evaluation
    perplexity, before = number(scores, "perplexity"), number(scores, "reference_perplexity")
    if perplexity is None:
        return []
    shown = decimal(perplexity, 3)
    both = f"{decimal(before, 3)} → {shown}" if before is not None else shown
    figures = [("Perplexity", both, change(before, perplexity) if before is not None else "")]
    kl = number(scores, "kl")
    if kl is not None:
        agreement = percent(number(scores, "top1_agreement"))
        figures.append(("KL divergence", decimal(kl, 4), f"top-1 agreement {agreement}"))
    return figures


def figure_list(figures: Sequence[Figure]) -> Html:
    """Return figures as a list of definitions, drawn as boxes."""
    boxes = [
        el(
            "div",
            el("dt", name),
            el("dd", value),
            *([el("dd", more, attrs={"class": "more soft"})] if more else []),
        )
        for name, value, more in figures
    ]
    return el("dl", *boxes, attrs={"class": "figures"})


def _quality_part(run: RunFolder) -> Html:
    scores = run.evaluation
    if number(scores, "perplexity") is None:
        return el(
            "p",
            "Not evaluated. ",
            el("code", "autoround eval FOLDER --original MODEL --save"),
            " scores the folder, and writes this page again.",
        )
    tokens, seqlen = number(scores, "tokens"), number(scores, "seqlen")
    rows = [
        ["perplexity of the original", decimal(number(scores, "reference_perplexity"), 3)],
        ["perplexity of the quantized model", decimal(number(scores, "perplexity"), 3)],
        ["KL divergence, nats a token", decimal(number(scores, "kl"), 4)],
        ["top-1 agreement", percent(number(scores, "top1_agreement"))],
        ["tokens scored", decimal(tokens, 0)],
        ["tokens of a window", decimal(seqlen, 0)],
    ]
    named = [row for row in rows if row[1] != MISSING]
    headings = [Heading("What"), Heading("Value", numbers=True)]
    shown = table("Scores of the written files", headings, named)
    name = text(scores, "text")
    return join([shown, *([el("p", f"Text: {name}.")] if name else [])])
