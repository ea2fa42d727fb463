"""Nothing that is read is run: no pickle, no code of models, no eval, in any module here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("autoround", "backends", "examples", "tools")
#: Modules that make objects of bytes by running what these say.
MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve")
#: Functions that run what they are given, or unpickle it.
CALLS = (
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen"),
    *("torch.load", "yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"),
    *("pd.read_pickle", "pandas.read_pickle", "torch.hub.load", "torch.package.PackageImporter"),
)
#: Arguments that must not be true.
FLAGS = ("trust_remote_code", "allow_pickle", "shell", "unsafe")
#: (file, what is found) -> why it may be there.
EXCEPTIONS: dict[tuple[str, str], str] = {}


def found_in(source: str) -> Iterator[str]:
    """Yield what of the above a module does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            module = node.module or ""
            names = (f"{module}.{alias.name}" for alias in node.names)
            yield from (n for n in names if n in CALLS or module.partition(".")[0] in MODULES)
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in CALLS:
                yield name
            for keyword in node.keywords:
                said = isinstance(keyword.value, ast.Constant) and not keyword.value.value
                if keyword.arg in FLAGS and not said:
                    yield f"{keyword.arg}={ast.unparse(keyword.value)}"
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                said = isinstance(value, ast.Constant) and not value.value
                if isinstance(key, ast.Constant) and key.value in FLAGS and not said:
                    yield f"{key.value}: {ast.unparse(value)}"


def files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def test_no_module_runs_what_it_reads() -> None:
    assert len(files()) > 300
    bad = {
        (path.relative_to(ROOT).as_posix(), found)
        for path in files()
        for found in found_in(path.read_text("utf-8"))
    }
    assert bad == EXCEPTIONS.keys()
    assert all(EXCEPTIONS.values())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import pickle", ["pickle"]),
        ("from dill import loads", ["dill.loads"]),
        ("from torch import load", ["torch.load"]),
        ("torch.load(path, weights_only=True)", ["torch.load"]),
        ("np.load(path, allow_pickle=True)", ["allow_pickle=True"]),
        ("A.from_pretrained(x, trust_remote_code=wanted)", ["trust_remote_code=wanted"]),
        ("f(**{'trust_remote_code': True})", ["trust_remote_code: True"]),
        ("eval(text)", ["eval"]),
        ("subprocess.run(text, shell=True)", ["shell=True"]),
        ("yaml.load(text, Loader=yaml.Loader)", ["yaml.load"]),
        ("A.from_pretrained(x, trust_remote_code=False)\nmodel.eval()\nre.compile(x)", []),
        ("yaml.safe_load(text)\nnp.load(path)\nsafetensors.torch.load(data)", []),
    ],
)
def test_the_check_finds_what_it_looks_for(source: str, found: list[str]) -> None:
    assert list(found_in(source)) == found
