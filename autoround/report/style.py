"""The style and the script of the pages: in the page itself, so that it needs nothing else."""

from __future__ import annotations

import base64
import hashlib

from autoround.report.markup import Html

STYLE = """
:root { color-scheme: light dark; --page: #fff; --text: #1b1b1f; --soft: #5a5d66; --line: #d5d7de;
  --box: #f5f6f8; --first: #b3541e; --second: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #15171b; --text: #e8e9ed; --soft: #a9adb8; --line: #3a3e48; --box: #1f2228;
    --first: #f0a070; --second: #7db4f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 70rem; padding: 1.5rem 1rem 4rem; background: var(--page);
  color: var(--text); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--line); }
p { margin: .4rem 0; max-width: 46rem; }
.soft { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; }
a { color: var(--second); }
.figures { display: grid; grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr));
  gap: .75rem; margin: 1.25rem 0; }
.figures div { background: var(--box); border: 1px solid var(--line); border-radius: .5rem;
  padding: .6rem .8rem; }
.figures dt { color: var(--soft); font-size: .85rem; }
.figures dd { margin: 0; font-size: 1.3rem; font-weight: 600; line-height: 1.3; }
.figures dd.more { font-size: .85rem; font-weight: 400; }
.scroll { overflow-x: auto; margin: .75rem 0; max-width: 100%; }
.tall { max-height: 34rem; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: var(--page); }
table { border-collapse: collapse; font-size: .9rem; }
caption { text-align: left; color: var(--soft); padding-bottom: .4rem; }
th, td { padding: .25rem .6rem; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; overflow-wrap: normal; }
th { font-weight: 600; }
tbody th { font-weight: 400; }
td, table:not(.bits) tbody th { min-width: 6rem; }
.number, .bits td, .bits th, .whole { min-width: 0; }
.whole { white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th button { font: inherit; font-weight: 600; color: inherit; background: none; border: 0;
  padding: 0; cursor: pointer; text-decoration: underline dotted; text-align: inherit; }
th[aria-sort=ascending] button::after { content: " \\2191"; }
th[aria-sort=descending] button::after { content: " \\2193"; }
.bits td { text-align: center; border: 1px solid var(--page); min-width: 2.4rem; color: #111;
  font-variant-numeric: tabular-nums; }
.bits td.none { background: none; color: var(--soft); }
.bits thead th { text-align: center; }
.b2 { background: #f0b27a; } .b3 { background: #f6cfa2; } .b4 { background: #f2e6c2; }
.b5 { background: #dcebd0; } .b6 { background: #c3e3d6; } .b8 { background: #a9d6e5; }
.b16 { background: #c9cdd6; } .bmix { background: #e4d3ee; }
svg { display: block; max-width: none; font: 12px system-ui, sans-serif; }
svg text { fill: var(--text); }
svg .grid { stroke: var(--line); fill: none; }
svg .line { fill: none; stroke-width: 1.75; }
svg .line.before { stroke: var(--first); stroke-dasharray: 5 4; }
svg .line.after { stroke: var(--second); }
svg circle.before { fill: var(--page); stroke: var(--first); stroke-width: 1.75; }
svg rect.after, svg .bar { fill: var(--second); }
pre { background: var(--box); border: 1px solid var(--line); border-radius: .5rem; padding: .75rem;
  overflow-x: auto; font: .85rem/1.45 ui-monospace, monospace; white-space: pre; }
.curve svg > rect { fill: var(--page); }
.curve svg path { stroke: var(--line); }
.texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(16rem, 1fr)); gap: .75rem; }
.texts pre { white-space: pre-wrap; }
.texts mark { background: #f6cfa2; color: #000; text-decoration: underline; }
@media print {
  :root { --page: #fff; --text: #000; --soft: #444; --line: #bbb; --box: #fff; --first: #b3541e;
    --second: #1f5fa8; }
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .tall thead th { position: static; }
  .scroll, .tall { overflow: visible; max-height: none; }
  h2 { break-after: avoid; }
  svg, tr, .figures div { break-inside: avoid; }
  svg { max-width: 100%; height: auto; }
  pre { white-space: pre-wrap; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

#: Makes the heads of sortable tables into buttons; without it they are plain heads.
SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach(other => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const key = row => {
        const cell = row.cells[column];
        return "sort" in cell.dataset ? Number(cell.dataset.sort) : cell.textContent;
      };
      const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0) * (up ? 1 : -1);
      body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
    });
  });
}
"""


def policy() -> str:
    """Return the content security policy: this style, this script, and nothing from anywhere."""
    style, script = (_digest(text) for text in (STYLE, SCRIPT))
    return f"default-src 'none'; style-src '{style}'; script-src '{script}'; base-uri 'none'"


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def style_and_script() -> tuple[Html, Html]:
    """Return both as elements; what is in them is ours, and not to be escaped."""
    return Html(f"<style>{STYLE}</style>"), Html(f"<script>{SCRIPT}</script>")
