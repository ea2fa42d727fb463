from __future__ import annotations

import io

from rich.console import Console

from autoround.report.windows import PAUSE, WindowProgress


def test_a_log_gets_a_line_now_and_then() -> None:
    out, now = io.StringIO(), [0.0]
    progress = WindowProgress(Console(file=out, width=80), clock=lambda: now[0])
    progress(0, 4)
    for done in (1, 2, 3, 4):
        now[0] += PAUSE * 0.75
        progress(done, 4)
    assert out.getvalue().splitlines() == [
        "eval: model loaded; 4 windows of text to score",
        "eval: window 2/4  ETA 22 s",
    ]


def test_a_terminal_has_one_line_that_is_gone_in_the_end() -> None:
    out = io.StringIO()
    console = Console(
        file=out, width=80, force_terminal=True, color_system=None, legacy_windows=False
    )
    console._environ = {"TERM": "xterm"}
    progress = WindowProgress(console, clock=lambda: 0.0)
    progress(0, 2)
    progress(1, 2)
    progress(2, 2)
    text = out.getvalue()
    assert "eval: window 1/2" in text
    assert text.endswith("ETA 0 s\r\x1b[0K")


def test_answers_of_tasks_are_counted_each_task_by_itself() -> None:
    out, now = io.StringIO(), [0.0]
    progress = WindowProgress(Console(file=out, width=80), clock=lambda: now[0], unit="answer")
    progress(0, 0)
    for done, total in ((1, 3), (2, 3), (3, 3), (1, 2), (2, 2)):
        now[0] += PAUSE
        progress(done, total)
    assert out.getvalue().splitlines() == [
        "eval: model loaded",
        "eval: answer 1/3  ETA 30 s",
        "eval: answer 2/3  ETA 15 s",
        "eval: answer 1/2  ETA 0 s",
    ]
