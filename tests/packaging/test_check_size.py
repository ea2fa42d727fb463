"""The checker of the house limits finds what it is there to find, and nothing else."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

TOOL = Path(__file__).parents[2] / "tools" / "check_size.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_size", TOOL)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up by name.
    sys.modules["check_size"] = module
    spec.loader.exec_module(module)
    return module


def messages(tool: ModuleType, tmp_path: Path, source: str, folder: str = "autoround") -> list[str]:
    path = tmp_path / folder / "module.py"
    path.parent.mkdir(parents=True)
    path.write_text(source, encoding="utf-8")
    return [f"{v.line}: {v.message}" for v in tool.check_file(path, tmp_path)]


def body(lines: int) -> str:
    return "    x = 1\n" * lines


GOOD = [
    "x = 1\n" * 400,
    "def f():\n" + body(59),
    "def f(a, b, c, d, e, f, g): ...\n",
    "class C:\n    def f(self, a, b, c, d, e, f, g): ...\n",
    "def _f(**kw): ...\n",
    "class _C:\n    def f(self, **kw): ...\n",
    "def f():\n    def inner(**kw): ...\n    return inner\n",
    "@app.command()\ndef f(a, b, c, d, e, f, g, h): ...\n",
    "try:\n    f()\nexcept OSError:\n    pass\n",
    "try:\n    f()\nexcept Exception:\n    raise\n",
    "import os\nos.cpu_count()\n",
]

BAD = [
    ("x = 1\n" * 401, "1: 401 lines"),
    ("def f():\n" + body(60), "1: f has 61 lines"),
    ("def f(a, b, c, d, *, e, f, g, h): ...\n", "1: f takes 8 arguments"),
    (
        "class C:\n    @staticmethod\n    def f(a, b, c, d, e, f, g, h): ...\n",
        "3: f takes 8 arguments",
    ),
    ("def f(**kw): ...\n", "1: f is public and takes **kw"),
    ("class C:\n    def __init__(self, **kw): ...\n", "2: __init__ is public and takes **kw"),
    ("@app.command()\ndef f():\n" + body(61), "2: f has 61 lines"),
    ("try:\n    f()\nexcept Exception:\n    pass\n", "3: every error is swallowed"),
    ("try:\n    f()\nexcept:\n    ...\n", "3: every error is swallowed"),
    ("try:\n    f()\nexcept (OSError, BaseException):\n    pass\n", "3: every error is swallowed"),
    ("import os\nx = os.environ['A']\n", "2: os.environ"),
    ("import os\nx = os.getenv('A')\n", "2: os.getenv"),
    ("from os import environ\n", "1: os.environ"),
]


@pytest.mark.parametrize("source", GOOD)
def test_leaves_good_code_alone(tool: ModuleType, tmp_path: Path, source: str) -> None:
    assert messages(tool, tmp_path, source) == []


@pytest.mark.parametrize(("source", "expected"), BAD)
def test_names_the_line(tool: ModuleType, tmp_path: Path, source: str, expected: str) -> None:
    found = messages(tool, tmp_path, source)
    assert len(found) == 1
    assert found[0].startswith(expected)


def test_tools_may_read_the_environment(tool: ModuleType, tmp_path: Path) -> None:
    assert messages(tool, tmp_path, "import os\nx = os.environ\n", folder="tools") == []


def test_exit_code_says_whether_all_is_well(
    tool: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tool.main([str(TOOL)]) == 0
    assert tool.main([str(TOOL.parent / "missing")]) == 2
    assert "missing" in capsys.readouterr().err


def test_tests_have_sizes_only(tool: ModuleType, tmp_path: Path) -> None:
    many = "def f(a, b, c, d, e, f, g, h, **rest):\n" + body(2)
    assert messages(tool, tmp_path, many, folder="tests") == []
    long = "def f():\n" + body(60)
    assert messages(tool, tmp_path / "long", long, folder="tests") == [
        "1: f has 61 lines; the limit is 60"
    ]


@pytest.mark.parametrize(
    ("lines", "wrong"),
    [
        (641, []),
        (642, ["642 lines; the limit is 641"]),
        (640, ["640 lines, 641 in LONG_FILES; lower it there"]),
    ],
)
def test_lines_of_a_long_file_only_fall(tool: ModuleType, lines: int, wrong: list[str]) -> None:
    violations = tool.length_violations(Path("zoo.py"), "tests/zoo.py", lines)
    assert [violation.message for violation in violations] == wrong
