"""The report of a run as a page.

# Tests: autoround/report/page.py autoround/report/page_layers.py autoround/report/page_cost.py
# Tests: autoround/report/page_settings.py autoround/report/style.py autoround/report/figures.py
"""

from __future__ import annotations

import itertools
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from autoround.report.folder import RunFolder
from autoround.report.page import format_name, report_page
from autoround.report.page_settings import repeat_command
from autoround.report.style import SCRIPT, STYLE, policy

from ._runs import EVALUATION, HOSTILE, mangled, poisoned, run_folder

VOID = {"meta", "link", "img", "br", "hr", "input", "wbr"}


class Reader(HTMLParser):
    """Reads a page strictly: every element is closed in its turn."""

    def __init__(self) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.stack
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.stack):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.stack == []
    return reader


def test_the_figures_that_count_are_there_without_a_script() -> None:
    text = read(report_page(run_folder())).text
    for words in (
        "Size 100.0 MB → 26.0 MB 3.8 times smaller",
        "Bits a weight 4.12",
        "Perplexity 10.000 → 11.000 +10.0 %",
        "KL divergence 0.0500 top-1 agreement 90.0 %",
        "Time 1 min 02 s",
        "Peak memory 1.00 GB cpu",
        "a note",
        "Warning: something slow",
        "Tuning lowered the loss of 1 of 2 blocks.",
        "h.0 4.000e-03 1.000e-03 -75.0 % 7 of 20 2.0 s",
        "The largest of all has q of block 1 with 25.00 %",
        "size of the weights 25.0 MB 26.0 MB +4.0 %",
        "peak memory 2.50 GB 1.00 GB -60.0 %",
        "time from the first block on 1 min 20 s to 10 min 00 s 1 min 00 s quicker",
        "quantize blocks 1 min 00 s 1.00 GB",
        "scheme: bits: 4",
        "torch 9.9",
        "autoround quantize my/model --recipe recipe.yaml --device cpu --threads 2",
    ):
        assert words in text, words


def test_the_same_values_give_the_same_bytes() -> None:
    assert report_page(run_folder()) == report_page(run_folder())


def test_it_needs_nothing_from_anywhere() -> None:
    page = report_page(run_folder())
    reader = read(page)
    for tag, attrs in reader.elements:
        assert tag not in {"link", "img", "iframe", "object", "base", "form"}
        assert not {"src", "srcset", "data", "action", "style"} & attrs.keys()
        assert not [name for name in attrs if name.startswith("on")]
        assert (attrs.get("href") or "#").startswith("#")
    assert "url(" not in STYLE
    assert "@import" not in STYLE
    assert f'content="{policy()}"'.replace("'", "&#x27;") in page
    assert page.count("<script>") == 1
    assert SCRIPT in page


def test_a_screen_reader_and_a_phone_find_their_way() -> None:
    page = report_page(run_folder())
    reader = read(page)
    tags = [tag for tag, _ in reader.elements]
    assert tags.count("h1") == 1
    levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert tags.count("table") == tags.count("caption")
    assert all(attrs.get("scope") for tag, attrs in reader.elements if tag == "th")
    drawings = [attrs for tag, attrs in reader.elements if tag == "svg"]
    assert drawings
    assert all(attrs.get("role") == "img" for attrs in drawings)
    # Each has a title and a description; the page has a title, too.
    assert tags.count("desc") == len(drawings)
    assert tags.count("title") == len(drawings) + 1
    assert 'name="viewport" content="width=device-width, initial-scale=1"' in page
    assert '<html lang="en">' in page
    marks = {attrs["id"] for _, attrs in reader.elements if "id" in attrs}
    assert {(a["href"] or "")[1:] for t, a in reader.elements if t == "a"} == marks
    assert "@media print" in STYLE
    assert "prefers-color-scheme: dark" in STYLE


