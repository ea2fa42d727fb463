"""What a run tells while it lasts: lines and a live region, and the log of its events."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from autoround.cli._output import make_console
from autoround.errors import UsageError

if TYPE_CHECKING:
    from autoround.events import Event, Judged, Sink

Quiet: TypeAlias = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print warnings, errors and results alone.")
]
Verbose: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Print every layer of the plan, and steps where no line can be redrawn.",
    ),
]
EventFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--events",
        metavar="FILE",
        help="Append each event to this file as it happens, a line of JSON each (docs/events.md).",
        show_default=False,
    ),
]


@dataclass(frozen=True, slots=True)
class Telling:
    """How much a command tells, and where.

    quiet, verbose: less or more than what is done. on_stderr: leave stdout to the result alone.
    events: file for events. engines: serving engines that the plan speaks of.
    """

    quiet: bool = False
    verbose: bool = False
    on_stderr: bool = False
    events: Path | None = None
    engines: Collection[str] = ()

    def __post_init__(self) -> None:
        if self.quiet and self.verbose:
            raise UsageError("--quiet tells less and --verbose more: give one of them")


class Watch:
    """A sink that passes events on, and keeps the verdicts among them."""

    def __init__(self, *sinks: Sink) -> None:
        self._sinks = sinks
        self.judged: list[Judged] = []

    def __call__(self, event: Event) -> None:
        """Pass an event on.

        Args:
            event: the next one of the run.
        """
        from autoround.events import Judged

        if isinstance(event, Judged):
            self.judged.append(event)
        for sink in self._sinks:
            sink(event)


@contextmanager
def watching(telling: Telling) -> Iterator[Watch]:
    """Tell of a run while it lasts; on a terminal something is drawn at once.

    Args:
        telling: how much, and where.

    Yields:
        The sink of the run.

    Raises:
        OutputError: the file for events cannot be written.
    """
    # Not at the top of the module: rich would slow down every --help.
    from autoround.report.event_log import EventLog
    from autoround.report.progress import Progress, Verbosity

    verbosity = Verbosity.QUIET if telling.quiet else Verbosity.NORMAL
    verbosity = Verbosity.VERBOSE if telling.verbose else verbosity
    # Warnings are all that quiet commands tell of the run.
    on_stderr = telling.on_stderr or telling.quiet
    console = make_console(stderr=on_stderr)
    stream = sys.stderr if on_stderr else sys.stdout
    # FORCE_COLOR makes a log of a CI job a terminal to rich; nothing can be redrawn there.
    live = stream.isatty() and console.is_terminal and not console.is_dumb_terminal
    progress = Progress(console, engines=telling.engines, verbosity=verbosity, live=live)
    with ExitStack() as stack:
        sinks: list[Sink] = [progress]
        if telling.events is not None:
            sinks.append(stack.enter_context(EventLog(telling.events, warn=progress)))
        stack.enter_context(progress)
        yield Watch(*sinks)
