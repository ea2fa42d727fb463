"""``autoround doctor``: what runs here, what does not, and why."""

from __future__ import annotations

from typing import Annotated

import typer

app = typer.Typer()


@app.command()
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
    from autoround.cli import _run

    _run.examine_all(as_json=as_json)
