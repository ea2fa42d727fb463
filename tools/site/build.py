"""Build the documentation site: python -m tools.site.build [--stage] [--into FOLDER].

The pages of docs/, some of the checkout's top, and pages made from the code are put together in a
folder (build/docs), and zensical makes the site of them in FOLDER/site. A link or an anchor that
leads nowhere ends it with an error. --stage stops before zensical, which is in the extra `docs`.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

from tools.site.pages import NO_PAGES, ROOT, written_pages
from tools.site.reference import command_page, python_page, recipe_page

CONFIG = ROOT / "docs" / "zensical.toml"
#: Word of the configuration that stands for the checkout.
ROOT_MARK = "@ROOT@"


def stage(folder: Path) -> list[str]:
    """Write the pages and the configuration of the site.

    Args:
        folder: where they go; it is emptied first.

    Returns:
        The names of the pages.
    """
    shutil.rmtree(folder, ignore_errors=True)
    pages = {
        **written_pages(),
        "commands.md": command_page(),
        "built-in-recipes.md": recipe_page(),
        "python.md": python_page(),
    }
    inside = folder / "pages"
    shutil.copytree(ROOT / "docs", inside, ignore=shutil.ignore_patterns(*NO_PAGES, "*.md"))
    for name, text in pages.items():
        (inside / name).write_text(text, encoding="utf-8")
    config = CONFIG.read_text(encoding="utf-8").replace(ROOT_MARK, ROOT.as_posix())
    (folder / "zensical.toml").write_text(config, encoding="utf-8")
    return sorted(pages)


def main(arguments: list[str]) -> int:
    """Build the site; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tools.site.build")
    parser.add_argument("--stage", action="store_true", help="stop before zensical")
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "docs")
    options = parser.parse_args(arguments)
    print(f"docs: {len(stage(options.into))} pages in {options.into / 'pages'}")
    if options.stage:
        return 0
    if find_spec("zensical") is None:
        print("docs: zensical is not installed; pip install -e '.[docs]'", file=sys.stderr)
        return 2
    command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
    done = subprocess.run([*command, "-f", "zensical.toml"], cwd=options.into, check=False)
    print(f"docs: {options.into / 'site'}" if done.returncode == 0 else "docs: failed")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