def hostile_run() -> RunFolder:
    run = run_folder(
        generations=(
            {
                **{"prompt": "say", "quantized": "this", "original": "that"},
                "difference": {"token": 1, "original": [2, 4], "quantized": [2, 4]},
            },
        ),
        allocation={
            **{"bits_per_weight": 3.0, "predicted_kl": 0.1, "curve": [[2.0, 1.0], [4.0, 0.01]]},
            "uniform": [{"name": "W3", "bits": 3.2, "loss": 0.2}],
        },
    )
    return RunFolder(
        poisoned(run.plan),
        tuple(map(poisoned, run.results)),
        run.recipe + HOSTILE,
        poisoned(run.run),
        poisoned(run.allocation),
        poisoned(run.evaluation),
        tuple(map(poisoned, run.generations)),
        run.weight_bytes,
    )


def test_hostile_texts_are_shown_and_do_nothing() -> None:
    page = report_page(hostile_run())
    reader = read(page)
    assert page.count("<script>") == 1
    assert page.count("</script>") == 1
    assert "<img" not in page
    assert not [attrs for _, attrs in reader.elements if "onerror" in attrs]
    # What moves a cursor or turns the reading direction is written out.
    assert not set(page) & set("\x1b\x00\u202e")
    assert "<script>alert(1)</script>\"'>" in reader.text
    assert "\\x1b[31m\\x00\\u202e" in reader.text


@pytest.mark.parametrize(
    "path",
    [
        ("plan", "blocks"),
        ("plan", "kept"),
        ("plan", "tuning"),
        ("plan", "model"),
        ("plan", "outputs"),
        ("plan", "notes"),
        ("run", "phases"),
        ("run", "estimate"),
        ("run", "estimate", "seconds_high"),
        ("run", "versions"),
        ("run", "warnings"),
        ("run", "output"),
        ("run", "peak_bytes"),
        ("evaluation", "perplexity"),
        ("evaluation", "kl"),
        ("allocation", "curve"),
        ("allocation", "uniform"),
        ("allocation", "predicted_kl"),
    ],
    ids=".".join,
)
@pytest.mark.parametrize(
    "value",
    [None, [], {}, "x", -1, 0, True, 10**400, 1e308, float("inf"), [1], [[1, 2]], [{}], [{"a": 1}]],
    ids=str,
)
def test_values_of_any_kind_make_a_page(path: tuple[str, ...], value: Any) -> None:
    run = hostile_run()
    part = mangled(getattr(run, path[0]), value, path[1:])
    read(report_page(replace(run, **{path[0]: part})))


@pytest.mark.parametrize(
    "key", ["name", "shape", "scheme", "block", "experts", "reason", "bits", "group_size", "kind"]
)
@pytest.mark.parametrize("value", [None, [], "x", -1, 10**400, 1e300, {"bits": "x"}], ids=str)
def test_layers_of_any_kind_make_a_page(key: str, value: Any) -> None:
    run = run_folder()
    plan = dict(run.plan)
    layer = dict(plan["blocks"][0]["layers"][0])
    if key in layer:
        layer[key] = value
    else:
        layer["scheme"] = {**layer["scheme"], key: value}
    plan["blocks"] = [{**plan["blocks"][0], "layers": [layer]}]
    read(report_page(replace(run, plan=plan)))


def test_a_folder_of_an_older_version_has_what_it_knows() -> None:
    old = run_folder(run={}, evaluation={})
    results = tuple({k: v for k, v in r.items() if k != "layer_errors"} for r in old.results)
    text = read(report_page(replace(old, results=results))).text
    assert "Size 26.0 MB" in text
    assert "Time 5.0 s of the blocks" in text
    assert "without the errors of its layers" in text
    assert "without the times of its phases" in text
    assert "Not evaluated." in text
    assert "format auto_round" in text


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"quant_method": "gptq", "checkpoint_format": "gptq"}, "auto_gptq"),
        ({"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, "gptq_v2"),
        ({"quant_method": "auto-round"}, "auto_round"),
        ({}, "fake"),
        ({"quant_method": 5, "packing_format": ["x"]}, "auto_round"),
    ],
)
def test_the_config_tells_the_format_where_no_file_of_the_run_does(
    config: dict[str, object], name: str
) -> None:
    packings = {
        **{"auto_round": "auto_round:auto_gptq", "auto_gptq": "gptq", "gptq_v2": "gptq_v2"},
        **{"fake": "fake"},
    }
    outputs = [{"format": key, "packing": value} for key, value in packings.items()]
    run = run_folder()
    old = replace(run, run={}, plan={**run.plan, "outputs": outputs}, quantization=config)
    assert format_name(old) == name
    assert format_name(replace(old, run=run.run)) == "auto_round"


