"""``autoround eval``: how good a model is on a text, and how far from its original."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo, make_console, tell_start
from autoround.cli._quiet import quiet_libraries

app = typer.Typer()


@app.command("eval")
def evaluate(
    model: Annotated[str, typer.Argument(help="Quantized output folder, or any model.")],
    revision: options.Revision = None,
    text: Annotated[
        Path | None,
        typer.Option("--text", help="File to score on; by default held-back embedded text."),
    ] = None,
    original: Annotated[
        str | None,
        typer.Option("--original", help="16-bit model to compare with: adds KL and agreement."),
    ] = None,
    seqlen: Annotated[int, typer.Option("--seqlen", min=2, help="Tokens per window.")] = 1024,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", "--max_tokens", min=2, help="Tokens read at most.")
    ] = 16384,
    device: options.Device = "auto",
    save: Annotated[
        bool,
        typer.Option(
            "--save", help="Keep the scores beside the model, for 'report' and 'compare'."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the perplexity of a model on a text.

    \b
    With a model of your own:
      autoround eval out --text book.txt --original path/to/model --save

    \b
    Examples:
      autoround eval out                             # what quantize -o out wrote
      autoround eval out --max-tokens 2048 --json
    """
    tell_start(stderr=True)
    from autoround.evaluate.compare import compare
    from autoround.report.evaluation import evaluation_lines, prediction_lines
    from autoround.report.saved import check_saves, save_evaluation, text_name
    from autoround.report.windows import WindowProgress
    from autoround.storage.json_text import to_json

    model = options.at_revision(model, revision)
    folder = check_saves(model) if save else None
    # What is printed on stdout is the scores alone.
    progress = WindowProgress(make_console(stderr=True))
    with quiet_libraries():
        scores = compare(
            model,
            original,
            text=text,
            seqlen=seqlen,
            max_tokens=max_tokens,
            device=device,
            on_window=progress,
        )
    if as_json:
        echo(to_json(dataclasses.asdict(scores)))
    else:
        for line in evaluation_lines(scores) + prediction_lines(model, scores):
            echo(line)
    if folder is not None:
        save_evaluation(folder, scores, text=text_name(text), original=original, seqlen=seqlen)
