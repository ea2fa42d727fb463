"""The parts of a report about how a run was made: notes, texts, settings, versions, the command."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from autoround.model.files.embedded import NAME as EMBEDDED
from autoround.report.folder import RunFolder, mapping, number, sequence, text
from autoround.report.markup import Heading, Html, el, escape, join, table

#: Where the command writes, which must not be there yet.
AGAIN = "again"


def notes_part(run: RunFolder) -> Html:
    """Return the notes of the plan and the warnings of the run; empty where there are none.

    Args:
        run: with its plan, and what it measured.
    """
    notes = [note for note in sequence(run.plan.get("notes")) if isinstance(note, str)]
    warnings = [note for note in sequence(run.run.get("warnings")) if isinstance(note, str)]
    items = [el("li", note) for note in notes]
    items += [el("li", el("strong", "Warning: "), note) for note in warnings]
    return el("ul", *items) if items else Html("")


def generations_part(run: RunFolder) -> Html:
    """Return texts that the models continued; empty where none were asked for.

    Args:
        run: with its texts; those of the original stand beside where there are any.
    """
    parts = []
    for item in run.generations:
        columns = [("Original", "original"), ("Quantized", "quantized")]
        boxes = [
            el("div", el("h4", name), el("pre", _mark_token(item, key)))
            for name, key in columns
            if text(item, key)
        ]
        parts.append(el("h3", "Prompt: ", text(item, "prompt")))
        parts.append(el("div", *boxes, attrs={"class": "texts"}))
        if len(boxes) == 2 and "difference" in item:
            parts.append(el("p", _parting(item), attrs={"class": "soft"}))
    return join(parts)


def _mark_token(item: Mapping[str, Any], key: str) -> Html:
    """Return a text with the first token marked that the other one does not share."""
    words = text(item, key)
    span = sequence(mapping(item.get("difference")).get(key))
    if len(span) != 2 or not all(type(place) is int for place in span):
        return escape(words)
    start, end = span
    if not 0 <= start <= end <= len(words):
        return escape(words)
    # Without a character of its own, such as at the end of a text, a sign stands for the token.
    token = words[start:end] or "⟂"
    return join([escape(words[:start]), el("mark", token), escape(words[end:])])


def _parting(item: Mapping[str, Any]) -> str:
    """Say where two texts part."""
    token = number(item, "difference", "token")
    if token is None:
        return "The two are the same, token by token."
    count = "No token is" if token == 0 else f"The first {token:.0f} tokens are"
    count = "The first token is" if token == 1 else count
    return f"{count} the same; the first that differs is marked."


def recipe_part(run: RunFolder) -> Html:
    """Return the settings that were in force, and the recipe that they come from.

    Args:
        run: with its plan and its recipe.
    """
    settings = dict(_flat(mapping(run.plan.get("tuning"))))
    rows = [
        ["method", text(run.run, "method")],
        ["calibration", text(run.plan, "calibration")],
        ["device", text(run.plan, "device")],
        *([f"tuning.{key}", value] for key, value in settings.items()),
    ]
    headings = [Heading("Setting"), Heading("Value")]
    shown = table(
        "Settings in force, every auto settled", headings, [row for row in rows if row[1]]
    )
    parts = [shown]
    if run.recipe:
        parts += [el("h3", "Recipe"), el("pre", run.recipe, attrs={"tabindex": "0"})]
    return join(parts)


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            # What single layers have of their own is in the recipe.
            if len(value) <= 4 and not any(isinstance(item, list | dict) for item in value):
                yield prefix + key, ", ".join(map(str, value)) or "none"
        else:
            yield prefix + key, "yes" if value is True else "no" if value is False else str(value)


def command_part(run: RunFolder) -> Html:
    """Return the command that repeats the run, or why there is none.

    Args:
        run: with its plan.
    """
    if run.run.get("in_memory") is True or run.run.get("own_data") is True:
        what = "model" if run.run.get("in_memory") is True else "calibration data"
        return el(
            "p",
            f"The {what} came from Python: repeat the run there, with ",
            el("code", "recipe.yaml"),
            " of this folder as its recipe.",
        )
    said = "With recipe.yaml of this folder; a relative path of the model is that of the first run."
    return join([el("p", said), el("pre", repeat_command(run), attrs={"tabindex": "0"})])


def repeat_command(run: RunFolder) -> str:
    """Return the command that repeats a run, with what its machine settled.

    Args:
        run: whose model and settings the plan has.
    """
    model, revision = text(run.plan, "model"), text(run.plan, "revision")
    words = ["autoround", "quantize", *([] if model == EMBEDDED else [model])]
    words += ["--revision", revision] if revision else []
    words += ["--recipe", "recipe.yaml", "--device", text(run.plan, "device") or "auto"]
    threads = number(run.plan, "tuning", "threads")
    words += ["--threads", f"{threads:.0f}"] if threads else []
    dtype = text(mapping(run.plan.get("tuning")), "compute_dtype")
    words += ["--set", f"tuning.compute_dtype={dtype}"] if dtype else []
    return shlex.join([*words, "--output-dir", AGAIN])


def versions_part(run: RunFolder) -> Html:
    """Return the versions that a run was made with.

    Args:
        run: whose plan names that of this program, and whose figures those of others.
    """
    versions = mapping(run.run.get("versions")) or {"autoround": text(run.plan, "version")}
    rows = [[name, str(value)] for name, value in versions.items()]
    system = text(run.run, "system")
    rows += [["system", system]] if system else []
    return table("Versions", [Heading("Package"), Heading("Version")], rows)
