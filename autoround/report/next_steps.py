"""What to do with an output: the commands that generate from it, load it and serve it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from autoround.formats.registry import format_of, layout_named
from autoround.types import EngineFinding, OutputPlan, Plan

#: What stands for the output in the commands of the table of engines.
_FOLDER, _FILE = "FOLDER", "FILE.gguf"


def next_step_lines(plan: Plan, folder: Path) -> list[str]:
    """Return the commands that use what a run has written, a line each, for each format.

    Args:
        plan: of all passes.
        folder: of the output, complete.
    """
    lines = []
    for output in plan.all_outputs:
        path = folder / output.folder
        lines += [f"{output.format}:"] * (len(plan.all_outputs) > 1)
        lines += _lines(path, output, plan.serving)
    return lines


def _lines(path: Path, output: OutputPlan, findings: Sequence[EngineFinding]) -> list[str]:
    name = shlex.quote(str(path))
    lines = [f'generate     autoround generate {name} "The capital of France is"']
    loading = _loading(path, output)
    if loading:
        lines.append(f"load         python -c {_quote(loading)}")
    served = _serving(path, output.format, findings)
    if served:
        lines.append(f"serve        {served}")
    return lines


def _loading(path: Path, output: OutputPlan) -> str:
    """Return the Python that loads an output; empty where it is for other programs."""
    if format_of(output).gguf_types:
        return ""
    if layout_named(output.packing).dense:
        return (
            "from transformers import AutoModelForCausalLM as M; "
            f"model = M.from_pretrained({str(path)!r})"
        )
    return f"import autoround; model = autoround.load({str(path)!r})"


def _quote(code: str) -> str:
    """Quote Python for a shell, the way people do where nothing in it is special."""
    plain = not any(letter in code for letter in '"$`\\!')
    return f'"{code}"' if plain else shlex.quote(code)


def _serving(path: Path, name: str, findings: Sequence[EngineFinding]) -> str:
    """Return the command of the first engine that takes a format whole; empty where none does."""
    by_format: dict[str, list[EngineFinding]] = {}
    for finding in findings:
        by_format.setdefault(finding.format, []).append(finding)
    about = by_format.get(name, [])
    for finding in about:
        whole = all(x.effect == "takes" for x in about if x.engine == finding.engine)
        if finding.effect != "takes" or not whole:
            continue
        if _FILE in finding.instead:
            files = sorted(path.glob("*.gguf"))
            if files:
                return finding.instead.replace(_FILE, shlex.quote(str(files[0])))
        elif finding.instead.endswith(f" {_FOLDER}"):
            return finding.instead.replace(_FOLDER, shlex.quote(str(path)))
    return ""
