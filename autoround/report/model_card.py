"""``README.md`` beside a quantized model: its card on the hub, made of what the folder holds.

A card is ours while it has the two marks; what stands outside of them, and metadata that somebody
changed, stay as they are when it is written again.
"""

from __future__ import annotations

import dataclasses
import shlex
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoround.model.files.embedded import NAME as EMBEDDED
from autoround.model.files.origin import CARD_FILE, Origin, read_metadata, read_origin
from autoround.planning.serving.table import engine_table
from autoround.report.figures import MISSING, change, decimal, percent, size
from autoround.report.folder import RunFolder, mapping, mappings, number, read_folder, text
from autoround.report.markdown import code, code_block, plain, table
from autoround.report.page import format_name, model_name
from autoround.report.page_settings import repeat_command
from autoround.report.task_scores import with_error
from autoround.storage.durable import write_text

BEGIN, END = "<!-- autoround: begin -->", "<!-- autoround: end -->"
#: What stands for the folder in commands.
PLACE = "path/to/this/model"
#: Evidence that counts as checked: served, or loaded and its weights compared.
CHECKED = ("run", "loaded")
#: Libraries of the hub by the format; transformers reads the others.
LIBRARIES = {"mlx": "mlx"}


def write_card(folder: Path, origin: Origin | None = None) -> Path | None:
    """Write the card of an output folder; a card that somebody else wrote is left alone.

    Args:
        folder: of one format.
        origin: of the model; None where that is known from an earlier card and the plan alone.

    Returns:
        The file; None where it is somebody else's.

    Raises:
        ModelError: the folder is no output of a run.
        OutputError: the card cannot be written.
    """
    path = folder / CARD_FILE
    before = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if before and (BEGIN not in before or END not in before):
        return None
    run = read_folder(folder)
    files = sorted(file.name for file in folder.glob("*.gguf"))
    known = origin or read_origin(None, text(run.plan, "model"))
    write_text(path, card_text(run, known, files=files, before=before, earlier=read_metadata(path)))
    return path


def card_text(
    run: RunFolder,
    origin: Origin,
    *,
    files: list[str],
    before: str = "",
    earlier: Mapping[str, Any] | None = None,
) -> str:
    """Return a model card: the same text for the same values.

    Args:
        run: what the output folder says of it.
        origin: of the model.
        files: names of its GGUF files.
        before: the card as it is; empty for none.
        earlier: the metadata in it.
    """
    from huggingface_hub import ModelCard, ModelCardData

    values: dict[str, Any] = {**_metadata(run, origin, gguf=bool(files)), **dict(earlier or {})}
    base = values.get("base_model")
    license_ = values.get("license")
    shown = dataclasses.replace(
        origin,
        base_model=base if isinstance(base, str) else None,
        license=license_ if isinstance(license_, str) else None,
    )
    body = f"{BEGIN}\n{_body(run, shown, files=files)}\n{END}"
    if before:
        head, _, rest = before.partition(BEGIN)
        tail = rest.rpartition(END)[2]
        front, end, above = head.partition("\n---")
        body = f"{above.lstrip() if end and front.startswith('---') else head}{body}{tail}"
    data = ModelCardData(ignore_metadata_errors=True, **values)
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body.rstrip()}\n"))


def _metadata(run: RunFolder, origin: Origin, *, gguf: bool) -> dict[str, Any]:
    """Return the hub's metadata of a model; keys without a value are left out."""
    name = format_name(run)
    bits = sorted({number(scheme, "bits") or 0.0 for scheme in _schemes(run)})
    tags = ["quantized", "autoround-toolkit", *(f"{width:.0f}-bit" for width in bits)]
    values = {
        "base_model": origin.base_model,
        "base_model_relation": "quantized" if origin.base_model else None,
        "license": origin.license,
        "license_name": origin.license_name,
        "license_link": origin.license_link,
        "language": list(origin.language) or None,
        "library_name": "gguf" if gguf else LIBRARIES.get(name, "transformers"),
        "pipeline_tag": origin.pipeline_tag or "text-generation",
        "tags": [*tags, name.partition(":")[0].replace("_", "-")],
    }
    return {key: value for key, value in values.items() if value is not None}


def _schemes(run: RunFolder) -> list[Mapping[str, Any]]:
    """Return the scheme of every quantized layer."""
    blocks = mappings(run.plan.get("blocks"))
    layers = [layer for block in blocks for layer in mappings(block.get("layers"))]
    return [mapping(layer.get("scheme")) for layer in layers if layer.get("scheme")]


def _body(run: RunFolder, origin: Origin, *, files: list[str]) -> str:
    """Return the part of the card that is ours."""
    name = plain(origin.base_model or model_name(run))
    program = f"autoround {plain(text(run.plan, 'version'))}"
    what = f"{name}, quantized by {program} to {code(format_name(run))}."
    parts = [f"# {name}, quantized", what]
    failed = _failures(run)
    if failed:
        reasons = "; ".join(map(plain, failed))
        parts.append(f"**It missed the gate of its run: {reasons}.**")
    parts += ["## How it is made", _making(run), *_scores(run), *_tasks(run)]
    parts += ["## Loading", *_loading(run, files), "## The same again", *_repeating(run, origin)]
    if origin.license is None:
        parts += ["## License", "That of the original model, which its files did not name."]
    return "\n\n".join(part for part in parts if part)


