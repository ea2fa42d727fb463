"""``autoround doctor``: what runs here, what does not, and why."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from autoround.cli._output import echo

app = typer.Typer()


@app.command(short_help="Say what runs here, what does not, and why.")
def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Print versions, devices and kernels, measure each device, and check what it computes.

    Ends with 0 when a device can compute and all that are here agree with plain torch, else with
    6; backends of other packages that cannot be loaded are named and do not count.

    \b
    Examples:
      autoround doctor
      autoround doctor --json
    """
    from autoround.device.doctor import examine
    from autoround.errors import DeviceError
    from autoround.report.doctor import doctor_lines
    from autoround.storage.json_text import to_json

    report = examine()
    if as_json:
        echo(to_json({**dataclasses.asdict(report), "problems": report.problems}))
    else:
        for line in doctor_lines(report):
            echo(line)
    # The report comes first, whole, whatever it says: it is what a problem is looked for in.
    if report.problems:
        raise DeviceError("; ".join(report.problems))
