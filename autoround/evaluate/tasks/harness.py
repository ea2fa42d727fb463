"""Tasks of lm-eval: its prompts, answers and figures, with our models behind them.

lm-eval is optional and imported by name, where a task of its own is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import importlib.util
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoround.errors import AutoRoundError, DataError, UsageError, one_line
from autoround.evaluate.tasks.model import (
    Likelihood,
    OnAnswer,
    Request,
    TaskModel,
    encode_pair,
)
from autoround.evaluate.tasks.scores import Metric, QuestionScore, TaskScore

PACKAGE, EXTRA = "lm_eval", "pip install 'autoround-toolkit[eval]'"
#: What lm-eval draws solved questions by, and the tokens it generates, where nothing is said.
SEED, MAX_NEW_TOKENS = 1234, 256


@dataclass(frozen=True, slots=True)
class HarnessOptions:
    """How tasks are run.

    shots: solved questions before each; None as the task has it. limit: questions of each task;
    None for all.
    """

    shots: int | None = None
    limit: int | None = None


def check_tasks(names: Sequence[str]) -> None:
    """Refuse tasks that lm-eval does not have, before a model is loaded.

    Args:
        names: of tasks, groups and tags, or paths of .yaml files.

    Raises:
        UsageError: lm-eval is not installed, or a task is not there.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise UsageError(
            f"{', '.join(names)}: tasks that are no .jsonl file of questions are run by lm-eval, "
            f"which is not installed; run: {EXTRA}"
        )
    known = _open_manager(names).all_tasks
    for name in names:
        if _is_file(name):
            if not Path(name).is_file():
                raise UsageError(f"--tasks {name}: there is no such file")
        elif name not in known:
            near = difflib.get_close_matches(name, known, n=3)
            hint = f"did you mean {', '.join(near)}? " if near else ""
            raise UsageError(
                f"--tasks {name}: lm-eval has no such task; {hint}legal: its names ('lm_eval ls "
                "tasks' lists them), a .yaml file of its format, or a .jsonl file of questions"
            )


def run_harness(
    model: TaskModel,
    names: Sequence[str],
    options: HarnessOptions,
    *,
    on_answer: OnAnswer | None = None,
) -> list[TaskScore]:
    """Let lm-eval run tasks on a model.

    Args:
        model: that answers.
        names: of tasks, groups and tags, or paths of .yaml files.
        options: of the run.
        on_answer: called with the number of requests that are answered, and of all of one kind.

    Returns:
        The figures of each task, and of each group that has some of its own.

    Raises:
        DataError: a task's data or its description fails.
        UsageError: a task draws its answers at random.
    """
    # Its progress is told by ours, and what it logs beside is of no use to a user.
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)
    evaluator: Any = importlib.import_module("lm_eval.evaluator")
    cut_before = model.truncated
    try:
        tasks = _open_manager(names).load(list(names))
        for task in tasks["tasks"].values():
            _set_shots(task, options.shots)
        results = evaluator.evaluate(
            lm=_adapt(model, on_answer), task_dict=tasks, limit=options.limit, log_samples=True
        )
    except AutoRoundError:
        raise
    except Exception as error:  # tasks are programs of many people, and fail in as many ways
        raise DataError(f"lm-eval fails at {', '.join(names)}: {one_line(error, 300)}") from error
    return read_results(results, engine=model.engine, truncated=model.truncated - cut_before)


def read_results(results: Mapping[str, Any], *, engine: str, truncated: int = 0) -> list[TaskScore]:
    """Return lm-eval's results as figures of tasks.

    Args:
        results: as its evaluate() returns them.
        engine: the program that ran the model.
        truncated: requests that were cut to the model's length.
    """
    scorer = f"lm-eval {_version()}".rstrip()
    scores = []
    samples = results.get("samples") or {}
    groups = results.get("groups") or {}
    values_by_task = {**results["results"], **groups}
    for name, values in values_by_task.items():
        metrics = _read_metrics(values)
        if metrics:
            count = int(values.get("sample_len") or len(samples.get(name, ())))
            shots = int(results.get("n-shot", {}).get(name) or 0)
            questions = _read_questions(samples.get(name, ()))
            scores.append(
                TaskScore(name, metrics, count, shots, scorer, engine, truncated, questions)
            )
    return scores


