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
        "eval: models loaded; scoring 4 windows of text",
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
