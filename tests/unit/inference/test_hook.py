"""Our quantizer is registered with transformers, now or when that is imported."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from autoround.inference import hf_quantizer, hook


def waiting() -> list[Any]:
    return [f for f in sys.meta_path if getattr(f, "target", "") == hook.TARGET]


def tables() -> Any:
    made: Any = ModuleType(hook.TARGET)
    made.AUTO_QUANTIZER_MAPPING = {}
    made.AUTO_QUANTIZATION_CONFIG_MAPPING = {}
    return made


def test_tables_that_are_there_are_filled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tables()
    monkeypatch.setitem(sys.modules, hook.TARGET, made)
    hook.install()
    hook.install()
    assert {hf_quantizer.METHOD: hf_quantizer.AutoRoundQuantizer} == made.AUTO_QUANTIZER_MAPPING
    assert waiting() == []


def test_a_module_that_is_not_there_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, hook.TARGET, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    hook.install()
    hook.install()
    assert len(waiting()) == 1
    assert importlib.util.find_spec("json") is not None
    assert len(waiting()) == 1
    spec = importlib.util.find_spec(hook.TARGET)
    assert waiting() == []
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    own = spec.loader
    own.exec_module(module)
    assert module.AUTO_QUANTIZER_MAPPING["auto-round"] is hf_quantizer.AutoRoundQuantizer
    # The module is as if nobody had waited: its own loader stands in it.
    assert module.__spec__.loader is not own
    assert type(module.__loader__).__module__ != hook.__name__


@pytest.fixture
def left_to_us() -> Iterator[None]:
    yield
    hook.use_for_transformers()


def test_it_can_be_switched_off_and_on_again(
    monkeypatch: pytest.MonkeyPatch, left_to_us: None
) -> None:
    made = tables()
    theirs = object()
    made.AUTO_QUANTIZER_MAPPING[hf_quantizer.METHOD] = theirs
    made.AUTO_QUANTIZATION_CONFIG_MAPPING[hf_quantizer.METHOD] = theirs
    made.AutoRoundConfig = theirs
    monkeypatch.setitem(sys.modules, hook.TARGET, made)
    hook.use_for_transformers()
    assert made.AutoRoundConfig is hf_quantizer.AutoRoundConfig
    for _ in range(2):
        hook.use_for_transformers(False)
        hook.install()  # as importing autoround or AutoRoundConfig does
        assert {hf_quantizer.METHOD: theirs} == made.AUTO_QUANTIZER_MAPPING
        assert {hf_quantizer.METHOD: theirs} == made.AUTO_QUANTIZATION_CONFIG_MAPPING
        assert made.AutoRoundConfig is theirs
    hook.use_for_transformers(True)
    assert {hf_quantizer.METHOD: hf_quantizer.AutoRoundQuantizer} == made.AUTO_QUANTIZER_MAPPING


def test_it_can_be_switched_off_before_transformers_is_imported(
    monkeypatch: pytest.MonkeyPatch, left_to_us: None
) -> None:
    monkeypatch.delitem(sys.modules, hook.TARGET, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    hook.install()
    assert len(waiting()) == 1
    hook.use_for_transformers(False)
    assert waiting() == []
    hook.use_for_transformers()
    assert len(waiting()) == 1


def test_peft_is_waited_for_and_not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = [name for name in hook.ADDITIONS if name.startswith("peft.")]
    for name in modules:
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    hook.install()
    assert {getattr(f, "target", "") for f in sys.meta_path} >= set(modules)
    assert not set(modules) & set(sys.modules)


def test_a_transformers_that_is_too_different_stays_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: Any = ModuleType(hook.TARGET)
    made.AUTO_QUANTIZER_MAPPING = None
    monkeypatch.setitem(sys.modules, hook.TARGET, made)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        hook.install()
    assert "transformers will not load auto-round checkpoints by itself" in str(caught[0].message)
    assert "autoround.load still does" in str(caught[0].message)