def _failures(run: RunFolder) -> list[object]:
    gate = mapping(run.evaluation.get("gate"))
    failures = gate.get("failures")
    return failures if isinstance(failures, list) and gate.get("passed") is False else []


def _making(run: RunFolder) -> str:
    """Return what was done to the model, as a table."""
    counts = Counter(_scheme_name(scheme) for scheme in _schemes(run))
    schemes = ", ".join(f"{name} ({count} layers)" for name, count in counts.most_common())
    kept = mappings(run.plan.get("kept"))
    before = number(run.run, "estimate", "source_bytes")
    packing = text(mapping(run.run.get("output")), "packing")
    rows = [
        ["scheme", schemes],
        ["bits a weight", decimal(number(run.run, "bits_per_weight"), 2)],
        ["weights on disk", f"{size(before)} → {size(float(run.weight_bytes) or None)}"],
        ["packing", code(packing)],
        ["method", plain(text(run.run, "method"))],
        ["calibration data", plain(text(run.plan, "calibration"))],
        ["kept in 16 bit", ", ".join(code(text(layer, "name")) for layer in kept[:8])],
    ]
    return table(["", ""], [row for row in rows if row[1] and row[1] != MISSING])


def _scheme_name(scheme: Mapping[str, Any]) -> str:
    bits, group = number(scheme, "bits") or 0.0, number(scheme, "group_size") or 0.0
    groups = {-1.0: "a scale for each row", 0.0: "one scale"}.get(group, f"groups of {group:.0f}")
    kind = "symmetric" if scheme.get("sym") is True else "asymmetric"
    return f"{bits:.0f} bits, {groups}, {kind}"


def _scores(run: RunFolder) -> list[str]:
    """Return scores on a text; nothing where none were measured."""
    scores = run.evaluation
    perplexity, before = number(scores, "perplexity"), number(scores, "reference_perplexity")
    if perplexity is None:
        return []
    rows = [
        [
            "perplexity",
            decimal(before, 3),
            decimal(perplexity, 3),
            change(before, perplexity),
        ],
        ["KL divergence, nats a token", "", decimal(number(scores, "kl"), 4), ""],
        ["top-1 agreement", "", percent(number(scores, "top1_agreement")), ""],
    ]
    kept = [row for row in rows if row[2] != MISSING]
    on = f"On {plain(text(scores, 'text'))}, {decimal(number(scores, 'tokens'), 0)} tokens."
    return ["## Scores", on, table(["", "original", "quantized", "change"], kept)]


def _tasks(run: RunFolder) -> list[str]:
    """Return figures of tasks; nothing where none were measured."""
    rows, made = [], []
    for score in mappings(run.evaluation.get("tasks")):
        made.append(f"{text(score, 'scorer')}, run by {text(score, 'engine')}")
        rows += [
            [
                plain(text(score, "task")),
                plain(text(metric, "name")),
                with_error(number(metric, "original"), number(metric, "original_stderr")),
                with_error(number(metric, "value"), number(metric, "stderr")),
                decimal(number(score, "questions"), 0),
                decimal(number(score, "shots"), 0),
            ]
            for metric in mappings(score.get("metrics"))
        ]
    if not rows:
        return []
    headings = ["task", "figure", "original", "quantized", "questions", "shots"]
    by = "; ".join(plain(line) for line in dict.fromkeys(made))
    return ["## Tasks", f"With standard errors, by {by}.", table(headings, rows)]


def _loading(run: RunFolder, files: list[str]) -> list[str]:
    """Return how engines that were checked load the model."""
    parts = []
    if not files:
        loading = f'import autoround\n\nmodel = autoround.load("{PLACE}")'
        parts.append(code_block(loading, "python"))
    lines = []
    table_of_engines = engine_table()
    findings = mappings(run.run.get("serving"))
    for name, engine in table_of_engines.items():
        about = [finding for finding in findings if text(finding, "engine") == name]
        taken = [finding for finding in about if text(finding, "effect") == "takes"]
        if len(about) != 1 or len(taken) != 1:
            continue  # with limits, or not at all
        evidence = text(taken[0], "evidence")
        if not evidence.startswith(CHECKED):
            continue
        command = text(taken[0], "instead").replace("FOLDER", PLACE)
        command = command.replace("FILE.gguf", shlex.quote(files[0]) if files else "FILE.gguf")
        version = plain(text(taken[0], "version"))
        seen = plain(evidence)
        lines.append(f"- {engine.title} {version} (checked: {seen}): {code(command)}")
    if lines:
        parts.append("Engines that this format was checked with:\n\n" + "\n".join(lines))
    return parts or ["See the documentation of the format."]


def _repeating(run: RunFolder, origin: Origin) -> list[str]:
    """Return the command that makes the same files again."""
    if run.run.get("in_memory") is True or run.run.get("own_data") is True:
        return [f"Its model or its data came from Python; the recipe is {code('recipe.yaml')}."]
    model = text(run.plan, "model")
    public = model if model == EMBEDDED else origin.base_model or "path/to/the/original"
    # Paths of the machine that it was made on are nobody's business.
    shown = dataclasses.replace(run, plan={**run.plan, "model": public})
    return [
        f"With {code('recipe.yaml')} of this repository:",
        code_block(f"pip install autoround-toolkit\n{repeat_command(shown)}", "sh"),
    ]
