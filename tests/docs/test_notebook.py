"""The notebook runs from its first cell to its last: on a tiny model, and as it is (slow)."""

from __future__ import annotations

import contextlib
import io
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from autoround.model.files import embedded

from ..quick import write_wide_model
from ..runs import even_device
from .pages import ROOT

__all__ = ["even_device"]
NOTEBOOK = ROOT / "examples" / "first_model.ipynb"
CELLS = json.loads(NOTEBOOK.read_text("utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_cells_run_one_after_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, even_device: None
) -> None:
    model = write_wide_model(tmp_path / "model")
    monkeypatch.setattr("autoround.request.embedded_model", lambda: model)
    monkeypatch.setattr(embedded, "embedded_model", lambda: model)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    names: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        for code in CODE:
            exec(compile(code, NOTEBOOK.name, "exec"), names)
    assert "1 blocks, 7 layers in each" in printed.getvalue()
    folder = names["folder"]
    assert isinstance(folder, Path)
    assert folder.parent == tmp_path
    assert (folder / "out" / "report.html").is_file()


def test_it_shows_what_its_cells_printed() -> None:
    shown = ["".join(output["text"]) for cell in CELLS for output in cell.get("outputs", [])]
    assert len(shown) == sum("print(" in code for code in CODE)
    assert all(cell["execution_count"] for cell in CELLS if cell["cell_type"] == "code")
    assert "/tmp" not in NOTEBOOK.read_text("utf-8")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("nbclient") is None, reason="the extra 'notebook' is not installed")
@pytest.mark.skipif(find_spec(embedded.MODULE) is None, reason="the embedded model is not here")
def test_it_runs_in_a_kernel() -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    NotebookClient(notebook, timeout=900, kernel_name="python3").execute()
    printed = ["".join(o.get("text", "")) for c in notebook.cells for o in c.get("outputs", [])]
    assert any("30 blocks" in text for text in printed)
