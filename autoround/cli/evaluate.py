"""``autoround eval``: how good a model is on a text or at tasks, and how far from its original."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo, make_console, tell_start
from autoround.cli._quiet import quiet_libraries
from autoround.errors import UsageError

if TYPE_CHECKING:
    from autoround.evaluate.tasks.run import TaskOptions

app = typer.Typer()


@app.command("eval", short_help="Score a model on a text or at tasks, beside its original.")
def evaluate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Quantized output folder, or any model.")
    ],
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
    tasks: Annotated[
        list[str] | None,
        typer.Option(
            "--tasks",
            "--task",
            metavar="NAMES",
            help="Tasks in place of the text: .jsonl files of multiple choice questions; names "
            "and .yaml files of lm-eval's tasks. Several with commas between.",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Questions of each task at most.")
    ] = None,
    shots: Annotated[
        int | None,
        typer.Option(
            "--num-fewshot",
            "--num_fewshot",
            min=0,
            help="Solved questions before each; by default what the task of lm-eval says.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch-size", "--batch_size", "--eval_bs", min=1, help="Answers scored at once."
        ),
    ] = 8,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="What runs the tasks: torch, or llama.cpp for GGUF files; auto takes llama.cpp "
            "for these where xllamacpp is installed.",
        ),
    ] = "auto",
    save_questions: Annotated[
        Path | None,
        typer.Option(
            "--save-questions",
            "--save_questions",
            metavar="FILE",
            help="Write the figures of each question of the tasks, a JSON object a line.",
        ),
    ] = None,
    device: options.Device = "auto",
    save: Annotated[
        bool,
        typer.Option(
            "--save", help="Keep the scores beside the model, for 'report' and 'compare'."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Print the perplexity of a model on a text, or its figures in tasks.

    \b
    With a model of your own, and with tasks:
      autoround eval out --text book.txt --original path/to/model --save
      autoround eval out --tasks arc_easy,questions.jsonl --limit 200

    \b
    Examples:
      autoround eval out                             # what quantize -o out wrote
      autoround eval out --max-tokens 2048 --json
    """
    tell_start(stderr=True)
    from autoround.report.saved import check_saves
    from autoround.storage.json_text import to_json

    _check_task_options(
        tasks,
        {
            "--limit": limit,
            "--num-fewshot": shots,
            "--save-questions": save_questions,
            "--engine": None if engine == "auto" else engine,
        },
    )
    model = options.at_revision(model, revision)
    folder = check_saves(model) if save else None
    scored = Scored(model, original, device, folder, silent=as_json)
    values: dict[str, Any] = {}
    if not tasks or text is not None:
        values = _score_text(scored, text=text, seqlen=seqlen, max_tokens=max_tokens)
    if tasks:
        from autoround.evaluate.tasks.run import TaskOptions

        chosen = TaskOptions(limit, shots, batch_size, device, engine)
        values["tasks"] = _score_tasks(scored, tasks, chosen, save_questions=save_questions)
    if as_json:
        echo(to_json(values))


@dataclass(frozen=True, slots=True)
class Scored:
    """What is scored: a model, and what it is compared with.

    device: by name. folder: that keeps the scores; None to keep none. silent: print no lines.
    """

    model: str
    original: str | None
    device: str
    folder: Path | None
    silent: bool


def _check_task_options(tasks: list[str] | None, task_options: dict[str, object]) -> None:
    """Refuse options of tasks where no task is named."""
    if tasks:
        return
    for name, value in task_options.items():
        if value is not None:
            raise UsageError(f"{name} is an option of --tasks; name tasks, or leave it out")


def _score_text(
    scored: Scored, *, text: Path | None, seqlen: int, max_tokens: int
) -> dict[str, Any]:
    """Score a model on a text; returns the scores as plain values."""
    from autoround.evaluate.compare import compare
    from autoround.report.evaluation import evaluation_lines, prediction_lines
    from autoround.report.saved import save_evaluation, text_name
    from autoround.report.windows import WindowProgress

    # What is printed on stdout is the scores alone.
    progress = WindowProgress(make_console(stderr=True))
    with quiet_libraries():
        scores = compare(
            scored.model,
            scored.original,
            text=text,
            seqlen=seqlen,
            max_tokens=max_tokens,
            device=scored.device,
            on_window=progress,
        )
    if not scored.silent:
        for line in evaluation_lines(scores) + prediction_lines(scored.model, scores):
            echo(line)
    if scored.folder is not None:
        save_evaluation(
            scored.folder,
            scores,
            text=text_name(text),
            original=scored.original,
            seqlen=seqlen,
        )
    return dataclasses.asdict(scores)


def _score_tasks(
    scored: Scored, tasks: list[str], chosen: TaskOptions, *, save_questions: Path | None
) -> list[dict[str, Any]]:
    """Score a model at tasks; returns the figures as plain values."""
    from autoround.evaluate.tasks.run import run_tasks
    from autoround.evaluate.tasks.scores import score_values
    from autoround.report import saved
    from autoround.report.task_scores import task_lines
    from autoround.report.windows import WindowProgress

    progress = WindowProgress(make_console(stderr=True), unit="answer")
    with quiet_libraries():
        scores = run_tasks(scored.model, tasks, scored.original, options=chosen, on_answer=progress)
    if not scored.silent:
        for line in task_lines(scores):
            echo(line)
    if scored.folder is not None:
        saved.save_tasks(scored.folder, scores, original=scored.original)
    if save_questions is not None:
        saved.save_questions(save_questions, scores)
    return [score_values(score) for score in scores]
