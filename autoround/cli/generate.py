"""``autoround generate``: let a model continue a text."""

from __future__ import annotations

from typing import Annotated

import typer

from autoround.cli import _options as options
from autoround.cli._output import echo
from autoround.cli._quiet import quiet_libraries

app = typer.Typer()


@app.command(short_help="Continue a text.")
def generate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Quantized output folder, or any model.")
    ],
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="Text to continue.")],
    revision: options.Revision = None,
    max_new_tokens: Annotated[
        int, typer.Option("--max-new-tokens", "--max_new_tokens", min=1, help="Tokens to add.")
    ] = 64,
    chat: Annotated[
        bool | None,
        typer.Option(
            "--chat/--no-chat",
            help="Wrap the prompt in the tokenizer's chat template; by default where it has one.",
            show_default=False,
        ),
    ] = None,
    backend: options.Backend = "auto",
    device: options.Device = "auto",
) -> None:
    """Continue a text greedily, printing it as it comes.

    \b
    Examples:
      autoround generate out "Write a haiku."         # what quantize -o out wrote
      autoround generate out "The capital of France is" --no-chat --backend torch
    """
    from autoround.evaluate.generate import generate as continue_text

    model = options.at_revision(model, revision)
    with quiet_libraries():
        continue_text(
            model,
            prompt,
            max_new_tokens=max_new_tokens,
            chat=chat,
            backend=backend,
            device=device,
            on_text=lambda text: echo(text, end="", keep="\n\t"),
        )
    echo()
