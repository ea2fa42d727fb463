"""Tasks run on a model, and on its original beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from autoround.errors import UsageError
from autoround.evaluate.tasks.harness import HarnessOptions, check_tasks, run_harness
from autoround.evaluate.tasks.model import OnAnswer, TaskModel
from autoround.evaluate.tasks.multiple_choice import ask_questions
from autoround.evaluate.tasks.open import open_task_model
from autoround.evaluate.tasks.questions import read_questions
from autoround.evaluate.tasks.scores import TaskScore, beside_original

#: Ending of a file of questions.
QUESTIONS = ".jsonl"


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """How tasks are run.

    limit: questions of each task; None for all. shots: solved questions before each; None as the
    task has it. batch_size: sequences that are run at once. device: by name. engine: auto, torch
    or llama.cpp.
    """

    limit: int | None = None
    shots: int | None = None
    batch_size: int = 8
    device: str = "auto"
    engine: str = "auto"


def run_tasks(
    model: str | Path,
    tasks: Sequence[str],
    original: str | Path | None = None,
    *,
    options: TaskOptions,
    on_answer: OnAnswer | None = None,
) -> list[TaskScore]:
    """Score a model on tasks; with an original, both.

    Args:
        model: Folder or hub id, or a GGUF file that llama.cpp runs.
        tasks: Paths of .jsonl files of questions, and tasks of lm-eval by name or .yaml file.
        original: The unquantized model; None to score the model alone.
        options: How they are run.
        on_answer: Called with the number of requests that are answered, and of all; with none of
            them when a model is loaded.

    Returns:
        The figures of each task, files of questions first.

    Raises:
        UsageError: A task is not there, an option does not fit, or a package is not installed.
        DataError: Questions cannot be read, or a task fails.
        ModelError: A model cannot be loaded.
    """
    files, names = split_tasks(tasks)
    questions = {file: read_questions(file, limit=options.limit) for file in files}
    if files and options.shots:
        raise UsageError(
            f"--num-fewshot {options.shots}: questions of {files[0]} are asked without solved ones "
            "before them; leave the option out, or write a .yaml task for lm-eval"
        )
    if names:
        check_tasks(names)

    def score(name: str | Path) -> list[TaskScore]:
        opened = open_task_model(
            name, engine=options.engine, device=options.device, batch_size=options.batch_size
        )
        try:
            if on_answer is not None:
                on_answer(0, 0)
            scores = [
                ask_questions(opened, questions[file], task=file.stem, on_answer=on_answer)
                for file in files
            ]
            return scores + _run_named(opened, names, options, on_answer)
        finally:
            opened.close()

    scores = score(model)
    if original is None:
        return scores
    # One model in memory at a time.
    before = {result.task: result for result in score(original)}
    return [beside_original(result, before[result.task]) for result in scores]


def _run_named(
    model: TaskModel, names: Sequence[str], options: TaskOptions, on_answer: OnAnswer | None
) -> list[TaskScore]:
    if not names:
        return []
    chosen = HarnessOptions(options.shots, options.limit)
    return run_harness(model, names, chosen, on_answer=on_answer)


def split_tasks(tasks: Sequence[str]) -> tuple[list[Path], list[str]]:
    """Sort tasks into files of questions, and those of lm-eval.

    Args:
        tasks: as --tasks takes them; each may be several with commas between.

    Raises:
        UsageError: none is named, or two would have one name.
    """
    words = [word.strip() for text in tasks for word in text.split(",") if word.strip()]
    if not words:
        raise UsageError("--tasks names no task; name a .jsonl file of questions or a task")
    files = [Path(word).expanduser() for word in words if word.endswith(QUESTIONS)]
    names = [word for word in words if not word.endswith(QUESTIONS)]
    called = [file.stem for file in files] + names
    for name in called:
        if called.count(name) > 1:
            raise UsageError(f"--tasks names {name!r} twice; name each task once")
    return files, names
