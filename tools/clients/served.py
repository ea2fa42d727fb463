"""Write tiny models in the formats that serving engines read, and let an engine's loader read them.

    python tools/clients/served.py --work DIR --dry "PYTHON SCRIPT" [--model NAME] [--case NAME]

Models of random weights (dense, mixtures of experts, latent attention, vision) are rounded without
tuning in every case of bits and rules that a format holds, each beside ``fake``, the plain weights
of the same codes. The loader, called as ``SCRIPT BASE FOLDER...``, reads every folder, dequantizes
what the engine holds and compares it with ``BASE/fake``. It prints for each folder a JSON object
with ``error``, or ``loads`` and the ``unloaded`` parameters, and then a line ``differ N [...]``.

A cell is one of: loads (equal weights), plan (the plan says that vLLM refuses the folder, and it
does), Humming (needs that package and a GPU, as the plan says), refused (by us, before any work),
or FAULT: loaded with other weights, refused without a word in the plan, or loaded although the plan
says the opposite. Exits with 1 where there is one.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from served_models import MODELS, make_model

FORMATS = ("auto_gptq", "gptq_v2", "auto_awq", "auto_round")
GROUP_SIZE = 32
#: The engine of the table whose loader this is about, and what it says of others than loads.
ENGINE, AGAINST = "vllm", ("refuses", "reads otherwise")
#: The loader decides as it does on a GPU: what is about other machines is not seen by it.
ELSEWHERE = "a CPU"


class Written(NamedTuple):
    """A case in all formats that hold it, side by side, and those that the plan warns of."""

    folder: Path
    formats: tuple[str, ...]
    against: tuple[str, ...]


def write(work: Path, model: str, name: str, formats: Sequence[str]) -> Written:
    """Round a model for a case, with the plain weights beside, unless that was done before."""
    import autoround

    source = str(make_model(work, model))
    folder = work / model / re.sub(r"\W+", "-", name)
    told = folder / "told.json"
    if not told.exists():
        fitting = [x for x in formats if not why_not_planned(source, recipe_of(model, name, (x,)))]
        recipe = recipe_of(model, name, (*fitting, "fake"))
        result = autoround.quantize(source, recipe, output_dir=folder / "out", device="cpu")
        against = [x.format for x in result.plan.serving if is_against(x)]
        told.write_text(json.dumps([fitting, against]))
    fitting, against = json.loads(told.read_text())
    return Written(folder / "out", tuple(fitting), tuple(against))


def is_against(finding: Any) -> bool:
    """Tell whether a finding of a plan says that the engine does not load a format on a GPU."""
    there = not finding.on.startswith(ELSEWHERE)
    return finding.engine == ENGINE and finding.effect in AGAINST and there


def recipe_of(model: str, name: str, formats: Sequence[str]) -> Any:
    """Return the recipe of a case."""
    from autoround.recipe.load import load_recipe

    case = MODELS[model][1][name]
    values: dict[str, Any] = {
        "scheme.bits": case.bits,
        "scheme.sym": case.sym,
        "scheme.group_size": GROUP_SIZE,
        "layers": list(case.layers),
        "output.format": ",".join(formats),
        "output.dtype": "float16",
        **dict(case.more),
    }
    return load_recipe("rtn", values=values)


def why_not_planned(source: str, recipe: Any) -> str:
    """Return why a plan cannot be made, or an empty text."""
    import autoround
    from autoround.errors import AutoRoundError

    try:
        autoround.plan(source, recipe, device="cpu")
    except AutoRoundError as error:
        return str(error)
    return ""


def read(command: list[str], written: Written) -> dict[str, tuple[bool, str]]:
    """Let the engine's loader read the folders of a case.

    Returns whether the weights of each are equal, and what is wrong otherwise.
    """
    folders = [written.folder / name for name in written.formats]
    done = subprocess.run(
        [*command, str(written.folder), *map(str, folders)], capture_output=True, text=True
    )
    parts = re.split(r"^\{$", done.stdout, flags=re.M)[1:]
    lost = (done.stderr.strip().splitlines() or ["no answer"])[-1][:200]
    return {
        name: verdict(parts[i]) if i < len(parts) else (False, lost)
        for i, name in enumerate(written.formats)
    }


def verdict(told: str) -> tuple[bool, str]:
    """Read what the loader says of one folder."""
    error = re.search(r'"error": "(.*)",?$', told, re.M)
    if error:
        return False, error[1][:200]
    differ = re.search(r"^\s*differ (\d+) (.*)$", told, re.M)
    if '"loads": true' not in told or differ is None:
        return False, "no answer"
    if differ[1] != "0":
        return False, f"OTHER WEIGHTS {differ[1]}: {differ[2][:160]}"
    whole = re.search(r'"unloaded": \[\s*\]', told) is not None
    return whole, "" if whole else "parameters that no tensor was loaded into"


def cell_of(said: bool, loads: bool, words: str) -> str:
    """Return the cell of a table.

    said: whether the plan says that the engine does not load the folder.
    """
    if loads:
        return "FAULT: loads, and the plan says not" if said else "loads"
    # vLLM needs a package of its own for these kernels.
    if "humming" in words and said:
        return "Humming"
    if words.startswith("OTHER") or not said:
        return f"FAULT: {words}"
    return "plan"


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--dry", metavar="COMMAND", help="The loader to run; none: write alone.")
    parser.add_argument("--model", action="append", default=[], help="Only these models.")
    parser.add_argument("--case", action="append", default=[], help="Only these cases.")
    parser.add_argument("--format", action="append", default=[], help="Only these formats.")
    args = parser.parse_args()
    formats = args.format or FORMATS
    faults = 0
    if args.dry:
        print("| model | case | " + " | ".join(f"`{name}`" for name in formats) + " |")
        print("|---|---|" + "---|" * len(formats))
    for model, (_, cases) in MODELS.items():
        for name in cases:
            if (args.model and model not in args.model) or (args.case and name not in args.case):
                continue
            written = write(args.work.absolute(), model, name, formats)
            if not args.dry:
                print(written.folder, flush=True)
                continue
            loaded = read(shlex.split(args.dry), written)
            cells = [
                cell_of(x in written.against, *loaded[x]) if x in loaded else "refused"
                for x in formats
            ]
            faults += sum(cell.startswith("FAULT") for cell in cells)
            print(f"| {model} | {name} | {' | '.join(cells)} |", flush=True)
    print(f"{faults} faults", file=sys.stderr)
    sys.exit(faults > 0)


if __name__ == "__main__":
    main()
