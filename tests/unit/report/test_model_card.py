from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from autoround.model.files.origin import Origin
from autoround.report.model_card import BEGIN, END, card_text, write_card
from autoround.report.task_scores import task_lines

from ._runs import HOSTILE, poisoned, run_folder, write_folder
from .test_task_scores import SCORES

ORIGIN = Origin("org/model", "apache-2.0", None, None, ("en",), "text-generation")
SERVING = [
    {"engine": "vllm", "version": "0.32.0", "effect": "takes", "evidence": "run (4 bits)"},
    {"engine": "sglang", "version": "0.5", "effect": "takes", "evidence": "source"},
    {"engine": "transformers", "version": "5", "effect": "takes", "evidence": "run"},
    {"engine": "transformers", "version": "5", "effect": "refuses", "evidence": "run"},
]


def served(**changes: Any) -> Any:
    """Return a run that engines were asked about."""
    run = run_folder(**changes)
    findings = [finding | {"instead": "serve FOLDER"} for finding in SERVING]
    return dataclasses.replace(run, run={**run.run, "serving": findings})


def test_the_hub_reads_its_metadata() -> None:
    card = ModelCard(card_text(served(), ORIGIN, files=[]))
    data = card.data.to_dict()
    assert data["base_model"] == "org/model"
    assert data["base_model_relation"] == "quantized"
    assert data["license"] == "apache-2.0"
    assert data["language"] == ["en"]
    assert data["library_name"] == "transformers"
    assert data["pipeline_tag"] == "text-generation"
    assert "quantized" in data["tags"]
    gguf = ModelCard(card_text(served(), Origin(), files=["m.gguf"]))
    assert gguf.data.to_dict()["library_name"] == "gguf"
    assert "base_model" not in gguf.data.to_dict()
    assert "its files did not name" in gguf.text
    assert "autoround.load" not in gguf.text


def test_only_engines_that_were_checked_and_take_all_of_it_are_named() -> None:
    text = card_text(served(), ORIGIN, files=[])
    assert "- vLLM 0.32.0 (checked: run \\(4 bits\\)): `serve path/to/this/model`" in text
    assert "SGLang" not in text
    assert "- transformers" not in text


def test_figures_stand_in_it_where_they_were_measured() -> None:
    text = card_text(served(), ORIGIN, files=[])
    assert "| perplexity | 10.000 | 11.000 | +10.0 % |" in text
    assert "| KL divergence, nats a token |  | 0.0500 |  |" in text
    assert "## Tasks" not in text
    from autoround.evaluate.tasks.scores import score_values

    tasks = {"tasks": [score_values(score) for score in SCORES]}
    text = card_text(served(evaluation=tasks), ORIGIN, files=[])
    assert "| arc_easy | acc | 0.5500 ± 0.0200 | 0.5000 ± 0.0300 | 200 | 5 |" in text
    assert "## Scores" not in text
    assert task_lines(SCORES)


def test_a_missed_gate_is_said_first() -> None:
    gate = {"passed": False, "failures": ["KL is 0.5"]}
    text = card_text(served(evaluation={"gate": gate}), ORIGIN, files=[])
    assert "**It missed the gate of its run: KL is 0.5.**" in text
    assert "missed the gate" not in card_text(served(), ORIGIN, files=[])


def test_paths_of_this_machine_are_not_in_it() -> None:
    run = served()
    run = dataclasses.replace(run, plan={**run.plan, "model": "/home/somebody/secret/model"})
    text = card_text(run, Origin(), files=[])
    assert "somebody" not in text
    assert "autoround quantize path/to/the/original --recipe recipe.yaml" in text


def test_written_again_it_keeps_what_people_wrote(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out", run_folder(evaluation={}))
    path = write_card(out, ORIGIN)
    assert path == out / "README.md"
    first = path.read_text(encoding="utf-8")
    changed = first.replace("license: apache-2.0", "license: mit\nauthor: me")
    changed = changed.replace(BEGIN, f"Above.\n\n{BEGIN}").replace(END, f"{END}\n\nBelow.")
    path.write_text(changed, encoding="utf-8")
    # The plan alone does not say where the model comes from.
    write_card(out)
    again = path.read_text(encoding="utf-8")
    data = ModelCard(again).data.to_dict()
    assert (data["license"], data["author"]) == ("mit", "me")
    assert data["base_model"] == "org/model"
    assert again.index("Above.") < again.index(BEGIN) < again.index(END) < again.index("Below.")
    write_card(out)
    assert path.read_text(encoding="utf-8") == again
    assert first.count(BEGIN) == again.count(BEGIN) == 1


def test_a_card_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    out = write_folder(tmp_path / "out")
    (out / "README.md").write_text("# Mine\n")
    assert write_card(out, ORIGIN) is None
    assert (out / "README.md").read_text() == "# Mine\n"


def test_what_files_say_is_no_markup() -> None:
    run = served()
    run = dataclasses.replace(
        run,
        plan=poisoned(run.plan) | {"blocks": []},
        run=poisoned(run.run),
        evaluation=poisoned(run.evaluation),
    )
    text = card_text(run, Origin(), files=["a`b|<c>.gguf"])
    assert HOSTILE not in text
    body = text.split(BEGIN)[1].replace(END, "")
    # Nothing in code is markup; it ends with as many backticks as it began with.
    outside = re.sub(r"(?<![\\`])(`+)(?!`).*?(?<!`)\1(?!`)", "", body, flags=re.DOTALL)
    assert "script" in outside
    assert re.search(r"(?<!\\)[<>`]", outside) is None
