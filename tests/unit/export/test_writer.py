"""Both writers take what the pipeline hands over."""

from __future__ import annotations

import inspect

import pytest

from autoround.export.gguf_writer import GgufWriter
from autoround.export.safetensors_writer import SafetensorsWriter
from autoround.export.writer import OutputWriter

METHODS = [name for name in vars(OutputWriter) if not name.startswith("_") and name != "check"]


@pytest.mark.parametrize("kind", [SafetensorsWriter, GgufWriter])
def test_a_writer_is_called_as_the_pipeline_calls_it(kind: type) -> None:
    assert {"add", "complete", "publish"} <= set(METHODS)
    for name in METHODS:
        wanted = inspect.signature(getattr(OutputWriter, name))
        assert inspect.signature(getattr(kind, name)) == wanted, name
