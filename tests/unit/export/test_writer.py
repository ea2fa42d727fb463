"""Both writers take what the pipeline hands over."""

from __future__ import annotations

import inspect
from collections.abc import Callable

import pytest

from autoround.export.gguf_writer import GgufWriter
from autoround.export.safetensors_writer import SafetensorsWriter
from autoround.export.writer import OutputWriter

METHODS = [name for name in vars(OutputWriter) if not name.startswith("_") and name != "check"]


@pytest.mark.parametrize("kind", [SafetensorsWriter, GgufWriter])
def test_a_writer_is_called_as_the_pipeline_calls_it(kind: type) -> None:
    assert {"add", "complete", "publish"} <= set(METHODS)
    for name in METHODS:
        wanted, own = (function_of(holder, name) for holder in (OutputWriter, kind))
        assert inspect.signature(own) == inspect.signature(wanted), name


def function_of(holder: type, name: str) -> Callable[..., object]:
    """Return a method of a class, or what reads a property of it."""
    member = getattr(holder, name)
    return member.fget if isinstance(member, property) else member  # type: ignore[return-value]