def test_a_run_without_tuning_has_no_losses() -> None:
    run = run_folder()
    results = tuple({**r, "loss_before": None, "loss_after": None} for r in run.results)
    page = report_page(replace(run, results=results))
    assert "rounded without tuning" in read(page).text
    assert "Loss by block before" not in page


def test_texts_of_the_original_stand_beside_those_of_the_quantized_model() -> None:
    item = {"prompt": "say", "quantized": "this"}
    alone = read(report_page(run_folder(generations=(item,)))).text
    assert "Prompt: say Quantized this" in alone
    both = read(report_page(run_folder(generations=({**item, "original": "that"},)))).text
    assert "Prompt: say Original that Quantized this" in both
    assert "Generated texts" not in report_page(run_folder())


@pytest.mark.parametrize(
    ("difference", "shown"),
    [
        (
            {"token": 1, "original": [1, 3], "quantized": [1, 1]},
            ["&lt;<mark>a&gt;</mark>b", "t<mark>⟂</mark>his", "The first token is the same"],
        ),
        (
            {"token": 0, "original": [0, 1], "quantized": [0, 4]},
            ["<mark>&lt;</mark>a&gt;b", "<mark>this</mark>", "No token is the same"],
        ),
        (None, ["&lt;a&gt;b", "this", "The two are the same, token by token."]),
        ({"token": 7, "original": [3, 2], "quantized": ["0", True]}, ["&lt;a&gt;b", "this"]),
        ({"token": 7, "original": [0, 99], "quantized": 5}, ["&lt;a&gt;b", "this"]),
    ],
)
def test_the_first_token_that_differs_is_marked(difference: object, shown: list[str]) -> None:
    item = {"prompt": "say", "quantized": "this", "original": "<a>b", "difference": difference}
    page = report_page(run_folder(generations=(item,)))
    original, quantized, *said = shown
    assert f"<h4>Original</h4><pre>{original}</pre>" in page
    assert f"<h4>Quantized</h4><pre>{quantized}</pre>" in page
    assert all(words in page for words in said)


def test_an_allocation_is_drawn_with_what_was_measured() -> None:
    allocation = {
        **{"bits_per_weight": 3.0, "predicted_kl": 0.04, "curve": [[2.0, 1.0], [4.0, 0.01]]},
        "uniform": [{"name": "W3 g32 sym", "bits": 3.5, "loss": 0.2}],
    }
    page = report_page(run_folder(allocation=allocation))
    text = read(page).text
    assert "Chosen: 3.000 bits a weight at a predicted KL of 0.04" in text
    assert "W3 g32 sym 3.500 0.2" in text
    assert "measured: 3.00 bits, 0.05" in page
    assert "KL divergence 0.0400 0.0500 +25.0 %" in text
    assert "Size against predicted loss" not in report_page(run_folder())


def test_the_command_that_repeats_a_run() -> None:
    run = run_folder()
    odd = replace(run, plan={**run.plan, "model": "a model; rm -rf /", "revision": "abc"})
    words = shlex.split(repeat_command(odd))
    assert words[:5] == ["autoround", "quantize", "a model; rm -rf /", "--revision", "abc"]
    embedded = replace(run, plan={**run.plan, "model": "SmolLM2-135M-Instruct (embedded)"})
    assert shlex.split(repeat_command(embedded))[2] == "--recipe"
    memory = report_page(replace(run, run={**run.run, "in_memory": True}))
    assert "The model came from Python" in read(memory).text
    data = report_page(replace(run, run={**run.run, "own_data": True}))
    assert "The calibration data came from Python" in read(data).text


def test_a_resumed_run_says_whose_times_these_are() -> None:
    run = run_folder()
    text = read(report_page(replace(run, run={**run.run, "resumed": True}))).text
    assert "of the last command" in text
    assert "went on from an interrupted one" in text


def test_scores_of_perplexity_alone() -> None:
    alone = {key: EVALUATION[key] for key in ("perplexity", "tokens")}
    text = read(report_page(run_folder(evaluation=alone))).text
    assert "Perplexity 11.000" in text
    assert "KL divergence" not in text
