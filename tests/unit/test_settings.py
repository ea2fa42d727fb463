"""Hyperparameters with every ``auto`` settled."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest

from autoround.settings import GPTQ, UNTUNED, EndToEndSettings, LayerTuning, TuningSettings

OWN = LayerTuning(GPTQ, 0.5)


def test_a_layer_has_its_own_settings_or_those_of_all() -> None:
    settings = TuningSettings(default=LayerTuning(lr=0.25), layers=(("a", OWN),))
    assert settings.layer("a") == OWN
    assert settings.layer("b") == LayerTuning("nearest", 0.25)


@pytest.mark.parametrize(
    ("settings", "uses"),
    [
        (TuningSettings(), False),
        (TuningSettings(default=OWN), True),
        (TuningSettings(layers=(("a", OWN),)), True),
        (TuningSettings(layers=(("a", LayerTuning()),)), False),
    ],
)
def test_gptq_is_used_where_any_layer_begins_so(settings: TuningSettings, uses: bool) -> None:
    assert settings.uses_gptq == uses


def test_rates_of_scales_go_by_the_bits_of_a_grid() -> None:
    settings = EndToEndSettings(steps=3, lrs=((2, 0.008), (4, 0.001)))
    assert (settings.lr(2), settings.lr(4)) == (0.008, 0.001)
    with pytest.raises(KeyError):
        settings.lr(3)


def test_what_is_only_described_is_not_tuned() -> None:
    assert UNTUNED.iters == UNTUNED.end_to_end.steps == 0
    assert not UNTUNED.needs_data
    assert TuningSettings() == UNTUNED
    assert replace(UNTUNED, iters=1) != UNTUNED
    # Plans are written as JSON, settings and all.
    assert asdict(UNTUNED)["end_to_end"]["steps"] == 0
