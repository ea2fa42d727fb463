"""The pages of the site: those of docs/, those at the top of the checkout, a notebook."""

from __future__ import annotations

import json
import re
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parents[2]
#: Files at the top of the checkout that are pages of the site, and the names they have there.
TOP_PAGES = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security-policy.md",
}
NOTEBOOK = "examples/first_model.ipynb"
NOTEBOOK_PAGE = "notebook.md"
#: Data of other tools and the site's own configuration, which are no pages.
NO_PAGES = ("*.json", "*.toml")
_FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def written_pages() -> dict[str, str]:
    """Return the text of each page that somebody wrote, by its name on the site."""
    pages = {
        path.name: move_links(path.read_text("utf-8"), "docs")
        for path in sorted((ROOT / "docs").glob("*.md"))
    }
    for name, page in TOP_PAGES.items():
        pages[page] = move_links((ROOT / name).read_text("utf-8"), "")
    notebook = notebook_page((ROOT / NOTEBOOK).read_text("utf-8"))
    pages[NOTEBOOK_PAGE] = move_links(notebook, str(PurePosixPath(NOTEBOOK).parent))
    return pages


def move_links(text: str, folder: str) -> str:
    """Let the links of a page lead to pages of the site.

    Args:
        text: the page.
        folder: where the page lies in the checkout.

    Returns:
        The page; links to files that the site has not are the words alone.
    """
    parts = _FENCED.split(text)
    parts[::2] = [_LINK.sub(lambda link: _move_link(link, folder), part) for part in parts[::2]]
    return "".join(parts)


def _move_link(link: re.Match[str], folder: str) -> str:
    words, target, anchor = link[1], link[2], link[3] or ""
    if "://" in target:
        return link[0]
    path = _resolve(PurePosixPath(folder) / target)
    if path in TOP_PAGES:
        return f"[{words}]({TOP_PAGES[path]}{anchor})"
    if path == NOTEBOOK:
        return f"[{words}]({NOTEBOOK_PAGE})"
    inside = PurePosixPath(path)
    if inside.parent == PurePosixPath("docs") and inside.suffix in (".md", ".svg", ".txt"):
        return f"[{words}]({inside.name}{anchor})"
    return words


def _resolve(path: PurePosixPath) -> str:
    """Return a path without its steps up."""
    parts: list[str] = []
    for part in path.parts:
        if part == "..":
            parts.pop()
        else:
            parts.append(part)
    return "/".join(parts)


def notebook_page(text: str) -> str:
    """Return a notebook as a page: its texts, its code, and what the code printed."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            parts.append(source)
            continue
        parts.append(f"```python\n{source}\n```")
        printed = "".join("".join(output.get("text", "")) for output in cell["outputs"])
        if printed:
            parts.append(f"```text\n{printed.rstrip()}\n```")
    return "\n\n".join(parts) + "\n"