def _read_metrics(values: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Return the figures of a task: ``name,filter`` and ``name_stderr,filter`` are their keys."""
    metrics = []
    for key, value in values.items():
        name, comma, filter_name = key.partition(",")
        if not comma or name.endswith("_stderr") or not _is_number(value):
            continue
        stderr = values.get(f"{name}_stderr,{filter_name}")
        shown = _metric_name(name, filter_name)
        error = float(stderr) if isinstance(stderr, int | float) else None
        metrics.append(Metric(shown, float(value), error))
    return tuple(metrics)


def _read_questions(samples: Sequence[Mapping[str, Any]]) -> tuple[QuestionScore, ...]:
    """Return each question's figures; those of several filters are joined."""
    values: dict[str, dict[str, float]] = {}
    likelihoods: dict[str, tuple[float, ...]] = {}
    for sample in samples:
        name = str(sample["doc_id"])
        row = values.setdefault(name, {})
        for metric in sample.get("metrics", ()):
            if _is_number(sample.get(metric)):
                row[_metric_name(metric, str(sample.get("filter", "none")))] = float(sample[metric])
        answers = sample.get("filtered_resps") or ()
        if answers and all(isinstance(x, list | tuple) and len(x) == 2 for x in answers):
            likelihoods[name] = tuple(float(log_prob) for log_prob, _ in answers)
    return tuple(
        QuestionScore(name, row, likelihoods.get(name, ())) for name, row in values.items()
    )


def _metric_name(name: str, filter_name: str) -> str:
    return name if filter_name == "none" else f"{name}/{filter_name}"


def _is_number(value: object) -> bool:
    # NumPy's floats are floats; its integers are not, and no figure is one.
    return isinstance(value, int | float)


def _is_file(name: str) -> bool:
    return name.endswith((".yaml", ".yml"))


def _version() -> str:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _open_manager(names: Sequence[str]) -> Any:
    """Return lm-eval's index of tasks; without its own ones, whose files take seconds to read."""
    tasks: Any = importlib.import_module("lm_eval.tasks")
    return tasks.TaskManager(include_defaults=not all(_is_file(name) for name in names))


def _set_shots(task: Any, shots: int | None) -> None:
    """Set how many solved questions stand before each, as lm-eval's own command does."""
    stated = task.get_config("num_fewshot")
    if shots is not None and stated != 0:
        task.set_config(key="num_fewshot", value=shots)
    elif stated is None:
        task.set_config(key="num_fewshot", value=0)
    elif shots is not None and shots != stated:
        raise UsageError(
            f"--num-fewshot {shots}: the task {task.task_name} is without solved questions by its "
            "own description; leave the option out"
        )
    task.set_fewshot_seed(seed=SEED)


def _adapt(model: TaskModel, on_answer: OnAnswer | None) -> Any:
    """Return a model as lm-eval sees one."""
    api: Any = importlib.import_module("lm_eval.api.model")
    utils: Any = importlib.import_module("lm_eval.utils")

    class Adapter(api.LM):  # type: ignore[misc]
        def loglikelihood(self, requests: Sequence[Any]) -> list[Likelihood]:
            pairs = [encode_pair(model, *request.args) for request in requests]
            for pair, request in zip(pairs, requests, strict=True):
                if not pair.continuation:
                    raise DataError(
                        f"the tokenizer makes no tokens of {str(request.args[1])[:40]!r}"
                    )
            return model.score(pairs, on_answer=on_answer)

        def loglikelihood_rolling(self, requests: Sequence[Any]) -> list[float]:
            sums = []
            for number, request in enumerate(requests, start=1):
                windows = utils.get_rolling_token_windows(
                    token_list=model.encode(request.args[0], special=True),
                    prefix_token=model.prefix_token,
                    max_seq_len=model.max_length,
                    context_len=1,
                )
                parts = [Request(*map(tuple, utils.make_disjoint_window(x))) for x in windows]
                sums.append(sum(answer.log_prob for answer in model.score(parts)))
                if on_answer is not None:
                    on_answer(number, len(requests))
            return sums

        def generate_until(self, requests: Sequence[Any]) -> list[str]:
            texts = []
            for number, request in enumerate(requests, start=1):
                prompt, options = request.args
                texts.append(_continue(model, prompt, options))
                if on_answer is not None:
                    on_answer(number, len(requests))
            return texts

    return Adapter()


def _continue(model: TaskModel, prompt: str, options: Mapping[str, Any]) -> str:
    """Return the continuation that a task asks for."""
    if options.get("do_sample") and options.get("temperature") != 0:
        raise UsageError(
            "a task draws its answers at random (do_sample), which differs from run to run; tasks "
            "are answered by the most likely tokens here: name others"
        )
    until = options.get("until") or []
    stops = [until] if isinstance(until, str) else [str(stop) for stop in until]
    count = int(options.get("max_gen_toks") or options.get("max_new_tokens") or MAX_NEW_TOKENS)
    ids = model.encode(prompt, special=True)
    return model.generate(ids, until=stops, max_new_tokens=count)
