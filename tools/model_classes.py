"""Write docs/model-classes.md: what every decoder class of the installed transformers comes to.

.venv/bin/python tools/model_classes.py             # about twenty minutes on two cores
.venv/bin/python tools/model_classes.py NAME...     # only print these
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TARGET = ROOT / "docs" / "model-classes.md"
HEAD = """# Classes of models

What every class that transformers {version} calls a causal language model comes to. Each is made
small by its own config (few layers of every kind, few heads, at most 32 experts), filled with
random weights, saved, planned, quantized to 4 bits in groups of 32 with two tuning steps, loaded
again, and run beside the same weights dequantized and loaded by transformers itself. This page is
written by `tools/model_classes.py`; published families, with images, are in [models.md](models.md).

- **works**: plan and quantize agree; blocks run one by one on two different batches give what the
  class's own forward gives; what feeds a top-k stays in 16 bit; the packed logits are those of the
  dequantized weights within 1e-3; at least two thirds of the blocks' weights are packed. *packed*
  is their share.
- **rounds**: tuning is refused by the plan, with the reason given here; rounding without data
  (`--recipe rtn`) works.
- **refused**: by the plan, with the reason.
- **not made**: transformers makes no small model of the type's default config, for the reason
  given; nothing was tried.

{counts}
"""


def main(names: Sequence[str]) -> int:
    """Take classes through, and write or print the table."""
    from tests.classes import class_names, go_through_all

    outcomes = go_through_all(names or class_names())
    if names:
        return 0
    TARGET.write_text(page(outcomes), encoding="utf-8")
    faults = [outcome.name for outcome in outcomes if outcome.state == "fault"]
    print(f"wrote {TARGET}; faults: {', '.join(faults) or 'none'}")
    return 1 if faults else 0


def page(outcomes: Sequence[object]) -> str:
    """Return the page for some outcomes."""
    import transformers

    from tests.classes import Outcome

    rows = [outcome for outcome in outcomes if isinstance(outcome, Outcome)]
    states = Counter(row.state for row in rows)
    counts = ", ".join(f"{count} {state}" for state, count in states.most_common())
    text = HEAD.format(version=transformers.__version__, counts=f"{len(rows)} types: {counts}.")
    text += "\n| type | | packed | kept in 16 bit, or the reason |\n|---|---|---|---|\n"
    for row in sorted(rows, key=lambda row: row.name):
        kept = "; ".join(f"{count} × {reason}" for reason, count in row.kept.items())
        packed = f"{row.packed:.1%}" if row.packed else ""
        words = "; ".join(part for part in (row.reason, kept) if part).replace("|", "/")
        text += f"| `{row.name}` | {row.state} | {packed} | {words} |\n"
    return text


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
