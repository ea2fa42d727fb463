"""The site: its pages are put together, are all in the navigation, and lead to one another."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import typer

from autoround.cli.main import app
from tools.site import build, pages, reference

from ..docs.pages import anchors
from ..docs.test_links import broken

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "docs"
    build.stage(folder)
    return folder


def test_links_between_pages_lead_somewhere(site: Path) -> None:
    wrong = {page.name: broken(page) for page in sorted((site / "pages").glob("*.md"))}
    assert len(wrong) > 30
    assert {name: links for name, links in wrong.items() if links} == {}


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_every_page_is_in_the_navigation_once(site: Path) -> None:
    import tomllib

    def names(entry: object) -> list[str]:
        if isinstance(entry, str):
            return [entry]
        values = entry.values() if isinstance(entry, dict) else entry
        assert not isinstance(values, (int, float))
        return [name for value in values for name in names(value)]  # type: ignore[union-attr]

    config = tomllib.loads((site / "zensical.toml").read_text("utf-8"))
    assert sorted(names(config["project"]["nav"])) == sorted(
        path.name for path in (site / "pages").glob("*.md")
    )
    handler = config["project"]["plugins"]["mkdocstrings"]["handlers"]["python"]
    assert [Path(path) for path in handler["paths"]] == [ROOT]


def test_links_are_moved() -> None:
    text = (
        "[a](../CHANGELOG.md#x) [b](../tools/setup.sh) [c](formats.md#mlx) [d](https://x.org/y.md)\n"
        "```\n[e](../CHANGELOG.md)\n```\n![f](frontier.svg)"
    )
    assert pages.move_links(text, "docs") == (
        "[a](changelog.md#x) b [c](formats.md#mlx) [d](https://x.org/y.md)\n"
        "```\n[e](../CHANGELOG.md)\n```\n![f](frontier.svg)"
    )
    assert pages.move_links("[a](docs/data.md) [b](LICENSE)", "") == "[a](data.md) b"


def test_a_notebook_becomes_a_page() -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# A\n", "text"]},
        {"cell_type": "code", "source": ["1 + 1"], "outputs": [{"text": ["2\n"]}]},
        {"cell_type": "code", "source": ["pass"], "outputs": []},
    ]
    assert pages.notebook_page(json.dumps({"cells": cells})) == (
        "# A\ntext\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n\n```python\npass\n```\n"
    )


def test_every_command_and_option_is_on_the_page_of_commands(site: Path) -> None:
    text = (site / "pages" / "commands.md").read_text("utf-8")
    listed = dict(reference.commands())
    assert len(listed) > 12
    assert typer.main.get_command(app).commands.keys() <= {name.split()[1] for name in listed}
    for name, command in listed.items():
        section = text.partition(f"## {name}\n")[2].partition("\n## ")[0]
        options = [option for p in command.params for option in p.opts if option.startswith("-")]
        assert [option for option in options if f"`{option}`" not in section] == [], name
        assert section.count("```sh") >= 1, name


def test_every_recipe_is_on_its_page(site: Path) -> None:
    page = site / "pages" / "built-in-recipes.md"
    assert {path.stem for path in (ROOT / "recipes").glob("*.yaml")} <= {
        name.replace("25bit", "2.5bit").replace("35bit", "3.5bit") for name in anchors(page)
    }


def test_names_on_the_page_about_python_are_there(site: Path) -> None:
    import importlib

    shown = re.findall(r"^::: (\S+)", (site / "pages" / "python.md").read_text("utf-8"), re.M)
    assert len(shown) > 12
    for name in shown:
        module, _, attribute = name.rpartition(".")
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            assert hasattr(importlib.import_module(module), attribute), name


def test_without_the_generator_the_error_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "find_spec", lambda name: None)
    assert build.main(["--into", str(tmp_path / "docs")]) == 2
    assert "pip install -e '.[docs]'" in capsys.readouterr().err
    assert build.main(["--stage", "--into", str(tmp_path / "docs")]) == 0
