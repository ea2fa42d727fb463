"""Every format opens its writer, and what goes with a model is written whatever its weights."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autoround.errors import FormatError
from autoround.export.gguf_writer import GgufWriter
from autoround.export.open_writer import WRITERS, OutputTarget, check_metadata, open_writer
from autoround.export.safetensors_writer import SafetensorsWriter
from autoround.formats.registry import format_of, registry
from autoround.model.skeleton import adopt_model, open_model
from autoround.session.session import Session
from autoround.types import OutputPlan

from ...runs import NEAREST, make_session
from ...tiny import make_byte_tokenizer, make_model, make_tokenizer, write_checkpoint


def session(formats: str, model: Any = None) -> Session:
    values = {**NEAREST, "output.format": formats, "output.dtype": "auto"}
    return make_session(make_model("llama") if model is None else model, values)


def files(folder: Path, formats: str, model: Any = None, tokenizer: Any = None) -> set[str]:
    """Return the files that are there as soon as a writer is opened."""
    job = session(formats, model)
    (part,) = job.plan.outputs
    with ExitStack() as stack:
        target = OutputTarget(folder / "out", stack, tokenizer, 1 << 30)
        open_writer(job, part, target)
        return {path.name for path in (folder / "out.partial").iterdir()}


def test_the_word_of_every_format_is_that_of_a_writer() -> None:
    parts = [OutputPlan(name, name, "float16") for name in registry().formats]
    assert parts
    assert {format_of(part).writer for part in parts} <= set(WRITERS)


@pytest.mark.parametrize(
    ("formats", "kind"), [("auto_round", SafetensorsWriter), ("gguf:q8_0", GgufWriter)]
)
def test_a_format_has_its_writer_in_a_folder_of_its_own(
    formats: str, kind: type, tmp_path: Path
) -> None:
    job = session(formats)
    part = replace(job.plan.outputs[0], folder="own")
    with ExitStack() as stack:
        target = OutputTarget(tmp_path, stack, make_byte_tokenizer(), 1 << 30)
        writer = open_writer(job, part, target)
        assert type(writer) is kind
        assert [path.name for path in tmp_path.iterdir()] == ["own.partial"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("formats", ["auto_round", "gguf:q8_0"])
def test_side_files_of_a_folder_are_copied_and_those_of_a_model_in_memory_made(
    formats: str, tmp_path: Path
) -> None:
    tokenizer = make_byte_tokenizer()
    source = write_checkpoint("llama", tmp_path / "source")
    make_tokenizer().save_pretrained(source)
    (source / "LICENSE").write_text("free")
    copied = files(tmp_path, formats, open_model(source), tokenizer)
    assert {"LICENSE", "tokenizer.json", "generation_config.json"} <= copied
    made = files(tmp_path, formats, adopt_model(make_model("llama")), tokenizer)
    assert {"tokenizer.json", "generation_config.json"} <= made
    assert "LICENSE" not in made
    assert "config.json" not in copied | made


def test_a_model_in_memory_may_go_without_a_tokenizer(tmp_path: Path) -> None:
    found = files(tmp_path, "auto_round")
    assert "generation_config.json" in found
    assert not any("tokenizer" in name for name in found)


def test_a_tokenizer_that_a_file_cannot_express_is_refused_before_work() -> None:
    job = session("auto_round,gguf:q8_0")
    assert len(job.plan.passes) == 2
    for plan in (job.plan, session("gguf:q8_0").plan):
        check_metadata(plan, job.skeleton, make_byte_tokenizer())
        with pytest.raises(FormatError, match="tokenizer"):
            check_metadata(plan, job.skeleton, object())
    check_metadata(session("auto_round").plan, job.skeleton, object())
