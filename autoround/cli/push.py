"""``autoround push``: a model folder on the hub."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from autoround.cli._output import echo
from autoround.errors import UsageError

app = typer.Typer()


@app.command(short_help="Upload a model folder to the hub, after asking.")
def push(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Output folder of one format.")],
    repo: Annotated[
        str, typer.Argument(metavar="REPO", help="Repository on the hub, as owner/name.")
    ],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private.")
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", help="Branch to upload to; made where there is none."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Upload without asking.")] = False,
    although_gate_failed: Annotated[
        bool,
        typer.Option(
            "--although-gate-failed", help="Upload a folder whose model missed its gate, too."
        ),
    ] = False,
) -> None:
    """Show what of a model folder would be uploaded to the hub, ask, and upload it.

    The token is that of the hub's own tools: HF_TOKEN, or 'hf auth login'. Folders that are not
    whole, links, and files that look like secrets are refused; hidden files stay here.

    \b
    With a model and a repository of your own:
      autoround push out me/my-model-w4 --private

    \b
    Examples:
      autoround push --help                          # nothing is uploaded before you agree
      autoround report out                           # the model card that goes with it
    """
    from autoround.checkpoints import push as pushing
    from autoround.report.figures import size

    pushing.check_repo(repo, revision)
    upload = pushing.plan_upload(folder, failed_gate=although_gate_failed)
    for name, count in upload.files:
        echo(f"  {size(count):>10}  {name}", keep=" ")
    for name in upload.left:
        echo(f"  stays here  {name}", keep=" ")
    for note in upload.notes:
        echo(f"note: {note}")
    where = f"{repo}@{revision}" if revision else repo
    kind = "private" if private else "public unless it is private already"
    echo(f"{len(upload.files)} files, {size(upload.bytes)}, to {where} ({kind})")
    if not yes:
        if not sys.stdin.isatty():
            raise UsageError("nothing is uploaded: nobody is here to be asked; add --yes")
        if not typer.confirm("Upload?"):
            raise UsageError("nothing is uploaded")
    url = pushing.push(upload, repo, private=private, revision=revision)
    echo(f"uploaded     {url}")
