"""lm-eval's tasks: by a stand-in that keeps its interface, and by the real one if installed."""

from __future__ import annotations

import importlib.util
import json
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import DataError, UsageError
from autoround.evaluate.tasks.harness import (
    SEED,
    HarnessOptions,
    check_tasks,
    read_results,
    run_harness,
)
from autoround.evaluate.tasks.multiple_choice import ask_questions
from autoround.evaluate.tasks.questions import read_questions

from ._toy import ToyTaskModel

EXAMPLES = Path(__file__).parents[4] / "examples" / "tasks"


class Instance:
    """One request of lm-eval."""

    def __init__(self, *args: Any) -> None:
        self.args = args


class Task:
    """A task of lm-eval: its settings, and what it asks."""

    def __init__(self, name: str, requests: dict[str, list[Instance]], shots: int | None) -> None:
        self.task_name, self.requests = name, requests
        self.config: dict[str, Any] = {"num_fewshot": shots}
        self.seed: int | None = None

    def get_config(self, key: str) -> Any:
        return self.config[key]

    def set_config(self, *, key: str, value: Any) -> None:
        self.config[key] = value

    def set_fewshot_seed(self, *, seed: int) -> None:
        self.seed = seed


TASKS = {
    "choice": Task("choice", {"loglikelihood": [Instance("q", " a"), Instance("", "b")]}, None),
    "text": Task("text", {"loglikelihood_rolling": [Instance("abc")]}, 0),
    "free": Task(
        "free",
        {"generate_until": [Instance("ab", {"until": "x", "max_gen_toks": 5}), Instance("b", {})]},
        5,
    ),
    "random": Task(
        "random", {"generate_until": [Instance("a", {"do_sample": True, "temperature": 1})]}, 0
    ),
    "broken": Task("broken", {"loglikelihood": [Instance()]}, 0),
}


def evaluate(*, lm: Any, task_dict: Any, limit: int | None, log_samples: bool) -> dict[str, Any]:
    """Ask a model what tasks ask, and return its answers as a figure of each."""
    results: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    for name, task in task_dict["tasks"].items():
        answers = [x for kind, rows in task.requests.items() for x in getattr(lm, kind)(rows)]
        TASKS[name].config["answers"] = answers
        results[name] = {"alias": name, "acc,none": 0.5, "acc_stderr,none": "N/A"}
        samples[name] = [{"doc_id": 0, "metrics": ["acc"], "acc": 1.0, "filter": "none"}]
    return {"results": results, "samples": samples, "n-shot": {}}


@pytest.fixture
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the stand-in in lm-eval's place."""

    class Manager:
        def __init__(self, *, include_defaults: bool) -> None:
            self.all_tasks = sorted(TASKS) if include_defaults else []

        def load(self, names: Sequence[str]) -> dict[str, Any]:
            return {"tasks": {name: TASKS[name] for name in names}}

    def windows(
        *, token_list: list[int], prefix_token: int, max_seq_len: int, context_len: int
    ) -> Any:
        yield [prefix_token, *token_list[:-1]], token_list

    modules = {
        "lm_eval": {},
        "lm_eval.tasks": {"TaskManager": Manager},
        "lm_eval.evaluator": {"evaluate": evaluate},
        "lm_eval.api": {},
        "lm_eval.api.model": {"LM": object},
        "lm_eval.utils": {
            "get_rolling_token_windows": windows,
            "make_disjoint_window": lambda pair: (pair[0][:1], pair[1]),
        },
    }
    for name, values in modules.items():
        module = types.ModuleType(name)
        module.__spec__ = importlib.util.spec_from_loader(name, None)
        module.__dict__.update(values)
        monkeypatch.setitem(sys.modules, name, module)


def test_without_lm_eval_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        check_tasks(["arc_easy"])
    assert str(caught.value).endswith("run: pip install 'autoround-toolkit[eval]'")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("_stand_in")
def test_tasks_that_are_not_there_are_refused_before_any_work(tmp_path: Path) -> None:
    check_tasks(["choice", "text"])
    with pytest.raises(UsageError, match="did you mean choice"):
        check_tasks(["choise"])
    with pytest.raises(UsageError, match="there is no such file"):
        check_tasks([str(tmp_path / "gone.yaml")])


