from __future__ import annotations

import json
from pathlib import Path

import pytest

from autoround.errors import ModelError
from autoround.report import folder as folders
from autoround.report.folder import number, output_folders, read_folder
from autoround.storage.json_text import to_json

from ._runs import run_folder, write_folder


def test_what_was_written_is_read(tmp_path: Path) -> None:
    run, made = run_folder(), write_folder(tmp_path / "out")
    read = read_folder(made)
    assert (read.plan, read.results, read.recipe) == (run.plan, run.results, run.recipe)
    assert read.run == json.loads(to_json(run.run)), "tuples are lists there"
    assert (read.evaluation, read.allocation) == (run.evaluation, {})
    assert read.weight_bytes == 1000


def test_a_plan_is_enough(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text('{"blocks": []}')
    assert read_folder(tmp_path).run == {}


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"blocks": 1}', "{", "[" * 10**5, '"\ud800"'])
def test_a_damaged_plan_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(text, errors="surrogatepass")
    with pytest.raises(ModelError, match=r"plan\.json (is damaged|cannot be read)"):
        read_folder(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "evaluation.json", "report.jsonl", "allocation.json"])
def test_another_damaged_file_is_named(name: str, tmp_path: Path) -> None:
    (write_folder(tmp_path / "out") / name).write_text("{")
    with pytest.raises(ModelError, match=f"{name} is damaged"):
        read_folder(tmp_path / "out")


def test_files_that_no_run_wrote_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folders, "MAX_BYTES", 1 << 20)
    (write_folder(tmp_path / "out") / "run.json").write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(ModelError, match="larger than 1 MiB"):
        read_folder(tmp_path / "out")


def test_a_folder_of_formats_is_all_of_them(tmp_path: Path) -> None:
    one, two = (write_folder(tmp_path / "both" / name) for name in ("a", "b"))
    assert output_folders(tmp_path / "both") == [one, two]
    assert output_folders(one) == [one]
    (one / "m.gguf").write_bytes(b"")
    assert output_folders(one / "m.gguf") == [one]
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ModelError, match="autoround quantize"):
            output_folders(place)


@pytest.mark.parametrize("value", [None, True, "1", [1], {}, float("nan"), float("inf"), 10**400])
def test_what_is_no_number_is_none(value: object) -> None:
    assert number({"a": {"b": value}}, "a", "b") is None
    assert number({"a": value}, "a", "b") is None
    assert number({"a": {"b": 2}}, "a", "b") == 2.0
