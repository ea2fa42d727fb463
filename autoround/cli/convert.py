"""``autoround convert``: another integer format, without tuning again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo
from autoround.cli._quiet import quiet_libraries, quiet_transformers, quiet_warnings
from autoround.errors import FormatError, UsageError

app = typer.Typer()


@app.command(short_help="Write a quantized model in another format, bit for bit.")
def convert(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Quantized folder: AutoRound, GPTQ, AWQ, …")
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="Format to write, such as auto_gptq (docs/formats.md); several with commas.",
        ),
    ],
    output: Annotated[
        Path | None, typer.Option("--output-dir", "-o", help="Folder to write to.")
    ] = None,
    revision: options.Revision = None,
    lossy: Annotated[
        bool, typer.Option("--allow-lossy", help="Go on where weights cannot be kept exactly.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print what would be converted or refused, by headers."),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object; with --dry-run only.")
    ] = False,
) -> None:
    """Write a quantized model in other integer formats; codes are carried over, bit for bit.

    What cannot be kept exactly is refused, unless --allow-lossy is given. With --dry-run config and
    headers are read, nothing is written, and what they show to be refused ends with its exit code.

    \b
    With a model of your own:
      autoround convert some-gptq-model --to auto_round -o out
      autoround convert some-gptq-model --to auto_round,mlx --dry-run

    \b
    Examples:
      autoround convert out --to auto_gptq -o gptq     # what quantize -o out wrote
      autoround convert out --to auto_awq,compressed-tensors -o served
    """
    # A format that is named twice is written once.
    formats = tuple(dict.fromkeys(name.strip() for name in to.split(",")))
    model = options.at_revision(model, revision)
    if dry_run:
        _show_plan(model, formats, output, as_json=as_json)
        return
    if as_json:
        raise UsageError("--json is for --dry-run; a conversion prints lines")
    if output is None:
        raise UsageError("missing --output-dir (-o), the folder to write to; or --dry-run")
    from autoround.checkpoints.convert import convert as convert_model
    from autoround.report.conversion import conversion_lines

    with quiet_libraries():
        conversion = convert_model(model, output, formats=formats, allow_lossy=lossy)
    for line in conversion_lines(conversion):
        echo(line)


def _show_plan(model: str, formats: tuple[str, ...], output: Path | None, *, as_json: bool) -> None:
    """Print what a conversion would do.

    Raises:
        FormatError: the conversion would be refused; after all is printed.
    """
    from autoround.checkpoints.conversion_plan import plan_conversion
    from autoround.report.conversion import conversion_plan_lines, conversion_plan_values
    from autoround.storage.json_text import to_json

    with quiet_warnings():
        plan = plan_conversion(model, formats=formats, output=output, building=quiet_transformers)
    if as_json:
        echo(to_json(conversion_plan_values(plan), indent=1), keep="\n")
    else:
        for line in conversion_plan_lines(plan):
            echo(line)
    if plan.refusal is not None:
        raise FormatError(plan.refusal.reason)
