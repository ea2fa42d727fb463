"""Write docs/models.md from what every family of models really comes through with.

.venv/bin/python tools/models_table.py          # about two minutes on one core
.venv/bin/python tools/models_table.py --check  # only compare; exit 1 where it differs
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
TITLES = {
    "text": "Text",
    "moe": "Mixtures of experts",
    "vision": "With a vision tower",
}
HEAD = """# Models

Which families of models go through: a tiny model of random weights is made from each family's
own config, saved by transformers, opened, planned, tuned at 4 bits, written, loaded again, and
run beside the same weights in 16 bit, loaded by transformers itself. This page is written by
`tools/models_table.py`; `pytest tests/e2e/test_families.py` runs the same checks. It says that
the plumbing holds, not how good a large model is afterwards.

- **layers**: quantized ones; experts that the model holds in one tensor count once.
- **kept**: layers inside the blocks that stay in 16 bit; routers always do.
  (`kv_a_proj_with_mqa` is too narrow in the tiny models only.)
- **difference**: the largest between logits of the packed result, run by the plain `torch` kernel,
  and of the same weights unpacked.
- **images**: blocks tuned on images and text, after all of them were run one by one with images
  and gave what the model itself gives. The tower stays in 16 bit unless `quantize_vision: true`.

No list of architectures decides any of this: blocks, experts, routers, heads and towers are found
by structure, names and shapes of tensors by transformers' own conversion rules. A family that is
not here may well work; one whose blocks cannot be run by themselves still takes `--recipe rtn`.
"""


def main(arguments: list[str]) -> int:
    """Run every family and write the page."""
    text = page()
    target = ROOT / "docs" / "models.md"
    if "--check" in arguments:
        same = target.is_file() and target.read_text(encoding="utf-8") == text
        print("docs/models.md is as measured" if same else "docs/models.md differs")
        return 0 if same else 1
    target.write_text(text, encoding="utf-8")
    return 0


def page() -> str:
    """Return the page; families that fail are on it, with the reason."""
    import torch
    import transformers

    from tests.families import Passed, go_through
    from tests.zoo import FAMILIES

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    rows: dict[str, list[str]] = {kind: [] for kind in TITLES}
    good = {kind: 0 for kind in TITLES}
    for family in FAMILIES.values():
        print(family.name, flush=True)
        found: Passed | str
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = go_through(family.name, Path(folder))
            except Exception as error:  # whatever it is belongs on the page
                found = " ".join(f"{type(error).__name__}: {error}".split())[:120]
        rows[family.kind].append(row(family.name, family.examples, found))
        good[family.kind] += isinstance(found, Passed)
    total = sum(good.values())
    parts = [HEAD, f"{total} of {len(FAMILIES)} families go through, with transformers "
             f"{transformers.__version__}.\n"]  # fmt: skip
    for kind, title in TITLES.items():
        parts.append(f"## {title}\n\n{good[kind]} of {len(rows[kind])}.\n")
        images = " images |" if kind == "vision" else ""
        parts.append(
            f"| family | such as | layers | kept | difference |{images}\n"
            f"|---|---|---|---|---|{'---|' if images else ''}\n" + "\n".join(rows[kind]) + "\n"
        )
    return "\n".join(parts)


def row(name: str, examples: str, found: object) -> str:
    """Return one line of a table."""
    from tests.families import Passed
    from tests.zoo import FAMILIES

    vision = FAMILIES[name].kind == "vision"
    if not isinstance(found, Passed):
        return f"| `{name}` | {examples} | fails: {found} | | |{' |' if vision else ''}"
    kept = ", ".join(f"`{n}`" for n in found.kept)
    difference = "0" if found.difference == 0 else f"{found.difference:.0e}"
    images = f" {found.images or 'text only'} |" if vision else ""
    return f"| `{name}` | {examples} | {found.layers} | {kept} | {difference} |{images}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
