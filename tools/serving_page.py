"""Write docs/serving.md from the table of serving engines: serving_page.py [--check].

--check writes nothing, and fails where the page is not the one that the table gives. The table is
autoround/planning/serving/engines.yaml; what is wrong on the page is put right there.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TARGET = ROOT / "docs" / "serving.md"

from autoround.formats.registry import BUILT_IN  # noqa: E402
from autoround.planning.serving.table import (  # noqa: E402
    Conditions,
    Engine,
    Rule,
    ServedPackings,
    engine_table,
    matches_packing,
)

HEAD = """# Serving

What serving engines and loaders do with the formats written here, and the command for each.
This page is written by `tools/serving_page.py` from `autoround/planning/serving/engines.yaml`;
`autoround plan` and `autoround quantize` hold every plan against the same table, before any work:

```bash
autoround plan path/to/model --format auto_gptq,compressed-tensors --bits 4 --for vllm,sglang
```

`--for` takes {names};
without it the plan has one line a format. In Python, `autoround.api.plan` returns the same as
`plan.serving`. FOLDER is the output of a run, FILE.gguf the file in it.

How a line is known: **run** (served here and answered, or ended with the error), **loaded** (the
engine's loader took the files here and its weights were compared), **source** (read in its source;
not run).
"""
#: An option, with its value where it has one.
_OPTION = re.compile(r"--(?:format|group-size|set|dtype) [^\s,]+|--[\w-]+")
#: What a condition that holds, or does not, says of a layer.
_SAYS = {
    "sym": ("symmetric", "asymmetric"),
    "experts": ("experts", "no experts"),
    "stacked": ("experts that the class holds stacked", "not stacked in the class"),
    "renamed": (
        "experts under other names than the class's",
        "experts under the class's names",
    ),
    "narrow": (
        "experts in widths that Marlin's kernel does not take",
        "experts in widths that Marlin's kernel takes",
    ),
    "of_most": ("of the most common scheme", "not of the most common scheme, or kept in 16 bit"),
    "head": ("the output head", "not the output head"),
    "crosses_words": ("values across words (3, 5, 6, 7 bits)", "whole values in words"),
    "short_groups": ("the last group of a row shorter", "whole groups"),
    "merged_differ": ("merged with layers of another scheme", "merged layers that agree"),
    "cut_words": (
        "merged, their zero points ending inside a word",
        "zero points in whole words",
    ),
    "several_schemes": ("several schemes in the model", "one scheme in the model"),
    "experts_differ": ("experts of several schemes", "experts of one scheme"),
    "experts_symmetric": ("no asymmetric experts in the model", "asymmetric experts in the model"),
    "uneven": ("other kept layers in every block", "the same kept layers in every block"),
    "desc_act": ("`desc_act`", "no `desc_act`"),
}


def main(arguments: list[str]) -> int:
    """Write the page, or compare it; returns the exit code."""
    text = page()
    if "--check" not in arguments:
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.is_file() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"serving_page: {TARGET.name} is not what the table gives; run tools/serving_page.py")
    return 1


def page() -> str:
    """Return the page for the table that comes with the package."""
    table = engine_table()
    parts = [HEAD.format(names=_in_words(f"`{name}`" for name in table))]
    parts += [_engine_part(name, engine) for name, engine in table.items()]
    return "\n".join(parts)


def _engine_part(name: str, engine: Engine) -> str:
    lines = [
        f"## {engine.title}",
        "",
        f"`--for {name}`: {engine.version}, looked at on {engine.looked_at}.",
        f"Seen: {engine.seen.strip()}",
        "",
        *(f"- {note.strip()}" for note in engine.notes),
        *([""] if engine.notes else []),
        "| format | command | needs | how it is known |",
        "|---|---|---|---|",
        *(_served_row(served) for served in engine.reads if served.command),
        "",
        f"In place of what it does not read: {_code(engine.unread)}.",
        "",
        "| format | layers | where | what it does | instead | how it is known |",
        "|---|---|---|---|---|---|",
        *map(_rule_row, engine.rules),
        "",
    ]
    return "\n".join(lines)


def _served_row(served: ServedPackings) -> str:
    known = served.known_by + (", not run" if served.evidence == "source" else "")
    needs = served.needs or "–"
    return f"| {_formats(served.packings)} | `{served.command}` | {needs} | {known} |"


def _rule_row(rule: Rule) -> str:
    does = {"refuses": "refuses", "slow": "runs them slowly", "reads otherwise": "reads otherwise"}
    cells = (
        _formats(rule.packings),
        describe_conditions(rule.when) or "all",
        f"versions before {rule.before}" if rule.before else rule.on or "everywhere",
        f"{does[rule.effect]}: {rule.says}",
        _code(rule.instead),
        rule.evidence,
    )
    return f"| {' | '.join(cells)} |"


def describe_conditions(when: Conditions) -> str:
    """Return the conditions of a rule in words.

    Args:
        when: of the rule.
    """
    words = []
    if when.bits:
        words.append(f"{_in_words(map(str, when.bits))} bits")
    words += [
        says[not truth] for key, says in _SAYS.items() if (truth := getattr(when, key)) is not None
    ]
    if when.group_sizes:
        words.append(f"groups of {_in_words(map(str, when.group_sizes))}")
    if when.other_group_sizes:
        words.append(f"groups other than {_in_words(map(str, when.other_group_sizes))}")
    if when.kinds:
        words.append(f"block types {_in_words(f'`{kind}`' for kind in when.kinds)}")
    for unit, what in (
        (when.inputs_not_multiple_of, "inputs"),
        (when.outputs_not_multiple_of, "outputs"),
    ):
        words += [f"{what} no multiple of {unit}"] if unit else []
    return ", ".join(words)


def _formats(packings: Iterable[str]) -> str:
    """Return the formats that write some packings, with the packing where a format has several."""
    patterns = tuple(packings)
    # Of the names of one packing the first is the one to choose.
    words: dict[str, str] = {}
    for form in BUILT_IN:
        for layout in form.layouts:
            if matches_packing(layout.name, patterns):
                several = f" (packing `{layout.name}`)" if len(form.layouts) > 1 else ""
                word = "`gguf:TYPE`" if form.gguf_types else f"`{form.name}`{several}"
                words.setdefault("gguf" if form.gguf_types else layout.name, word)
    return ", ".join(words.values())


def _code(text: str) -> str:
    """Put options of the command line, and their values, between backticks."""
    return _OPTION.sub(r"`\g<0>`", text)


def _in_words(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