@pytest.mark.usefixtures("_stand_in")
def test_a_model_answers_what_tasks_ask() -> None:
    calls: list[tuple[int, int]] = []
    model = ToyTaskModel()
    scores = run_harness(
        model,
        ["choice", "text", "free"],
        HarnessOptions(limit=3),
        on_answer=lambda *x: calls.append(x),
    )
    assert [score.task for score in scores] == ["choice", "text", "free"]
    assert scores[0].metrics[0].value == 0.5
    assert scores[0].metrics[0].stderr is None
    # A space and an a, and a b; all letters of abc behind the special token.
    assert TASKS["choice"].config["answers"] == [(-1.29, False), (-0.98, False)]
    assert TASKS["text"].config["answers"] == [-(1 + 97 + 98 + 99) / 100]
    assert TASKS["free"].config["answers"] == ["3 ['x'] 5", "2 [] 256"]
    assert calls == [(2, 2), (1, 1), (1, 2), (2, 2)]
    assert {task: TASKS[task].config["num_fewshot"] for task in ("choice", "free")} == {
        "choice": 0,
        "free": 5,
    }
    assert TASKS["free"].seed == SEED


@pytest.mark.usefixtures("_stand_in")
def test_solved_questions_are_as_many_as_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS["choice"].config, "num_fewshot", None)
    run_harness(ToyTaskModel(), ["choice"], HarnessOptions(shots=2))
    assert TASKS["choice"].config["num_fewshot"] == 2
    with pytest.raises(UsageError, match="text is without solved questions"):
        run_harness(ToyTaskModel(), ["text"], HarnessOptions(shots=2))


@pytest.mark.usefixtures("_stand_in")
def test_what_fails_in_a_task_is_an_error_of_its_data() -> None:
    with pytest.raises(DataError, match="lm-eval fails at broken"):
        run_harness(ToyTaskModel(), ["broken"], HarnessOptions())
    with pytest.raises(UsageError, match="draws its answers at random"):
        run_harness(ToyTaskModel(), ["random"], HarnessOptions())


def test_results_become_figures_and_questions() -> None:
    results = {
        "results": {
            "arc": {
                **{"alias": "arc", "sample_len": 2, "acc,none": 0.5, "acc_stderr,none": 0.25},
                **{"exact_match,strict": 1.0, "exact_match_stderr,strict": "N/A"},
            },
        },
        "groups": {"all": {"alias": "all", "acc,none": 0.5}},
        "samples": {
            "arc": [
                {
                    **{"doc_id": 0, "filter": "none", "metrics": ["acc", "f1"], "acc": 1.0},
                    **{"f1": (1, 0), "filtered_resps": [(-1.0, False), (-2.0, True)]},
                },
                {"doc_id": 0, "filter": "strict", "metrics": ["exact_match"], "exact_match": 1.0},
                {"doc_id": 1, "filter": "none", "metrics": ["acc"], "acc": 0.0},
            ]
        },
        "n-shot": {"arc": 5},
    }
    arc, group = read_results(results, engine="toy", truncated=3)
    assert [(m.name, m.value, m.stderr) for m in arc.metrics] == [
        ("acc", 0.5, 0.25),
        ("exact_match/strict", 1.0, None),
    ]
    assert (arc.count, arc.shots, arc.engine, arc.truncated) == (2, 5, "toy", 3)
    first, second = arc.questions
    assert dict(first.values) == {"acc": 1.0, "exact_match/strict": 1.0}
    assert first.log_likelihoods == (-1.0, -2.0)
    assert (dict(second.values), second.log_likelihoods) == ({"acc": 0.0}, ())
    assert group.task == "all"


@pytest.mark.slow
def test_the_real_one_gives_each_question_what_ours_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.chdir(EXAMPLES.parents[1])
    task = str(EXAMPLES / "arc_style.yaml")
    check_tasks([task])
    (theirs,) = run_harness(ToyTaskModel(), [task], HarnessOptions(limit=40))
    questions = read_questions(EXAMPLES / "questions.jsonl", limit=40)
    ours = ask_questions(ToyTaskModel(), questions, task="q")
    assert [dict(q.values) for q in theirs.questions] == [dict(q.values) for q in ours.questions]
    assert [q.log_likelihoods for q in theirs.questions] == [
        q.log_likelihoods for q in ours.questions
    ]
    assert json.dumps([(m.name, m.value, m.stderr) for m in theirs.metrics]) == json.dumps(
        [(m.name, m.value, m.stderr) for m in ours.metrics]
    )
    with pytest.raises(UsageError, match="did you mean arc_easy"):
        check_tasks(["arc_eazy"])
